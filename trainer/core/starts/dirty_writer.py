"""A thread that writes what has changed, and tries again after pauses that grow if the storage is away.

Does not own: what is written.  Imports no TensorFlow.
"""

import threading
import time
from collections.abc import Callable

from trainer.core.errors import RequestError, StoppedEarly

THREAD = "starts"  # Nobody wants to read what a storage says to a thread of this name.
FAILURES = (OSError, StoppedEarly, RequestError)
_LOOK_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 300.0  # After a write that failed.


class DirtyWriter:
    """Calls ``write`` on its thread once something has changed."""

    def __init__(
        self,
        write: Callable[[], None],
        *,
        prepare: Callable[[], None] = lambda: None,
        look: Callable[[], None] = lambda: None,
    ) -> None:
        """Wait for ``start``.

        Args:
            write: writes all that has changed; it may fail with one of FAILURES.
            prepare: called once, before the first write.
            look: called every second; it may find that something has changed.
        """
        self._write, self._prepare, self._look = write, prepare, look
        self._is_dirty = False
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def mark(self) -> None:
        """Say that something has changed, after the change."""
        self._is_dirty = True

    def start(self, interval: float = 0.0) -> None:
        """Begin; so many seconds lie between two writes."""
        self._thread = threading.Thread(target=self._work, args=(interval,), name=THREAD, daemon=True)
        self._thread.start()

    def end(self, seconds: float) -> None:
        """Write the rest at once, which is given up after so many seconds."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _work(self, interval: float) -> None:
        self._prepare()
        pause = next_at = 0.0
        while True:
            is_over = self._ending.is_set()
            self._look()
            if self._is_dirty and (is_over or time.monotonic() >= next_at):
                pause = interval if self._is_written() else min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE)
                next_at = time.monotonic() + pause
            if is_over:
                return
            self._ending.wait(_LOOK_SECONDS)

    def _is_written(self) -> bool:
        """Try to write; return whether that went well."""
        self._is_dirty = False  # First: a change during the write counts as the next one.
        try:
            self._write()
        except FAILURES:
            self._is_dirty = True
            return False
        return True
