"""The training report while a job runs: written after every validation, and when the job stops or fails.

It is made on a thread of its own and takes at most a tenth of the time, so that training does not wait for it.  An
error costs the page and no more.  Does not own: the page (``reports/training.py``), that of a finished job
(``exporter.py``).
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator

from trainer.core.errors import StoppedEarly
from trainer.reports import job_facts
from trainer.reports import training as training_report
from trainer.reports.job_facts import Status
from trainer.training.observers import End, Observer, Start, Validation

log = logging.getLogger(__name__)

_REST = 9  # Times as long as the last page took, the next one waits.
_PATIENCE_SECONDS = 10.0  # For the last page: a stop has little time, and a storage may hang.


class LiveReport(Observer):
    """Writes in the chief; does nothing in other processes."""

    def __init__(self, job_dir: str, draw: Callable[[], training_report.Pictures], *, write: bool) -> None:
        """Bind the report of a job.

        Args:
            job_dir: of the job.
            draw: returns what the page shows of the data; called once, on the thread.
            write: whether this process is the chief.
        """
        self._job_dir = job_dir
        self._draw = draw
        self._write = write
        self._pictures: training_report.Pictures | None = None
        self._wanted: Status | None = None  # What the next page says.
        self._changed = threading.Condition()
        self._is_ending = False
        self._has_warned = False
        self._thread: threading.Thread | None = None

    def on_start(self, start: Start) -> None:
        """Say that a job with a page runs again."""
        if start.step and not start.stopped:
            self._request(Status(job_facts.RUNNING))

    def on_validation(self, validation: Validation) -> None:
        """Write the page with this validation."""
        self._request(Status(job_facts.RUNNING))

    def on_end(self, end: End) -> None:
        """Wait for the page that is being written: what follows may write it too."""
        self._finish()

    @contextlib.contextmanager
    def outcome(self) -> Iterator[None]:
        """Write how the job stopped or failed, if an exception ends the block."""
        try:
            yield
        except StoppedEarly as error:
            self._close(Status(job_facts.STOPPED, str(error)))
            raise
        except Exception as error:
            self._close(Status(job_facts.FAILED, str(error) or type(error).__name__))
            raise

    def _close(self, status: Status) -> None:
        self._request(status)
        self._finish()

    def _request(self, status: Status) -> None:
        """Have the thread write a page; one that it has not begun yet is replaced."""
        if not self._write:
            return
        with self._changed:
            self._wanted = status
            self._changed.notify_all()
            if self._thread is None or not self._thread.is_alive():
                self._is_ending = False
                self._thread = threading.Thread(target=self._run, name="report", daemon=True)
                self._thread.start()

    def _finish(self) -> None:
        """Let the thread write what is wanted, at once, and end; do not wait for ever."""
        thread = self._thread
        if thread is None:
            return
        with self._changed:
            self._is_ending = True
            self._changed.notify_all()
        thread.join(_PATIENCE_SECONDS)

    def _run(self) -> None:
        while (status := self._next()) is not None:
            seconds = self._make(status)
            with self._changed:
                self._changed.wait_for(lambda: self._is_ending, _REST * seconds)

    def _next(self) -> Status | None:
        """Return what the next page says, once one is wanted; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_ending or self._wanted is not None)
            status, self._wanted = self._wanted, None
            return status

    def _make(self, status: Status) -> float:
        """Write a page; return how many seconds the next one will take, which draws no pictures again."""
        before = time.monotonic()
        try:
            if self._pictures is None:
                self._pictures = self._draw()
                before = time.monotonic()
            training_report.write_page(self._job_dir, self._pictures, status)
        except Exception as error:  # Of a page: none is worth the job.
            if not self._has_warned:
                log.warning("the training report cannot be written now: %s; training continues", error)
            self._has_warned = True
        return time.monotonic() - before
