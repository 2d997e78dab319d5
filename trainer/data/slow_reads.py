"""The log's word about reads that hang: "waiting 60 s for image ...", then again at growing intervals.

A read of a dead network mount does not fail, it does not return.  A thread looks after the reads in flight.
Does not own: who gives such a read up (``interruptible.py``).  Imports no TensorFlow.
"""

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

FIRST_SECONDS = 60.0  # Before the first line about a read; each further one after twice the time.
_LOOK_SECONDS = 5.0


@dataclasses.dataclass(eq=False)
class _Read:
    """A read in flight: since when (monotonic seconds), and when it is next worth a line (seconds after that)."""

    path: str
    started: float
    due: float

    def begin(self, path: str) -> None:
        self.path, self.started, self.due = path, time.monotonic(), FIRST_SECONDS


_in_flight: dict[int, _Read] = {}  # By identity: a dictionary's single operations are atomic.
_starting = threading.Lock()
_watcher: threading.Thread | None = None


@contextlib.contextmanager
def watched(path: str) -> Iterator[None]:
    """Watch the block, which reads ``path``."""
    with watched_each() as begin:
        begin(path)
        yield


@contextlib.contextmanager
def watched_each() -> Iterator[Callable[[str], None]]:
    """Watch the block, which reads one file after the other; it names each to the function that it gets."""
    _start_watcher()
    read = _Read("", time.monotonic(), FIRST_SECONDS)
    _in_flight[id(read)] = read
    try:
        yield read.begin
    finally:
        del _in_flight[id(read)]


def oldest() -> str:
    """Return the path that has been waited for longest; empty if nothing is being read."""
    reads = list(_in_flight.values())
    return min(reads, key=lambda read: read.started).path if reads else ""


def report(now: float) -> None:
    """Log the reads that have become due at ``now``, monotonic seconds; of several, the oldest and their number."""
    due = [read for read in list(_in_flight.values()) if now - read.started >= read.due]
    if not due:
        return
    first = min(due, key=lambda read: read.started)
    more = f" and {len(due) - 1} more" if len(due) > 1 else ""
    log.warning("waiting %.0f s for image %s%s", now - first.started, first.path, more)
    for read in due:
        read.due = 2 * (now - read.started)


def _start_watcher() -> None:
    global _watcher
    if _watcher is not None and _watcher.is_alive():  # A forked child has none.
        return
    with _starting:
        if _watcher is None or not _watcher.is_alive():
            _watcher = threading.Thread(target=_watch, name="slow-reads", daemon=True)
            _watcher.start()


def _watch() -> None:
    while True:
        time.sleep(_LOOK_SECONDS)
        report(time.monotonic())
