"""Text files that grow by lines.  Imports no TensorFlow."""

import json
import logging
import time
from typing import Any

from trainer.core import storage
from trainer.core.storage import files

log = logging.getLogger(__name__)


class BufferedLines:
    """A text file that grows by lines; lines that a full disk refuses are written with the next ones.

    Where appending is slow, lines are kept until ``flush`` or for ``Storage.append_seconds``.
    """

    def __init__(self, path: str) -> None:
        """Append to a file, which need not exist."""
        self._path = path
        self._append_seconds = storage.for_path(path).append_seconds
        self._pending: list[str] = []
        self._written = time.monotonic()

    def add(self, lines: list[str]) -> None:
        """Append lines, which come without line ends."""
        self._pending += [line + "\n" for line in lines]
        if time.monotonic() - self._written >= self._append_seconds:
            self.flush()

    def flush(self) -> None:
        """Write all pending lines."""
        if not self._pending:
            return
        try:
            files.append_text(self._path, "".join(self._pending))
        except OSError as error:
            log.warning("%s cannot be written (%s): %d lines wait", self._path, error, len(self._pending))
        else:
            self._pending = []
            self._written = time.monotonic()

    def rewrite(self, lines: list[str]) -> bool:
        """Replace the file by these lines; return whether that succeeded, a full disk is only worth a warning."""
        try:
            files.write_text(self._path, "".join(line + "\n" for line in lines))
        except OSError as error:
            log.warning("%s cannot be written (%s); it keeps its old lines", self._path, error)
            return False
        self._pending = []
        return True


def read_objects(path: str) -> tuple[list[dict[str, Any]], bool]:
    """Return the JSON objects of a file with one a line, and whether all of it could be read.

    A kill while a line is appended leaves a part of it, and a crash of the machine may leave zeros: such lines are
    left out.  Append to such a file only after it is rewritten.
    """
    if not files.exists(path):
        return [], True
    text = files.read_bytes(path).decode("utf-8", "replace")
    entries = [_object(line) for line in text.split("\n") if line]
    whole = [entry for entry in entries if entry is not None]
    return whole, len(whole) == len(entries) and text[-1:] in ("", "\n")


def _object(line: str) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
