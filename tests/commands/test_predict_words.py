"""What the words of ``trainer.predict`` name, rows as they come, and warnings about images unlike those of training."""

import io
import json
import logging
import os
import sys

import pytest
from PIL import Image

from tests.helpers.commands import answer, refusal
from tests.helpers.tiny_export import SIZE, write_export, write_image
from trainer import predict
from trainer.core import cli
from trainer.data.faces.crop_rule import CropRule
from trainer.data.formats import file_kind
from trainer.serving import predict_files, row_writer
from trainer.serving.predict_request import PredictFlags

RULE = CropRule("blazeface", "0.6", 0.3, 0, True, "png", 95).metadata()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("model") / "1", ["Fake", "Real"])


@pytest.fixture(scope="module")
def crops_model(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("crops") / "1", ["Fake", "Real"], faces=RULE)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "folder"
    write_image(folder / "a.png", (255, 0, 0))
    write_image(folder / "0123abcd", (51, 0, 0))  # An image by its content alone.
    (folder / "notes.txt").write_text("not an image")
    (folder / "empty.png").touch()  # An image by its name.
    (folder / "LICENSE").write_text("Apache")
    return folder


def test_a_folder_gives_its_images_and_says_what_it_left_out(model, folder, capsys):
    code, printed, err = answer(capsys, predict.main, folder, f"--model_dir={model}")
    names = [line.split("folder/")[1].split()[0] for line in printed.splitlines()[1:]]
    assert (code, names) == (1, ["0123abcd", "a.png", "empty.png"])  # The empty one has its error in its row.
    (line,) = [line for line in err.splitlines() if line.startswith("not used")]
    assert line == f"not used: 2 of other kinds (such as '{folder}/LICENSE')"


@pytest.mark.slow
def test_what_is_named_is_read_whatever_it_is(model, folder, capsys):
    code, printed, err = answer(capsys, predict.main, folder / "notes.txt", f"--model_dir={model}")
    assert (code, "Unknown image file format" in printed, "not used" in err) == (1, True, False)


def test_a_folder_without_images_is_a_wrong_request(model, tmp_path, capsys):
    (tmp_path / "clip.mp4").write_bytes(b"no image")
    line = refusal(capsys, predict.main, tmp_path, f"--model_dir={model}")
    assert "expected a PATH that names images (videos need --video)" in line
    assert f"none there (not used: 1 of other kinds (such as '{tmp_path}/clip.mp4'))" in line


def test_names_that_end_with_a_null_byte(model, tmp_path, capsys, monkeypatch):
    paths = [tmp_path / "line\nfeed\r\n.png", tmp_path / " space .png", tmp_path / os.fsdecode(b"caf\xe9.png")]
    for path in paths:
        write_image(path, (255, 0, 0))
    stdin = io.TextIOWrapper(io.BytesIO(b"".join(os.fsencode(path) + b"\0" for path in paths)), "utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    out = tmp_path / "rows.jsonl"
    assert answer(capsys, predict.main, "-0", f"--model_dir={model}", f"--out={out}")[0] == 0
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [os.path.basename(row["path"]) for row in rows] == ["line\nfeed\r\n.png", " space .png", r"caf\xe9.png"]
    assert refusal(capsys, predict.main, "-1", f"--model_dir={model}")


@pytest.mark.slow
def test_threshold_zero_means_zero_and_not_the_exports(model, tmp_path, capsys):
    write_image(tmp_path / "a.png", (0, 0, 0))
    for flags, label in (((), "Real"), (("--threshold=0",), "Fake"), (("--threshold=",), "Real")):
        _, printed, _ = answer(capsys, predict.main, tmp_path, f"--model_dir={model}", *flags)
        assert printed.splitlines()[1].split()[0] == label


class _Flushed(io.StringIO):
    """A stream that knows what was flushed."""

    def __init__(self):
        super().__init__()
        self.parts = []

    def flush(self):
        self.parts.append(self.getvalue())


def test_rows_are_printed_and_flushed_as_they_come(monkeypatch):
    stdout = _Flushed()
    monkeypatch.setattr(sys, "stdout", stdout)
    writer = row_writer.RowWriter("", "out")
    writer.add([{"path": "a.png", "label": "Real", "p_fake": 0.25, "error": None}])
    assert stdout.parts[-1] == "label  p_fake  path\nReal   0.2500  a.png\n"
    writer.add([{"path": "b.png", "label": "Fake", "p_fake": 0.75, "error": None}])
    assert stdout.parts[-1].splitlines()[2:] == ["Fake   0.7500  b.png"]
    writer.finish()
    assert stdout.getvalue().count("\n") == 3


@pytest.mark.slow
def test_the_first_rows_come_before_the_last_images_are_read(model, tmp_path, monkeypatch):
    for number in range(12):
        write_image(tmp_path / f"{number:02}.png", (number, 0, 0))
    counts = []
    request = PredictFlags(model_dir=model, batch_size=1)
    predict_files.run(request, [str(tmp_path)], (), lambda rows: counts.append(len(rows)))
    assert counts == [1] * 12


def warnings_of(caplog, *words):
    caplog.clear()
    assert cli.run_command(predict.main, [str(word) for word in words]) == 0
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.slow
def test_a_model_is_warned_about_images_outside_its_card(model, crops_model, tmp_path, caplog):
    write_image(tmp_path / "in/square.png", (255, 0, 0))
    assert warnings_of(caplog, tmp_path / "in", f"--model_dir={model}") == []
    whole = ["--faces=none", f"--model_dir={crops_model}"]
    assert warnings_of(caplog, tmp_path / "in", *whole) == []  # Crops are square.
    Image.new("RGB", (64, 48)).save(tmp_path / "in/frame.png")
    assert warnings_of(caplog, tmp_path / "in", f"--model_dir={model}") == []
    (line,) = warnings_of(caplog, tmp_path / "in", *whole)
    assert line.startswith(f"1 files (such as '{tmp_path}/in/frame.png') are no square crops")
    write_image(tmp_path / "in/tiny.png", (255, 0, 0), size=SIZE // 2 - 1)
    (line,) = warnings_of(caplog, tmp_path / "in", f"--model_dir={model}")
    assert "1 images (such as in" in line
    assert "less than half as wide or high as the model's input of 16 x 16 pixels" in line


def test_remote_files_are_known_by_their_names_alone():
    names = {"gs://b/a.JPG": True, "gs://b/0123abcd": True, "gs://b/notes.txt": False, "gs://b.c/list.csv": False}
    assert {name: file_kind.is_image(name) for name in names} == names
