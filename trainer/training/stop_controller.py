"""Why a job leaves its loop early: a stop request, the time limit, a divergence; all processes at the same step.

Does not own: listening for signals (``signals.py``), how processes agree (``appointment.py``).  Imports no TensorFlow.
"""

import time
from collections.abc import Callable

from trainer.core.errors import Diverged
from trainer.core.signals import StopRequest
from trainer.distributed.process_group import SingleProcess
from trainer.distributed.step_barrier import Event


class StopController:
    """What this process wants to end the loop for, and what all have agreed on."""

    def __init__(
        self,
        group: SingleProcess,
        stop: StopRequest,
        *,
        max_seconds: float,
        started: float,
        announce: Callable[[str], None],
    ) -> None:
        """Bind the sources of a wish.

        Args:
            group: of all processes.
            stop: what was asked of this one.
            max_seconds: time limit from ``started``, in seconds; 0: none.
            started: when this start began, ``time.monotonic()`` seconds.
            announce: called once with the reason when all have agreed to stop.
        """
        self._group, self._stop, self._announce = group, stop, announce
        self._max_seconds, self._started = max_seconds, started
        self._divergence: Diverged | None = None  # Found by this process, not yet acted upon by all.
        self.cause = ""  # Of the stop that all have agreed on: a signal's name or "--max_seconds", and whose.

    def poll(self) -> bool:
        """Tell whether all processes stop here; all must call it at the same point.

        Raises:
            Diverged: on all, if one of them has found that the loss is no number any more.
        """
        event = None if self.cause else self._group.poll(self._wish())
        if event is not None and event.kind == "diverged":
            self._divergence = None
            raise Diverged(event.reason)
        if event is not None:
            self._announce(event.reason)
            self.cause = event.reason
        return bool(self.cause)

    def diverged(self, divergence: Diverged) -> None:
        """End the loop for a divergence: alone at once, with others at the step that all agree on.

        Raises:
            Diverged: in a process that is alone.
        """
        if self._group.size == 1:
            raise divergence
        self._divergence = divergence

    def _wish(self) -> Event | None:
        """Return what this process alone would do now."""
        if self._divergence is not None:
            return Event("diverged", str(self._divergence))
        timed_out = 0 < self._max_seconds <= time.monotonic() - self._started
        reason = self._stop.reason or ("--max_seconds" if timed_out else "")
        where = f" of worker {self._group.index}" if self._group.size > 1 else ""
        return Event("stop", reason + where) if reason else None
