"""Where outputs may not lie: below the images, whose listing would take them for further images.

Imports no TensorFlow.
"""

import os
from collections.abc import Iterable

from trainer.core.errors import RequestError
from trainer.core.storage import files

TRAIN, VALIDATION, TEST = SPLITS = ("Train", "Validation", "Test")
# Lower-case names that people give the folders of the splits.
SPLIT_WORDS = {
    TRAIN: ("train", "training", "train_set", "trainset"),
    VALIDATION: ("validation", "valid", "val", "dev", "validate", "validation_set", "val_set"),
    TEST: ("test", "testing", "eval", "test_set", "testset"),
}


def is_within(path: str, folder: str) -> bool:
    """Return whether a path is a folder or lies below it, links resolved."""
    if files.is_remote(path) != files.is_remote(folder):
        return False
    path, folder = (one if files.is_remote(one) else os.path.realpath(one) for one in (path, folder))
    return f"{path.rstrip('/')}/".startswith(f"{folder.rstrip('/')}/")


def refuse_among_images(flag: str, path: str, data_dir: str, splits: Iterable[str] = SPLITS) -> None:
    """Refuse an output in one of the folders that hold images.

    Raises:
        RequestError: naming the flag.
    """
    for split in (*splits, *_folders_on_the_way(path, data_dir)):
        folder = files.join(data_dir, split)
        if path and data_dir and is_within(path, folder):
            raise RequestError(
                f"--{flag}: expected a folder outside the images, received {path!r} in {folder!r}, where its files "
                f"would count as images; give another --{flag}"
            )


def _folders_on_the_way(path: str, data_dir: str) -> list[str]:
    """Return the folder of data_dir that ``path`` lies in, if it has another usual name of a split."""
    if not path or not data_dir or not is_within(path, data_dir):
        return []
    below, root = (one if files.is_remote(one) else os.path.realpath(one) for one in (path, data_dir))
    first = below[len(root.rstrip("/")) :].strip("/").partition("/")[0]
    return [first] if any(first.lower() in words for words in SPLIT_WORDS.values()) else []
