"""Checkpoints written on a thread, so that the loop pays for a copy in memory and not for the disk.

Owns: when a write runs, and what became of it.  Does not own: the format (``checkpoint.py``).
A write that fails is reported and ends nothing: older checkpoints stay whole, and the next save is the next try.
"""

import dataclasses
import logging
import threading
import time

from trainer.training.checkpoint import Checkpoint, CheckpointStore

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Saved:
    """What became of one write.

    Attributes:
        step: of the checkpoint.
        path: its folder.
        seconds: that the thread took.
        error: why it failed; empty if it is there.
    """

    step: int
    path: str
    seconds: float
    error: str = ""


class AsyncCheckpointWriter:
    """At most one write at a time, newest state first."""

    def __init__(self, store: CheckpointStore) -> None:
        """Write into a store; nothing else may write there."""
        self._store = store
        self._thread: threading.Thread | None = None
        self._done: list[Saved] = []
        self._owed: Checkpoint | None = None  # The best epoch's state, if its write failed.
        self.last: Saved | None = None

    def save(self, checkpoint: Checkpoint, *, best_step: int, wait: bool) -> bool:
        """Begin to write a checkpoint that nobody changes any more.

        Args:
            checkpoint: a copy in memory.
            best_step: step of the checkpoint that pruning must spare.
            wait: what to do while an earlier write still runs: wait for it, or give this one up.

        Returns:
            Whether the write began.
        """
        if self._thread is not None and self._thread.is_alive() and not wait:
            log.warning("step %d is not saved: the write before is still running", checkpoint.step)
            return False
        self.finish()
        self._thread = threading.Thread(target=self._write, args=(checkpoint, best_step), name="checkpoint")
        self._thread.start()
        return True

    def collect(self) -> list[Saved]:
        """Return the writes that ended since the last call."""
        done, self._done = self._done, []
        return done

    def finish(self, seconds: float | None = None) -> None:
        """Wait until nothing is being written, or for so many seconds."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _write(self, checkpoint: Checkpoint, best_step: int) -> None:
        owed, self._owed = self._owed, None
        for each in (owed, checkpoint):
            if each is not None and (each is checkpoint or each.step == best_step):
                self.last = self._try(each, best_step)
                self._done.append(self.last)
                if self.last.error and each.step == best_step:
                    self._owed = each

    def _try(self, checkpoint: Checkpoint, best_step: int) -> Saved:
        began = time.monotonic()
        error = ""
        try:
            self._store.save(checkpoint, protect=best_step)
        except Exception as failure:  # Disks and buckets fail with unrelated types; none of them may end training.
            error = f"{type(failure).__name__}: {failure}"
            log.warning("the checkpoint of step %d could not be written (%s): older ones stay, the next save tries "
                        "again", checkpoint.step, error)  # fmt: skip
        return Saved(checkpoint.step, self._store.path(checkpoint.step), time.monotonic() - began, error)
