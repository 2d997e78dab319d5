"""The line that says what the splits are, how many images of each class, and which folders no command reads."""

from pathlib import Path
from unittest import mock

import pytest

from trainer.core.config import LayoutConfig
from trainer.core.errors import RequestError
from trainer.data import class_folders, manifest, split_report


def touch(root: Path, *names: str) -> str:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    return str(root)


def numbered(folder: str, count: int) -> list[str]:
    return [f"{folder}/{label}/{number}.jpg" for label in ("Fake", "Real") for number in range(count)]


def line_of_training(root: str) -> str:
    return split_report.of_training(root, *manifest.read_train_and_validation(root, 0.25, 3))


@pytest.mark.parametrize("name", ["Valid", "Val", "val", "validation", "dev", "VALIDATION"])
def test_validation_under_another_usual_name(tmp_path, name):
    root = touch(tmp_path, *numbered("Train", 8), *numbered(name, 2), *numbered("Test", 3))
    assert line_of_training(root) == (
        f"Train: folder '{root}/Train': Fake 8, Real 8. Validation: folder '{root}/{name}': Fake 2, Real 2. "
        f"Test: folder '{root}/Test': Fake 3, Real 3; training never reads it"
    )


def test_a_held_out_share_and_the_folder_that_was_meant(tmp_path):
    root = touch(tmp_path, *numbered("Train", 8), *numbered("val", 2), *numbered("Test", 3))
    splits = manifest.read_train_and_validation(root, 0.25, 3, layout=LayoutConfig(layout="exact"))
    assert split_report.of_training(root, *splits) == (
        f"Train: the rest of folder '{root}/Train': Fake 6, Real 6. "
        "Validation: 0.25 of Train held out by seed 3: Fake 2, Real 2; "
        "folder 'val' is not used: rename it Validation. "
        f"Test: folder '{root}/Test': Fake 3, Real 3; training never reads it"
    )


def test_folders_of_their_own_and_others(tmp_path):
    root = touch(tmp_path, *numbered("Train", 2), *numbered("Validation", 1), "tests/a.jpg", "masks/x", ".git/x",
                 "__MACOSX/x", "readme.txt", "Train/stray.jpg", "Train/Fake/Thumbs.db")  # fmt: skip
    assert line_of_training(root) == (
        f"Train: folder '{root}/Train': Fake 2, Real 2. Validation: folder '{root}/Validation': Fake 1, Real 1. "
        "Test: none. other folders are not used: 'masks', 'tests'. "
        "not used: 1 left by other programs (such as 'Train/Fake/Thumbs.db'), 1 outside the class folders "
        "(such as 'Train/stray.jpg')"
    )


def test_a_test_folder_that_cannot_be_listed_does_not_end_the_training(tmp_path):
    root = touch(tmp_path, *numbered("Train", 4), "Test/a.jpg")
    assert "Test: folder " in line_of_training(root)
    splits = manifest.read_train_and_validation(root, 0.25, 3)
    with mock.patch.object(class_folders, "read", side_effect=RequestError("no permission")):
        assert "Test: not counted (no permission)" in split_report.of_training(root, *splits)


def test_all_splits_and_one(tmp_path):
    root = touch(tmp_path, *numbered("Train", 2), *numbered("val", 1), *numbered("Test", 1))
    line = split_report.of_splits(root, manifest.read_all_splits(root, LayoutConfig(layout="exact")))
    assert "Validation: none; folder 'val' is not used: rename it Validation. Test: folder" in line
    assert split_report.of_one(manifest.read_split(root, "Test")) == f"Test: folder '{root}/Test': Fake 1, Real 1"


def test_a_file_system_that_ignores_case(tmp_path):
    root = touch(tmp_path, *numbered("Train", 2), *numbered("validation", 1))
    (tmp_path / "Validation").symlink_to(tmp_path / "validation")
    names = ["Train", "validation"]  # As macOS lists it.
    with mock.patch.object(split_report, "_folders", return_value=names):
        assert "is not used" not in line_of_training(root)
