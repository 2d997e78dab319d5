"""Files from before the move into packages: a job begun then continues, and an export made then answers as it did.

``golden/before_move/README.md`` says how they were made.
"""

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest

from tests.helpers.commands import answer
from tests.helpers.jobs import float32_policy, lines_of, result_of  # noqa: F401
from trainer import evaluate, predict, train

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "before_move"
STOPPED_AT = 5
PROBABILITY = {"abs": 1e-5, "rel": 0}
LOSS = {"abs": 1e-4, "rel": 0}


@pytest.fixture(scope="module")
def before(tmp_path_factory):
    """Return a folder with data, job_before_move and export_before_move; read only."""
    folder = tmp_path_factory.mktemp("before_move")
    with tarfile.open(GOLDEN / "before_move.tar.xz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture
def job(before, tmp_path):
    """Return a copy of the job_dir."""
    return Path(shutil.copytree(before / "job_before_move", tmp_path / "job"))


def resume(capsys, before, job, *words):
    """Continue the job where it lies now: neither data_dir nor job_dir is what its config.json names."""
    places = [f"--config={job / 'config.json'}", f"--data_dir={before / 'data'}", f"--job_dir={job}"]
    return answer(capsys, train.main, *places, *words)


def csv_rows(text):
    return list(csv.DictReader(io.StringIO(text)))


def expected_predictions():
    """Return label and p_fake by path below data_dir."""
    rows = csv_rows((GOLDEN / "predictions.csv").read_text())
    return {row["path"].removeprefix("data/"): (row["label"], float(row["p_fake"])) for row in rows}


@pytest.mark.slow
def test_a_job_begun_before_the_move_continues(before, job, capsys):
    old_lines = (job / "metrics.jsonl").read_text()
    code, _, err = resume(capsys, before, job, "--resume=required")
    assert code == 0, err
    new_lines = (job / "metrics.jsonl").read_text()
    assert new_lines.startswith(old_lines)
    start = json.loads(new_lines.removeprefix(old_lines).splitlines()[0])
    assert (start["kind"], start["step"]) == ("start", STOPPED_AT)
    assert [line["step"] for line in lines_of(job, "train")] == list(range(1, 10))
    result = result_of(job)
    assert (result["status"], result["stopped_by"], result["step"]) == ("done", "epochs", 9)


@pytest.mark.slow
def test_the_continued_job_computes_what_the_old_code_computed(before, job, capsys):
    assert resume(capsys, before, job)[0] == 0
    expected = [json.loads(line) for line in (GOLDEN / "continued.jsonl").read_text().splitlines()]
    received = [line for line in lines_of(job, "train", "validation") if line["step"] > STOPPED_AT]
    assert len(received) == len(expected)
    for now, then in zip(received, expected, strict=True):
        assert now.keys() >= then.keys()  # Later versions log more.
        assert (now["kind"], now["step"], now["epoch"]) == (then["kind"], then["step"], then["epoch"])
        name = "loss" if then["kind"] == "train" else "val_loss"
        assert now[name] == pytest.approx(then[name], **LOSS), then


# What was on the job's own command line.
OLD_FLAGS = ("--image_size=46", "--batch_size=4", "--epochs=3", "--augment=none", "--dropout=0.5", "--optimizer=sgd",
             "--learning_rate=0.01", "--log_every_steps=1", "--precision=float32", "--num_devices=1",
             "--keep_checkpoints=1", "--export=none")  # fmt: skip


@pytest.mark.slow
def test_it_goes_on_as_it_was_in_every_later_start(before, job, capsys):
    """Settings that are newer than the job have other defaults by now, such as --interpolation."""
    for _ in range(2):
        code, _, err = answer(capsys, train.main, f"--data_dir={before / 'data'}", f"--job_dir={job}",
                              *OLD_FLAGS, "--max_seconds=0.001")  # fmt: skip
        assert code == 75, err
        assert "interpolation" not in json.loads((job / "config.json").read_text())


def flip_a_byte(job, step):
    path = job / "checkpoints" / f"{step:010d}" / "arrays.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_is_noticed(before, job, capsys):
    flip_a_byte(job, 5)
    assert resume(capsys, before, job, "--max_seconds=0.001")[0] == 75
    assert lines_of(job, "start")[-1]["step"] == 3


def test_a_job_with_damaged_checkpoints_alone_is_refused(before, job, capsys):
    flip_a_byte(job, 3)
    flip_a_byte(job, 5)
    code, _, err = resume(capsys, before, job)
    assert code == 2
    assert "2 damaged" in err


def test_an_export_made_before_the_move_predicts_the_same(before, tmp_path, capsys):
    out = tmp_path / "rows.csv"
    code, _, err = answer(capsys, predict.main, f"--model_dir={before / 'export_before_move'}",
                          before / "data" / "Test", f"--out={out}")  # fmt: skip
    assert code == 0, err
    rows = {row["path"].removeprefix(f"{before}/data/"): row for row in csv_rows(out.read_text())}
    expected = expected_predictions()
    assert rows.keys() == expected.keys()
    for path, (label, p_fake) in expected.items():
        assert rows[path]["label"] == label
        assert float(rows[path]["p_fake"]) == pytest.approx(p_fake, **PROBABILITY), path


@pytest.mark.slow
def test_an_export_made_before_the_move_is_evaluated_the_same(before, tmp_path, capsys):
    code, _, err = answer(capsys, evaluate.main, f"--model_dir={before / 'export_before_move'}",
                          f"--data_dir={before / 'data'}", f"--out={tmp_path}", "--bootstrap=0")  # fmt: skip
    assert code == 0, err
    expected = expected_predictions()
    for row in csv_rows((tmp_path / "predictions.csv").read_text()):
        assert float(row["p_fake"]) == pytest.approx(expected[row["path"]][1], **PROBABILITY), row
    measured = json.loads((tmp_path / "metrics.json").read_text())
    right = sum(path.split("/")[1] == label for path, (label, _) in expected.items())
    assert (measured["n"], measured["accuracy"]) == (8, right / 8)
    assert measured["model"]["step"] == 3
