"""Tests of scripts/make_demo_data.py and the drawing behind it."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from trainer.commands.demo import make_data
from trainer.commands.demo.faces.camera import encode_jpeg
from trainer.commands.demo.faces.example import draw_subject, forge, take_picture
from trainer.commands.demo.faces.forgery import KINDS
from trainer.commands.demo.faces.writer import write_subject

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

COUNTS = ("--train_per_class=3", "--validation_per_class=1", "--test_per_class=2")
SMALL = 64
"""Side of the pictures of the tests that draw many."""


def draw(out: Path, *more: str) -> int:
    """Run the command in this process with small counts."""
    return make_data.main(["--out", str(out), "--size=96", "--workers=1", *COUNTS, *more])


def contents(out: Path) -> dict[str, bytes]:
    """Read all files below a folder by their relative names."""
    return {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a small complete set."""
    out = tmp_path_factory.mktemp("demo") / "set"
    assert draw(out) == 0
    return out


@pytest.fixture(scope="module")
def cues() -> dict[str, npt.NDArray[np.float64]]:
    """Measure 200 pictures of each class by what must not tell the classes apart."""
    rows = []
    for index in range(200):
        subject = draw_subject(5, "Test", index, SMALL)
        for label in ("Fake", "Real"):
            pixels = take_picture(subject, label, 0.5)
            data = encode_jpeg(pixels, subject.camera.jpeg_quality)
            tables = Image.open(io.BytesIO(data)).quantization  # type: ignore[attr-defined]
            table_sum = sum(sum(table) for table in tables.values())
            rows.append((label == "Real", len(data), pixels.mean(), table_sum))
    label, size, brightness, table = np.array(rows, dtype=float).T
    return {"label": label, "file size": size, "brightness": brightness, "JPEG tables": table}


def test_writes_every_split_and_class(drawn: Path) -> None:
    for split, count in (("Train", 3), ("Validation", 1), ("Test", 2)):
        for label in ("Fake", "Real"):
            names = sorted(path.name for path in (drawn / split / label).iterdir())
            assert names == [f"{index:06d}.jpg" for index in range(count)]


def test_pictures_are_rgb_jpegs_of_the_given_size_without_metadata(drawn: Path) -> None:
    for path in drawn.rglob("*.jpg"):
        with Image.open(path) as picture:
            assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", (96, 96))
            assert not picture.getexif()
            assert set(picture.info) <= {"jfif", "jfif_version", "jfif_unit", "jfif_density"}


@pytest.mark.slow
def test_number_of_workers_changes_nothing(drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "two"
    command = [sys.executable, str(SCRIPTS / "make_demo_data.py"), "--out", str(out), "--size", "96"]
    done = subprocess.run(
        [*command, "--workers", "2", *COUNTS], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"wrote 12 pictures of 96 x 96 pixels to {out}\n"
    assert done.stderr.splitlines() == [
        "Train: 3 pictures a class",
        "Validation: 1 pictures a class",
        "Test: 2 pictures a class",
    ]
    assert contents(out) == contents(drawn)


def test_larger_set_begins_with_the_smaller_one(drawn: Path, tmp_path: Path) -> None:
    assert draw(tmp_path / "more", "--train_per_class=4") == 0
    small, large = contents(drawn), contents(tmp_path / "more")
    assert all(large[name] == data for name, data in small.items() if name.endswith(".jpg"))


def test_another_seed_draws_other_pictures(drawn: Path, tmp_path: Path) -> None:
    assert draw(tmp_path / "other", "--seed=1") == 0
    other = contents(tmp_path / "other")
    assert all(other[name] != data for name, data in contents(drawn).items())


def test_complete_set_is_left_as_it_is(drawn: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    assert draw(drawn) == 0
    assert "already holds these 12 pictures" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before


def test_interrupted_set_is_completed(drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out, calls = tmp_path / "set", []

    def interrupted(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        write_subject(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(make_data, "write_subject", interrupted)
    assert draw(out) == 130
    monkeypatch.undo()
    assert not (out / "demo_data.json").exists()
    kept = {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    assert len(kept) == 4
    assert draw(out) == 0
    assert contents(out) == contents(drawn)
    assert all(path.stat().st_mtime_ns == time for path, time in kept.items())


@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 75), (errno.EIO, 75), (errno.EPERM, 1)])
def test_trouble_of_the_disk_is_no_wrong_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    def failing(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(make_data, "write_subject", failing)
    assert draw(tmp_path / "set") == code
    assert "rerun the same command" in capsys.readouterr().err


def test_lost_picture_is_drawn_again(drawn: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert draw(out) == 0
    (out / "Train" / "Fake" / "000001.jpg").unlink()
    assert draw(out) == 0
    assert contents(out) == contents(drawn)


def test_foreign_content_is_refused(drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    for folder, more in ((tmp_path, ()), (drawn, ("--seed=3",))):
        before = contents(folder)
        assert draw(folder, *more) == 2
        assert contents(folder) == before
        assert_one_line(capsys.readouterr().err, str(folder))


@pytest.mark.parametrize(
    "argument",
    ["--train_per_class=-1", "--difficulty=1.5", "--difficulty=nan", "--seed=-2", "--workers=-1", "--size=8"],
)
def test_impossible_argument_is_refused(argument: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert draw(tmp_path / "set", argument) == 2
    assert_one_line(capsys.readouterr().err, argument.partition("=")[0])
    assert not (tmp_path / "set").exists()


def test_folder_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert draw(tmp_path / "file" / "set") == 2
    assert_one_line(capsys.readouterr().err, str(tmp_path / "file"))


def assert_one_line(message: str, mention: str) -> None:
    """Check that a message is one line that says what was expected and received."""
    assert len(message.splitlines()) == 1
    assert mention in message
    assert "expected" in message
    assert "received" in message


@pytest.mark.slow
@pytest.mark.parametrize("cue", ["file size", "brightness", "JPEG tables"])
def test_cue_does_not_tell_the_class(cue: str, cues: dict[str, npt.NDArray[np.float64]]) -> None:
    assert abs(roc_auc_score(cues["label"], cues[cue]) - 0.5) < 0.1


def test_forgery_changes_the_face_alone() -> None:
    kinds = set()
    for index in range(8):
        subject = draw_subject(0, "Train", index, SMALL)
        forgery = forge(subject, difficulty=0.5)
        difference = np.abs(forgery.forged - subject.exposure).max(axis=0)
        assert difference[forgery.mask == 0].max() == 0
        assert difference[forgery.mask > 0.9].mean() > 0.01
        assert 0.05 < forgery.mask.mean() < 0.4
        kinds.add(forgery.kind)
    assert kinds == set(KINDS)


def test_difficulty_weakens_the_rerendered_face() -> None:
    subjects = [draw_subject(0, "Train", index, SMALL) for index in range(8)]
    rerendered = [subject for subject in subjects if forge(subject, 0.5).kind == "rerender"]

    def change(difficulty: float) -> float:
        return float(np.mean([np.abs(forge(s, difficulty).forged - s.exposure) for s in rerendered]))

    assert change(0.0) > change(0.5) > change(1.0)


def test_marker_tells_the_arguments(drawn: Path) -> None:
    marker = json.loads((drawn / "demo_data.json").read_text())
    assert marker["counts"] == {"Train": 3, "Validation": 1, "Test": 2}
    assert (marker["seed"], marker["size"], marker["difficulty"]) == (0, 96, 0.5)


def test_help_teaches(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "make_demo_data.py"), "--help"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "Train,Validation,Test" in done.stdout
    assert "  deepdetect demo draw --out=demo_data" in done.stdout
