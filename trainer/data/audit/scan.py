"""Read and measure every image of some splits on all cores; keep a record of each and no pixels.

Owns: the progress bar, and that a bad file never ends the scan.  Does not own: processes
(``worker_processes.py``), what is measured (``measure.py``).
"""

import contextlib
import dataclasses
import functools
import os
import stat
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core import progress, worker_processes
from trainer.core.config import MAX_IMAGE_PIXELS
from trainer.core.errors import StoppedEarly
from trainer.core.storage import files, transient
from trainer.data import image_files
from trainer.data.audit import measure
from trainer.data.layouts.split import full_path
from trainer.data.manifest import Split

_MAX_FILE_BYTES = 1 << 30
_CHUNK = 64  # Images per task: enough to make the transfer cheap, few enough for a smooth progress bar.

Table = npt.NDArray[np.void]
_Path = tuple[str, str]  # Of an image, and of a folder that holds something as long as the image is mounted.


@dataclasses.dataclass(frozen=True, eq=False)
class Records:
    """The result of a scan.

    Attributes:
        splits: that were scanned, all with the same ``root`` and ``class_names``.
        table: ``[N]`` of ``measure.IMAGE``, split by split in the manifest's order; ``split`` indexes ``splits``.
        reasons: why an image is bad, by its position in ``table``.
    """

    splits: tuple[Split, ...]
    table: Table
    reasons: dict[int, str]

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the images relative to data_dir, such as ``Train/Fake/a.jpg``, by position."""
        return tuple(name for split in self.splits for name in split.names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Class names by label."""
        return self.splits[0].class_names

    def path(self, index: int) -> str:
        """Return the full path of image ``index``."""
        return full_path(self.splits[0].root, self.names[index])


def bad_images(records: Records) -> dict[str, str]:
    """Return the reason for each image that cannot be used, by its name relative to data_dir."""
    return {records.names[index]: reason for index, reason in sorted(records.reasons.items())}


def scan(
    splits: Sequence[Split], *, workers: int = 0, max_image_pixels: int = MAX_IMAGE_PIXELS, quiet: bool = False
) -> Records:
    """Read, decode and measure every image once.

    Args:
        splits: of one data_dir, with the same classes.
        workers: processes; 0: one per core.
        max_image_pixels: an image whose header says more is bad and is not decoded.
        quiet: whether to hide the progress bar.

    Raises:
        JobFailed: if the operating system kills a worker, as it does when memory runs out.
        StorageDown: if the images cannot be read for a reason that is not theirs and does not pass.
    """
    paths = [(split.path(index), split.folder(index)) for split in splits for index in range(len(split))]
    table = np.zeros(len(paths), measure.IMAGE)
    reasons: dict[int, str] = {}
    chunks = [paths[start : start + _CHUNK] for start in range(0, len(paths), _CHUNK)]
    work = functools.partial(_measure_files, max_image_pixels=max_image_pixels)
    start = 0
    with progress.bar(len(paths), "image", "reading", show=not quiet) as bar:
        remedy = "use fewer --workers or a smaller --max_image_pixels"
        for part, bad in worker_processes.ordered_map(work, chunks, workers, remedy=remedy):
            table[start : start + len(part)] = part
            reasons |= {start + position: reason for position, reason in bad.items()}
            start += len(part)
            bar.update(len(part))
    table["split"] = np.repeat(np.arange(len(splits)), [len(split) for split in splits])
    table["label"] = np.concatenate([split.labels for split in splits])
    return Records(tuple(splits), table, reasons)


def _measure_files(paths: list[_Path], max_image_pixels: int) -> tuple[Table, dict[int, str]]:
    """Return the records of some files, and the reasons for those that are bad, by position."""
    table = np.zeros(len(paths), measure.IMAGE)
    bad: dict[int, str] = {}
    for position, (path, folder) in enumerate(paths):
        row: Any = table[position]
        row["extension"] = files.printable(PurePosixPath(path).suffix.lower())
        try:
            measure.measure(row, _read(path, folder), max_image_pixels)
        except measure.BadImage as error:
            bad[position] = files.printable(str(error))
    return table, bad


def _read(path: str, folder: str) -> bytes:
    """Return a file's content.

    Raises:
        measure.BadImage: if it cannot be read, or (on a local disk) is a pipe, a device or larger than a GiB.
        StorageDown: if trouble of another kind does not pass.
    """
    try:
        if not files.is_remote(path):
            _check_kind_and_size(path)
        return image_files.read(path, folder)
    except (measure.BadImage, StoppedEarly, MemoryError):
        raise
    except Exception as error:  # Storages and the operating system raise unrelated types for the same failure.
        if transient.is_transient(error):
            raise
        reason = getattr(error, "strerror", None) or getattr(error, "message", None) or error
        raise measure.BadImage(f"cannot be read: {reason}") from error


def _check_kind_and_size(path: str) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # Reading it tells more; it may be in a tar file.
        status = transient.retry(path, functools.partial(os.stat, path))
        if not stat.S_ISREG(status.st_mode):
            raise measure.BadImage("not a regular file")
        if status.st_size > _MAX_FILE_BYTES:
            raise measure.BadImage(f"{status.st_size:,} bytes are too many for an image; not read")
