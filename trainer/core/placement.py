"""Where outputs may not lie: below the images, whose listing would take them for further images.

Imports no TensorFlow.
"""

import os
from collections.abc import Iterable

from trainer.core.errors import RequestError
from trainer.core.storage import files

TRAIN, VALIDATION, TEST = SPLITS = ("Train", "Validation", "Test")


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
    for split in splits:
        folder = files.join(data_dir, split)
        if path and data_dir and is_within(path, folder):
            raise RequestError(
                f"--{flag}: expected a folder outside the images, received {path!r} in {folder!r}, where its files "
                f"would count as images; give another --{flag}"
            )
