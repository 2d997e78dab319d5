"""Write checkpoints on a thread, so that the loop waits for a copy in memory and not for the disk.

Owns: when a write runs, and its outcome.  Does not own: the format (``checkpoint.py``).
A failed write is reported and does not end training: older checkpoints stay intact, and the next save tries again.
Only a job that has lost its lock ends, as another one may write the same files.
"""

import dataclasses
import logging
import threading
import time

from trainer.core import progress
from trainer.core.errors import StoppedEarly, StorageDown
from trainer.core.storage.transient import is_transient
from trainer.training.checkpoints.checkpoint import Checkpoint, CheckpointStore

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Saved:
    """The outcome of one write.

    Attributes:
        step: of the checkpoint.
        path: its folder.
        seconds: that the thread took.
        error: why it failed; empty if it succeeded.
        may_pass: whether that may pass by itself.
    """

    step: int
    path: str
    seconds: float
    error: str = ""
    may_pass: bool = False


class AsyncCheckpointWriter:
    """Runs at most one write at a time."""

    def __init__(self, store: CheckpointStore) -> None:
        """Bind a store that nothing else writes to."""
        self._store = store
        self._thread: threading.Thread | None = None
        self._done: list[Saved] = []
        self._retry: Checkpoint | None = None  # The best epoch's state, if its write failed.
        self._lost: StoppedEarly | None = None
        self.last: Saved | None = None

    def save(self, checkpoint: Checkpoint, *, best_step: int, wait: bool) -> bool:
        """Start to write a checkpoint.

        Args:
            checkpoint: a copy in memory that does not change any more.
            best_step: step of the checkpoint that pruning must keep.
            wait: whether to wait for an earlier write that still runs; otherwise this one is skipped.

        Returns:
            Whether the write began.
        """
        if self._thread is not None and self._thread.is_alive() and not wait:
            log.warning("step %d is not saved: the previous write is still running", checkpoint.step)
            return False
        self.finish()
        self._thread = threading.Thread(target=self._write, args=(checkpoint, best_step), name="checkpoint")
        self._thread.start()
        return True

    def collect(self) -> list[Saved]:
        """Return the writes that ended since the last call.

        Raises:
            StoppedEarly: if one of them found that this job may no longer write.
        """
        if self._lost is not None:
            raise self._lost
        done, self._done = self._done, []
        return done

    def finish(self, seconds: float | None = None) -> None:
        """Wait until nothing is being written, at most ``seconds``."""
        thread = self._thread
        if thread is not None and thread.is_alive():
            with progress.phase("writing the checkpoint"):
                thread.join(seconds)

    def _write(self, checkpoint: Checkpoint, best_step: int) -> None:
        retry, self._retry = self._retry, None
        # The best state is exported at the end, so it is written again if it is still the best.
        for each in (retry, checkpoint):
            if each is not None and (each is checkpoint or each.step == best_step):
                self.last = self._try(each, best_step)
                self._done.append(self.last)
                if self.last.error and each.step == best_step:
                    self._retry = each

    def _try(self, checkpoint: Checkpoint, best_step: int) -> Saved:
        started = time.monotonic()
        error, may_pass = "", False
        try:
            self._store.save(checkpoint, protect=best_step)
        except Exception as failure:  # Disks and buckets raise unrelated types; none may end training.
            error = f"{type(failure).__name__}: {failure}"
            may_pass = isinstance(failure, StorageDown) or is_transient(failure)
            if isinstance(failure, StoppedEarly) and not may_pass:
                self._lost = failure
            log.warning("the checkpoint of step %d could not be written (%s): older ones stay, the next save tries "
                        "again", checkpoint.step, error)  # fmt: skip
        return Saved(checkpoint.step, self._store.path(checkpoint.step), time.monotonic() - started, error, may_pass)
