"""Ctrl-C and the other stop signals at the n-th file of a command: one line, exit code 75, and what is done is kept."""

import csv
import itertools
import json
import signal
import threading
from concurrent.futures import CancelledError

import pytest

from tests.helpers import faults
from tests.helpers.commands import answer
from tests.helpers.jobs import result_of, run_job
from tests.helpers.tiny_export import write_export, write_image
from trainer import evaluate, predict, prepare_data
from trainer.data import manifest
from trainer.data.pack import writer
from trainer.data.pack.request import PackFlags

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
COUNT = 8  # Images of a class.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for split, (label, red) in itertools.product(("Train", "Test"), (("Fake", 200), ("Real", 40))):
        for number in range(COUNT):
            write_image(folder / split / label / f"{number}.png", (red + number, 90, 120 + number))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("model") / "1", ["Fake", "Real"])


def tree(folder):
    """Return all files of a folder by name, without what depends on the clock."""
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: len(content) if name.endswith((".html", ".json")) else content for name, content in files.items()}


def interrupted(capsys, main, words, **fault):
    """Run a command that is interrupted, and return its last line; only those about the data may come before it."""
    with faults.injected(signal=int(signal.SIGINT), **fault) as injected:
        code, out, err = answer(capsys, main, *words)
    assert injected.seen >= injected.first
    *before, line = err.splitlines()
    assert (code, out) == (75, "")
    assert all(each.startswith(("Train:", "Test:")) for each in before), err
    assert line.startswith("stopped: SIGINT")
    return line


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "first"), [("rows.csv", 1), ("rows.csv", 2), ("rows.csv", 4), ("rows.jsonl", 1), ("rows.jsonl", 4)]
)
def test_predict_keeps_whole_rows(capsys, data, model, tmp_path, name, first):
    out = tmp_path / name
    words = [f"--model_dir={model}", f"--out={out}", "--batch_size=4", data / "Test"]
    # At each write of rows: the first one makes the file, the others append to it.
    line = interrupted(capsys, predict.main, words, path=f"*/{name}*", mode="w", first=first)
    if out.exists():
        text = out.read_text()
        rows = list(csv.DictReader(text.splitlines())) if name.endswith("csv") else text.splitlines()
        assert 0 < len(rows) < 2 * COUNT or first == 4
        assert f"the first {len(rows)} rows are in {out}" in line
    interrupted_rows = out.read_text() if out.exists() else ""
    assert answer(capsys, predict.main, *words)[0] == 0
    assert out.read_text().startswith(interrupted_rows)
    assert len(out.read_text().splitlines()) == 2 * COUNT + name.endswith("csv")


@pytest.mark.parametrize(
    "first", [11, *(pytest.param(first, marks=pytest.mark.slow) for first in range(1, 2 * COUNT, 5) if first != 11)]
)
def test_predict_stops_while_it_reads(capsys, data, model, tmp_path, first):
    out = tmp_path / "rows.jsonl"
    words = [f"--model_dir={model}", f"--out={out}", "--batch_size=2", data / "Test"]
    line = interrupted(capsys, predict.main, words, path="*.png", first=first)
    rows = [json.loads(text) for text in out.read_text().splitlines()] if out.exists() else []
    assert len(rows) < 2 * COUNT
    assert (f"the first {len(rows)} rows" if rows else "before the first row") in line


@pytest.mark.slow
def test_a_table_shows_what_is_done(capsys, data, model):
    words = [f"--model_dir={model}", "--batch_size=2", data / "Test"]
    with faults.injected(signal=int(signal.SIGTERM), path="*.png", first=2 * COUNT):
        code, out, err = answer(capsys, predict.main, *words)
    assert code == 75
    assert err.startswith("stopped: SIGTERM; the first") or "before the first row" in err
    assert out == "" or out.splitlines()[0].split() == ["label", "p_fake", "path"]


@pytest.mark.slow
@pytest.mark.parametrize("first", [1, 7, 13])
def test_evaluate_leaves_nothing_half_written(capsys, data, model, tmp_path, first):
    out = tmp_path / "out"
    words = [f"--model_dir={model}", f"--data_dir={data}", f"--out={out}", "--split=Test", "--bootstrap=0"]
    interrupted(capsys, evaluate.main, words, path="*/Test/*.png", first=first)
    assert tree(out) == {}


@pytest.mark.parametrize("first", [1, 9, 30])
def test_audit_leaves_nothing_half_written(capsys, data, tmp_path, first):
    out = tmp_path / "out"
    words = ["audit", f"--data_dir={data}", f"--out={out}", "--workers=1"]
    interrupted(capsys, prepare_data.main, words, path="*.png", first=first)
    assert tree(out) == {}


def test_pack_continues_what_was_interrupted_at_each_write(capsys, data, tmp_path):
    def words(out):
        return ["pack", f"--data_dir={data}", f"--out={out}", "--images_per_shard=4", "--workers=1"]

    assert answer(capsys, prepare_data.main, *words(tmp_path / "one"))[0] == 0
    out = tmp_path / "out"  # As long a name: it is in pack.json.
    for first in itertools.count(1):
        with faults.injected(signal=int(signal.SIGINT), path=f"{out}/*", mode="w", first=first) as fault:
            code, _, err = answer(capsys, prepare_data.main, *words(out))
        if fault.seen < first:
            break
        assert (code, err.splitlines()[-1]) == (75, "stopped: SIGINT; rerun the same command")
    assert code == 0
    assert first > 4
    assert tree(out) == tree(tmp_path / "one")


def test_pack_leaves_a_shard_unfinished_after_a_signal(data, tmp_path):
    request = PackFlags(data_dir=str(data), out=str(tmp_path))
    (shard, *_) = writer._shards(manifest.read_all_splits(str(data)), 4)
    stop = threading.Event()
    assert writer._build(shard, request, stop)[1].names
    stop.set()
    with pytest.raises(CancelledError):
        writer._build(shard, request, stop)


@pytest.mark.slow
@pytest.mark.parametrize("first", [40, 400])
def test_an_interrupted_import_of_tensorflow_is_one_line(data, model, first):
    fault = {"signal": int(signal.SIGINT), "path": "*/tensorflow/*", "first": first}
    env = {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONDONTWRITEBYTECODE": "1"}
    done = faults.run("trainer.predict", f"--model_dir={model}", data / "Test", fault=fault, env=env)
    assert (done.returncode, done.stdout) == (75, "")
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("I0000 ", "WARNING: "))]  # TensorFlow's.
    assert lines == ["stopped: SIGINT; before the first row; rerun the same command to score all"]


@pytest.mark.slow
def test_a_job_that_each_signal_stops_at_some_file_ends_with_the_same_weights(image_set, tmp_path):
    job = {"epochs": 1, "steps_per_epoch": 2, "checkpoint_every_steps": 1}
    assert run_job(image_set, tmp_path / "undisturbed", **job) == 0
    codes = []
    for number, first in zip(STOPS, (1, 4, 8, 12, 16, 20), strict=True):
        with faults.injected(signal=int(number), path=f"{tmp_path}/job/*", first=first):
            codes.append(run_job(image_set, tmp_path / "job", **job, max_restarts_without_progress=0))
    assert set(codes) <= {0, 75}
    assert codes.count(75) > 2
    assert run_job(image_set, tmp_path / "job", **job) == 0
    weights = [result_of(tmp_path / name)["weights_sha256"] for name in ("job", "undisturbed")]
    assert weights[0] == weights[1]
