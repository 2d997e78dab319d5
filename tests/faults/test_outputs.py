"""What the commands write is fit for use where it lies: exports, tables, lines on the terminal."""

import csv
import io
import os
import shutil
from pathlib import Path

import pytest

from tests.helpers.commands import answer, refusal
from tests.helpers.tiny_export import write_export, write_image
from trainer import evaluate, export, predict, train, tune
from trainer.core.storage import files

SPECIAL = ("run[1]", "a\\b", "what?", "all*", os.fsdecode(b"caf\xe9"))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("model") / "1", ["Fake", "Real"])


# Exports in folders that TensorFlow takes as patterns.


@pytest.mark.parametrize("name", SPECIAL)
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
