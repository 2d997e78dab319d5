"""How long the rest of a training takes: its steps, and the validations between them.

What was compiled first tells nothing of what is left, so the first window of steps and the first batch of the first
validation do not count.  Imports no TensorFlow.
"""

import collections
import dataclasses
import time
from typing import NamedTuple

from trainer.training.loop import Plan
from trainer.training.observers import Window

_WINDOWS = 60  # About the last minute.


@dataclasses.dataclass(frozen=True)
class Series:
    """The place of a job among equally long ones that one command trains one after another.

    Attributes:
        name: of the job in it, such as "seed 4".
        number: of the job, from 1.
        count: of all jobs.
    """

    name: str = ""
    number: int = 1
    count: int = 1

    @property
    def title(self) -> str:
        """What stands in front of the job's progress; empty for a single job."""
        return f"{self.name} ({self.number}/{self.count})" if self.count > 1 else ""


class _Measured(NamedTuple):
    steps: int
    seconds: float
    examples: float


class TimeLeft:
    """Measures steps and validations, and estimates the time to the end of the last job's last validation."""

    def __init__(self, plan: Plan, validation_images: int, series: Series | None = None) -> None:
        """Begin without a measurement; ``validation_images`` are those of one validation."""
        self._plan = plan
        self._later_jobs = series.count - series.number if series else 0
        self._validation_images = validation_images
        # Not the windows, which hold a line of each step.
        self._windows: collections.deque[_Measured] = collections.deque(maxlen=_WINDOWS)
        self._step = 0
        self._validation: float | None = None  # Seconds of one; None: unknown.
        self._began = self._first_batch = 0.0
        self._first_images = 0

    def restart(self, step: int) -> None:
        """Forget what was measured: the steps after ``step`` are others."""
        self._windows.clear()
        self._step = step
        self._validation = None
        self._first_images = 0

    def add_window(self, window: Window) -> None:
        """Count the steps of a window."""
        steps, self._step = window.step - self._step, window.step
        if steps > 0 and not window.compiled:
            self._windows.append(_Measured(steps, window.seconds, window.examples))

    def add_validating(self, images: int, total: int) -> None:
        """Measure a validation: its begin, with no images, and each of its batches."""
        now = time.monotonic()
        if images == 0:
            self._began = now
        elif not self._first_images:  # The first batch ever: it was compiled.
            self._first_images, self._first_batch = images, now
        elif images == total and self._first_batch >= self._began:
            self._validation = (now - self._first_batch) * total / (total - self._first_images)
        elif images == total:
            self._validation = now - self._began

    def text(self, done: int) -> str:
        """Return the time that is left after ``done`` steps; unknown before there is a step that tells of it."""
        plan, later = self._plan, self._later_jobs
        steps = plan.total_steps - done + later * plan.total_steps
        if not steps:
            return duration(0.0)
        if not self._windows or done <= plan.frozen_steps > 0:  # Later steps train all layers.
            return "unknown"
        seconds = sum(each.seconds for each in self._windows)
        a_step = seconds / sum(each.steps for each in self._windows)
        validations = plan.total_steps // plan.steps_per_epoch * (1 + later) - done // plan.steps_per_epoch
        return duration(steps * a_step + validations * self._a_validation(seconds))

    def _a_validation(self, seconds: float) -> float:
        if self._validation is not None:
            return self._validation
        # Before the first one: an image takes no longer than in training.
        examples = sum(each.examples for each in self._windows)
        return self._validation_images * seconds / max(examples, 1.0)


def duration(seconds: float) -> str:
    """Return seconds as 5s, 3m05s or 2h03m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
