"""Images by the names that an evaluation gives them: files of a folder, objects of a bucket, records of a packed set.

Does not own: reading (``data/readers.py``), pictures of them (``thumbnails.py``).
"""

import os
from collections.abc import Sequence

import numpy as np

from trainer.core.storage import files, tar_members
from trainer.data import manifest, tfrecord
from trainer.data.layouts import table_files
from trainer.data.layouts.split import full_path
from trainer.data.manifest import Split


def find(data_dir: str, split: str, class_names: Sequence[str], names: Sequence[str]) -> Split:
    """Return a split of the named images alone, without those that are not there; folders and buckets are not listed.

    Labels are those of a packed set; in a folder all are 0.

    Raises:
        RequestError: if data_dir is a packed set that cannot be read, or lacks the split.
        StorageDown: if the storage does not answer.
    """
    if tfrecord.read_manifest(data_dir) is None:
        there = [name for name in names if _is_there(data_dir, name)]
        return Split(split, data_dir, tuple(class_names), there, np.zeros(len(there), np.int32))
    whole = manifest.read_split(data_dir, split, class_names)
    wanted = set(names)
    # In the order of the set: readers of shards take neighbours in one request.
    return whole.select([place for place, name in enumerate(whole.names) if name in wanted], split)


def _is_there(data_dir: str, name: str) -> bool:
    """Return whether an image is one of data_dir's, and no local file that is gone; of objects reading tells."""
    path = full_path(data_dir, name)
    is_elsewhere = ".." in name.split("/") or (path == name and not table_files.is_list(data_dir))
    return not is_elsewhere and (files.is_remote(path) or os.path.isfile(tar_members.file_of(path)))
