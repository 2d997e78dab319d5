"""What the commands write is fit for use where it lies: exports, tables, lines on the terminal."""

import csv
import errno
import io
import logging
import os
import shutil
from pathlib import Path

import pytest

from tests.helpers import faults
from tests.helpers.commands import answer, refusal
from tests.helpers.fake_gcs import request_of, upload
from tests.helpers.tiny_export import write_export, write_image
from trainer import evaluate, export, predict, train, tune
from trainer.core import cli, tables, terminal
from trainer.core.errors import JobFailed, RequestError, StoppedEarly
from trainer.core.storage import files
from trainer.evaluation import predictions
from trainer.reports import html

SPECIAL = ("run[1]", "a\\b", "what?", "all*", os.fsdecode(b"caf\xe9"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("model") / "1", ["Fake", "Real"])


# Exports in folders that TensorFlow takes as patterns.


@pytest.mark.parametrize("name", ["run[1]", pytest.param(SPECIAL[-1], marks=pytest.mark.slow)])
def test_an_export_in_a_folder_with_special_characters_is_loaded(model, name, tmp_path, capsys):
    there = shutil.copytree(model, tmp_path / name / "1")
    write_image(tmp_path / "image.png", (255, 0, 0))
    code, printed, err = answer(capsys, predict.main, tmp_path / "image.png", f"--model_dir={there.parent}")
    assert (code, printed.splitlines()[1].split()[:2]) == (0, ["Fake", "1.0000"]), err


@pytest.mark.parametrize("name", SPECIAL)
def test_a_job_whose_export_could_not_be_loaded_is_refused_at_its_start(name, image_set, tmp_path, capsys):
    for command, *words in ((train.main,), (tune.main, "--max_trials=1")):
        folder = tmp_path / "deep" / name
        line = refusal(capsys, command, f"--data_dir={image_set}", f"--job_dir={folder}", *words)
        assert "--job_dir: expected a path without" in line
        assert "rename the folder" in line
        assert not list(folder.glob("checkpoints/*"))
    assert "--out: expected" in refusal(capsys, export.main, f"--job_dir={tmp_path}", f"--out={tmp_path / name}")


# Names in tables: exact for every reader, and never a formula.

ESCAPE = "\x1b]0;owned\x07.png"  # Sets a terminal's title.
BIDI = "a\u202egnp.exe"  # Shown from right to left.
NAMES = ["Icon\r", "line\nfeed", "tab\there", 'quote",comma', "'apostrophe", " space ", os.fsdecode(b"caf\xe9"),
         r"caf\xe9", r"caf\x5cxe9", "=1+1", "+a", "-a", "@a", "'=b", ESCAPE, BIDI]  # fmt: skip


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_bytes().decode("utf-8"), newline="")))


