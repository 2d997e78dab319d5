"""Text files that grow by lines.  Imports no TensorFlow."""

import logging
import time

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
