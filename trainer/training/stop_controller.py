"""Stop conditions, agreed on by all processes at the same step: a stop request, the time limit, a divergence.

Does not own: listening for signals (``signals.py``), how processes agree (``step_barrier.py``), the decisions of a
validation, which all processes reach alike (``evaluator.py``).  Imports no TensorFlow.
"""

import time
from collections.abc import Callable

from trainer.core.errors import Diverged
from trainer.core.signals import StopRequest
from trainer.distributed.process_group import SingleProcess
from trainer.distributed.step_barrier import Event


class StopController:
    """Reports what should end the loop of this process, and learns what all processes have agreed on."""

    def __init__(
        self,
        group: SingleProcess,
        stop: StopRequest,
        *,
        max_seconds: float,
        started: float,
        announce: Callable[[str], None],
    ) -> None:
        """Bind the stop conditions.

        Args:
            group: of all processes.
            stop: the stop request that this process received, if any.
            max_seconds: time limit from ``started``, in seconds; 0: none.
            started: when this start began, ``time.monotonic()`` seconds.
            announce: called once with the reason when all have agreed to stop.
        """
        self._group = group
        self._stop = stop
        self._announce = announce
        self._max_seconds = max_seconds
        self._started = started
        self._divergence: Diverged | None = None  # Reported in this process, not yet agreed on.
        self.cause = ""  # Of the stop that all have agreed on: a signal's name or "--max_seconds", and whose.

    @property
    def is_chief(self) -> bool:
        """Whether this process is the one that saves."""
        return self._group.index == 0

    def poll(self) -> bool:
        """Return whether all processes stop here; all must call it at the same point.

        Raises:
            Diverged: in all processes, if one of them has reported a divergence.
        """
        event = None if self.cause else self._group.poll(self._wish())
        if event is not None and event.kind == "diverged":
            self._divergence = None
            raise Diverged(event.reason)
        if event is not None:
            self._announce(event.reason)
            self.cause = event.reason
        return bool(self.cause)

    def reason(self) -> str:
        """Return why this process alone would stop, such as "SIGTERM"; empty if it would not.

        Callable from any thread, also while the main thread waits for a batch inside TensorFlow.
        """
        timed_out = 0 < self._max_seconds <= time.monotonic() - self._started
        return self._stop.reason or self._stop.noticed or ("--max_seconds" if timed_out else "")

    def report_divergence(self, divergence: Diverged) -> None:
        """End the loop for a divergence: at once in a single process, otherwise at the step that all agree on.

        Raises:
            Diverged: in a single process.
        """
        if self._group.size == 1:
            raise divergence
        self._divergence = divergence

    def _wish(self) -> Event | None:
        """Return what this process alone would do now."""
        if self._divergence is not None:
            return Event("diverged", str(self._divergence))
        reason = self.reason()
        where = f" of worker {self._group.index}" if self._group.size > 1 else ""
        return Event("stop", reason + where) if reason else None
