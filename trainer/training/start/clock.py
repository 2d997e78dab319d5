"""Where the seconds of a start go, up to the end of the first step; and a word while that step is compiled.

Imports no TensorFlow.
"""

import logging
import time

from trainer.training.loop import Plan
from trainer.training.observers import Compile, Observer, Step

log = logging.getLogger(__name__)


class StartClock:
    """Adds up the wall-clock seconds of the parts of a start, one after another."""

    def __init__(self) -> None:
        """Begin now."""
        self._began = self._last = time.monotonic()
        self._parts: dict[str, float] = {}

    def end(self, part: str) -> None:
        """Count the time since the last part's end as this part's."""
        now = time.monotonic()
        self._parts[part] = self._parts.get(part, 0.0) + now - self._last
        self._last = now

    def line(self) -> str:
        """Return the seconds of the whole start and of each part."""
        parts = ", ".join(f"{part} {seconds:.1f}" for part, seconds in self._parts.items())
        return f"start: {self._last - self._began:.1f} s: {parts}"


class StartReport(Observer):
    """Logs that a step is compiled, and after the first one the line of the clock."""

    def __init__(self, clock: StartClock, plan: Plan, *, show: bool, on_terminal: bool = False) -> None:
        """Bind the clock of this start.

        Args:
            clock: of this start.
            plan: in which steps the backbone is frozen.
            show: whether this process says anything.
            on_terminal: whether a progress bar says what is compiled.
        """
        self._clock = clock
        self._plan = plan
        self._show = show
        self._on_terminal = on_terminal
        self._is_open = True

    def on_compile(self, event: Compile) -> None:
        """Say so, as nothing else moves until it is done."""
        if self._is_open:
            self._clock.end("features" if event.step < self._plan.frozen_steps else "first batch")
        if self._show and not self._on_terminal:
            log.info("compiling the step ...")

    def on_step(self, step: Step) -> None:
        """Log the line after the first step of this start."""
        if not self._is_open:
            return
        self._is_open = False
        self._clock.end("first step")
        if self._show:
            log.info("%s", self._clock.line())