def test_paths_of_predictions_name_the_same_files(model, tmp_path, capsys, monkeypatch):
    """Relative paths are the ones that can begin like a formula; a dot in front changes nothing."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(NAMES):
        write_image(tmp_path / name, (number, 0, 0))
    words = [f"./{name}" if name.startswith("-") else name for name in NAMES]  # It is no flag.
    out = tmp_path / "out" / "rows.csv"
    assert answer(capsys, predict.main, *words, f"--model_dir={model}", f"--out={out}")[0] == 0
    rows = rows_of(out)
    written = [files.printable(name) for name in NAMES]
    assert [round(float(row["p_fake"]) * 255) for row in rows] == list(range(len(NAMES)))
    assert [row["path"].removeprefix("./") for row in rows] == written
    assert not any(row["path"][0] in "=+-@\t\r" for row in rows)
    assert all(os.path.exists(row["path"]) for row in rows if "\\" not in row["path"])


@pytest.mark.slow
def test_evaluations_read_their_own_tables_whatever_the_names(model, tmp_path, capsys):
    for number, name in enumerate(NAMES):
        for kind in ("Fake", "Real"):
            write_image(
                tmp_path / "data" / "Test" / kind / f"{name}.png", (255 - number if kind == "Fake" else number, 0, 0)
            )
    for out in ("one", "two"):
        words = [f"--model_dir={model}", f"--data_dir={tmp_path}/data", "--bootstrap=0", f"--out={tmp_path / out}"]
        assert answer(capsys, evaluate.main, *words)[0] == 0
    code, printed, err = answer(
        capsys, evaluate.main, f"--compare={tmp_path}/one,{tmp_path}/two", f"--out={tmp_path}/both", "--bootstrap=0"
    )
    assert code == 0, err
    assert f"{2 * len(NAMES)} images" in printed
    paths, _ = predictions.from_csv(
        (tmp_path / "one/predictions.csv").read_bytes().decode(), ["Fake", "Real"], "Fake", 0.5
    )
    assert len(set(paths)) == 2 * len(NAMES)
    assert set(paths) == {files.printable(f"Test/{kind}/{name}.png") for name in NAMES for kind in ("Fake", "Real")}
    for page in (tmp_path / "one/report.html", tmp_path / "both/compare.html"):
        assert not terminal._UNSAFE.search(page.read_text(encoding="utf-8").replace("\r", ""))


@pytest.mark.parametrize(
    "text", [*(name for name in NAMES if name.isprintable()), "''=", "'", "", "\t=", "\r", "-1", "+2.5"]
)
def test_a_cell_is_no_formula_and_comes_back(text):
    (cells,) = csv.reader(io.StringIO(tables.csv_line([text, 1.5, None, "x"]), newline=""))
    assert cells[1:] == ["1.5", "", "x"]
    assert tables.unguarded(cells[0]) == text
    assert cells[0][:1] not in list("=+-@\t\r") or cells[0] in ("-1", "+2.5")


def test_class_names_like_formulas_come_back():
    names = ["=Fake", "'=Fake", "@x"]
    some = predictions.Predictions.of([0, 1, 2], [[0.5, 0.3, 0.2]] * 3, names, 0, 0.5)
    paths, back = predictions.from_csv(predictions.to_csv(some, ["a", "b", "c"]), names, "=Fake", 0.5)
    assert (paths, back.labels.tolist()) == (["a", "b", "c"], [0, 1, 2])


def test_different_names_are_written_differently():
    written = [files.printable(name) for name in NAMES]
    assert len(set(written)) == len(NAMES)
    assert [name.encode() for name in written]


# Names on the terminal.


@pytest.mark.slow
def test_a_table_on_the_terminal_obeys_no_name(model, tmp_path, capsys):
    for name in (ESCAPE, BIDI, "line\nfeed", os.fsdecode(b"caf\xe9")):
        write_image(tmp_path / name, (255, 0, 0))
    (tmp_path / "\x1b[2Jbroken.png").write_bytes(b"no image")
    code, printed, err = answer(capsys, predict.main, tmp_path, f"--model_dir={model}")
    assert code == 1
    assert not terminal._UNSAFE.search(printed + err)
    assert printed.count("\n") == 6
    for shown in (r"\x1b]0;owned\x07.png", r"a\u202egnp.exe", r"line\x0afeed", r"caf\xe9", r"\x1b[2Jbroken.png"):
        assert shown in printed


@pytest.mark.parametrize("error", [RequestError, JobFailed, StoppedEarly])
def test_errors_and_the_log_obey_no_name(error, capsys):
    def command(argv):
        logging.getLogger("trainer.test").warning("about %s", ESCAPE)
        raise error(f"about {ESCAPE} and {BIDI}")

    assert cli.run_command(command, []) > 0
    err = capsys.readouterr().err
    assert not terminal._UNSAFE.search(err)
    assert err.count(r"\x1b]0;owned\x07") == 2


def test_pages_obey_no_name():
    page = html.templates().from_string("{{ name }}|{{ name | safe }}").render(name=f"<{BIDI}>")
    assert page.split("|")[0] == r"&lt;a\u202egnp.exe&gt;"


# Files that may not be read.


def forbid(gcs_server, path):
    return gcs_server.fault(match=f"GET .*{request_of(path)}", status=403, message="Access denied: storage.objects.get")


@pytest.mark.slow
def test_one_object_that_may_not_be_read_costs_its_row_only(model, bucket, gcs_server, tmp_path, capsys):
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"{name}.png", (255, 0, 0))
    upload(tmp_path, f"{bucket}/images")
    out = tmp_path / "rows.csv"
    for words in ([f"{bucket}/images"], [f"{bucket}/images/{name}.png" for name in "abc"]):
        with forbid(gcs_server, f"{bucket}/images/b.png"):
            code, _, err = answer(capsys, predict.main, *words, f"--model_dir={model}", f"--out={out}")
        assert (code, "1 of 3 images could not be scored" in err) == (1, True)
        rows = {os.path.basename(row["path"]): row for row in rows_of(out)}
        assert [rows[f"{name}.png"]["label"] for name in "abc"] == ["Fake", "", "Fake"]
        assert "403" in rows["b.png"]["error"]
        assert "storage.objects.get" in rows["b.png"]["error"]
    with gcs_server.fault(match="GET", status=403, message="Access denied"):  # None of it may be read.
        assert "received a refusal" in refusal(capsys, predict.main, f"{bucket}/images", f"--model_dir={model}")


@pytest.mark.slow
def test_a_local_file_that_may_not_be_read_costs_its_row_only(model, tmp_path, capsys):
    for name in ("a", "b", "c"):
        write_image(tmp_path / f"{name}.png", (255, 0, 0))
    out = tmp_path / "rows.csv"
    with faults.injected(path="*/b.png", number=errno.EACCES, count=0):
        code, _, _ = answer(capsys, predict.main, tmp_path, f"--model_dir={model}", f"--out={out}")
    rows = {os.path.basename(row["path"]): row for row in rows_of(out)}
    assert code == 1
    assert [rows[f"{name}.png"]["error"] for name in "abc"] == ["", "Permission denied", ""]


@pytest.mark.slow
def test_a_video_that_may_not_be_read_costs_its_row_only(model, bucket, gcs_server, tmp_path, capsys):
    pytest.importorskip("cv2")
    files.write_bytes(f"{bucket}/a.mp4", b"no video")
    with forbid(gcs_server, f"{bucket}/a.mp4"):
        code, printed, _ = answer(capsys, predict.main, "--video", bucket, f"--model_dir={model}")
    assert (code, "403" in printed) == (1, True)


@pytest.mark.slow
def test_an_evaluation_skips_an_object_that_may_not_be_read(model, bucket, gcs_server, tmp_path, capsys):
    for number in range(6):
        for kind in ("Fake", "Real"):
            write_image(tmp_path / "data" / "Test" / kind / f"{number}.png", (200 if kind == "Fake" else 20, 0, 0))
    data = upload(tmp_path / "data", f"{bucket}/data")
    words = [f"--model_dir={model}", f"--data_dir={data}", "--bootstrap=0", f"--out={tmp_path / 'out'}"]
    with forbid(gcs_server, f"{data}/Test/Fake/3.png"):
        code, printed, _ = answer(capsys, evaluate.main, *words, "--max_bad_fraction=0.2")
    assert (code, "11 images, 1 skipped" in printed) == (0, True)
    assert "403" in (tmp_path / "out" / "skipped.jsonl").read_text()
