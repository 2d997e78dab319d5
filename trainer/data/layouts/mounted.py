"""Whether the images of a job that began are still there.  Imports no TensorFlow."""

import os

from trainer.core.config import LayoutConfig
from trainer.core.placement import TRAIN
from trainer.core.storage import files
from trainer.data import image_files
from trainer.data.layouts import resolve, table_files, tree, words


def missing(data_dir: str, settings: LayoutConfig) -> str:
    """Return what shows that the images of a local data_dir, or the list of ``--drop``, are gone; empty: nothing does.

    Raises:
        RequestError: as ``resolve``.
    """
    if settings.drop and not files.is_remote(settings.drop) and not os.path.exists(settings.drop):
        return f"no such file: {settings.drop!r}"
    if files.is_remote(data_dir):
        return ""
    if table_files.is_list(data_dir):
        return "" if os.path.exists(data_dir) else f"no such file: {data_dir!r}"
    train = [name for name in tree.folders(data_dir) if words.split_of(name) == TRAIN]
    if not train and resolve.resolve(data_dir, settings) is not None:  # It has classes, or those of a known data set.
        return ""
    folder = TRAIN if TRAIN in train or not train or settings.layout == resolve.EXACT else train[0]
    return image_files.missing_folder(data_dir, folder)
