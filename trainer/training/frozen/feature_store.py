"""Computed features on the disk, in parts, so that a restart goes on where the last start ended.

A part ``<split>-<first row>.npz`` holds consecutive rows of a split, in the manifest's order.  All is optional: what
cannot be written or read is computed again.  Imports no TensorFlow.
"""

import io
import logging
import re
import zipfile

import numpy as np
import numpy.typing as npt

from trainer.core.errors import StoppedEarly
from trainer.core.storage import files

log = logging.getLogger(__name__)

Rows = npt.NDArray[np.float32]


class FeatureStore:
    """The rows of each split, by split and number of the first one."""

    def __init__(self, folder: str, *, write: bool) -> None:
        """Bind a folder, which need not exist.

        Args:
            folder: its name stands for all that decides the features' values.
            write: False for processes that are not the chief.
        """
        self._folder = folder
        self._write = write

    def read(self, split: str, rows: Rows) -> int:
        """Fill ``rows`` from the first one on; return how many are there."""
        parts = {}
        for name in files.list_names(self._folder):
            if match := re.fullmatch(rf"{re.escape(split)}-(\d+)\.npz", name):
                parts[int(match[1])] = files.join(self._folder, name)
        done = 0
        while done in parts:
            part = _read(parts[done])
            if part is None or part.shape[1:] != rows.shape[1:] or not 0 < len(part) <= len(rows) - done:
                log.warning("%s is damaged: computing these features again", parts[done])
                break
            rows[done : done + len(part)] = part
            done += len(part)
        return done

    def save(self, split: str, first: int, rows: Rows) -> None:
        """Add rows; they follow those that were added before."""
        if not self._write or not len(rows):
            return
        buffer = io.BytesIO()
        np.savez(buffer, rows=rows)
        try:
            files.write_bytes(files.join(self._folder, f"{split}-{first:010d}.npz"), buffer.getvalue())
        except OSError as error:
            self._write = False
            log.warning("features cannot be kept for a restart, which would compute them again: %s", error)


def _read(path: str) -> Rows | None:
    """Return the rows of a part; None if it is damaged (the archive has a checksum)."""
    try:
        with np.load(io.BytesIO(files.read_bytes(path)), allow_pickle=False) as archive:
            rows: Rows = archive["rows"]
    except StoppedEarly:
        raise
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return rows if rows.dtype == np.float32 and rows.ndim == 2 else None
