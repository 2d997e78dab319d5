"""Statistics of the training steps: fetched from the device in windows, averaged into train lines.

The numbers of a step stay on the device until a window of steps is fetched at once, so the loop never waits for one.
Owns: the fetch, the averages, the unfinished train line (part of a checkpoint), and finding a divergence.
Does not own: writing them (``metrics_log.py``), what a divergence leads to (``stop_controller.py``, ``trainer.py``).
"""

import dataclasses
import itertools
import math
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.training.loop import Plan
from trainer.training.observers import TrainLine, Window
from trainer.training.step.loss_scale import MIN_LOSS_SCALE
from trainer.training.step.train_step import StepStats

_WINDOW_SECONDS = 1.0
_WINDOW_STEPS = 200


@dataclasses.dataclass
class _Pending:
    step: int
    rate: float


@dataclasses.dataclass
class _Speed:
    images: float = 0.0
    seconds: float = 0.0

    def add(self, window: Window) -> None:
        self.images += window.examples
        self.seconds += window.seconds

    @property
    def images_per_second(self) -> float | None:
        return self.images / self.seconds if self.seconds else None


@dataclasses.dataclass
class _Call:
    steps: list[_Pending]
    rows: tf.Tensor  # [n, 6] on the device, see ``StepStats``; one for each step, perhaps more.


class StepStatistics:
    """Collects the numbers of the steps and returns them in windows."""

    def __init__(self, plan: Plan) -> None:
        """Begin without a step; ``plan`` says at which steps a train line ends."""
        self._plan = plan
        self._pending: list[_Call] = []
        self._line: list[StepStats] = []  # Fetched steps of the train line that is not finished yet.
        self._started = time.monotonic()
        self._waited = 0.0
        self._compiled = False
        self._all = _Speed()
        self._steady = _Speed()

    @property
    def images_per_second(self) -> float | None:
        """Real examples over training time of this start; None before the first window.

        Without the windows in which a step was compiled, unless there are no others.
        """
        return self._steady.images_per_second or self._all.images_per_second

    def state(self) -> list[list[Any]]:
        """Return what a checkpoint must hold: the steps of an unfinished train line."""
        return [list(dataclasses.astuple(stats)) for stats in self._line]

    def restore(self, state: list[list[Any]]) -> None:
        """Continue from a checkpoint's state; steps that were not fetched are dropped."""
        self._pending = []
        self._line = [StepStats(*numbers) for numbers in state]  # Older versions have fewer numbers.

    def resume_clock(self) -> None:
        """Begin a window: what came before (validation, saving) is not training time."""
        self._started = time.monotonic()
        self._waited = 0.0

    def add(
        self, first: int, rates: Sequence[float], rows: tf.Tensor, waited: float, *, compiled: bool = False
    ) -> None:
        """Add the steps of one call, whose numbers are still on the device.

        Args:
            first: steps done with the first of them.
            rates: learning rate of each.
            rows: [n, 6], see ``StepStats``, n at least the number of steps.
            waited: seconds that the loop waited for the batches.
            compiled: whether the call was compiled first; it gets a window of its own.
        """
        self._pending.append(_Call([_Pending(first + i, rate) for i, rate in enumerate(rates)], rows))
        self._waited += waited
        self._compiled |= compiled

    def fetch(self, *, force: bool) -> Window | None:
        """Fetch the pending steps if there are enough or ``force``; a divergence is reported in the window."""
        steps = sum(len(call.steps) for call in self._pending)
        full = steps >= _WINDOW_STEPS or time.monotonic() - self._started >= _WINDOW_SECONDS
        if not self._pending or not (force or full or self._compiled):
            return None
        calls, self._pending = self._pending, []
        # One transfer for all steps; it waits for the last of them, so the clock is read after it.
        rows = iter(_fetched([call.rows for call in calls]))
        seconds = max(time.monotonic() - self._started, 1e-9)
        # Of each call as many rows as it had steps.
        stats = [
            StepStats.of(row)
            for call in calls
            for row in list(itertools.islice(rows, len(call.rows)))[: len(call.steps)]
        ]
        pending = [entry for call in calls for entry in call.steps]
        window = self._window(pending, stats, seconds)
        for speed in (self._all,) if window.compiled else (self._all, self._steady):
            speed.add(window)
        self._compiled = False
        self.resume_clock()
        return window

    def _window(self, pending: list[_Pending], stats: list[StepStats], seconds: float) -> Window:
        means = _train_values(stats, 0.0, 0.0)
        window = Window(
            step=pending[-1].step,
            learning_rate=pending[-1].rate,
            loss=means["loss"],
            accuracy=means["accuracy"],
            gradient_norm=means.get("gradient_norm"),
            examples=means["examples"],
            seconds=seconds,
            waited=self._waited,
            divergence=_divergence(pending, stats),
            compiled=self._compiled,
        )
        return dataclasses.replace(window, lines=self._finish_lines(pending, stats, window.images_per_second))

    def _finish_lines(
        self, pending: list[_Pending], stats: list[StepStats], images_per_second: float
    ) -> list[TrainLine]:
        """Add the steps to the unfinished line; return the lines that end among them."""
        lines = []
        for entry, step_stats in zip(pending, stats, strict=True):
            self._line.append(step_stats)
            if self._plan.logs_at(entry.step):
                lines.append(TrainLine(entry.step, _train_values(self._line, entry.rate, images_per_second)))
                self._line = []
        return lines


def _fetched(parts: list[tf.Tensor]) -> npt.NDArray[np.float32]:
    """Return the rows of all parts, which are of one shape, and more after them, in one transfer.

    TensorFlow keeps a kernel for every number of inputs that it ever joined, 0.6 MB for 200 of them, and a window may
    have any number.  So the last part fills it up to a power of two, and there are few.
    """
    missing = (1 << (len(parts) - 1).bit_length()) - len(parts)
    rows: npt.NDArray[np.float32] = tf.concat([*parts, *[parts[-1]] * missing], axis=0).numpy()
    return rows


def _train_values(line: list[StepStats], rate: float, images_per_second: float) -> dict[str, Any]:
    """Return the values of a train line: means over the examples of its applied steps."""
    applied = [stats for stats in line if stats.applied]
    examples = sum(stats.examples for stats in applied)
    values: dict[str, Any] = {
        "loss": sum(stats.loss_sum for stats in applied) / examples if examples else math.nan,
        "accuracy": sum(stats.correct for stats in applied) / examples if examples else math.nan,
        "learning_rate": rate,
        "images_per_second": round(images_per_second, 2),
        "examples": int(sum(stats.examples for stats in line)),
    }
    norms = [stats.gradient_norm for stats in applied if stats.gradient_norm is not None]
    if norms:
        values["gradient_norm"] = sum(norms) / len(norms)
    if line[-1].loss_scale != 1.0:
        values |= {"loss_scale": line[-1].loss_scale, "skipped_steps": len(line) - len(applied)}
    return values


def _divergence(pending: list[_Pending], stats: list[StepStats]) -> str:
    """Return why the first bad step is one; empty if all are good."""
    previous = pending[0].step - 1
    for entry, step_stats in zip(pending, stats, strict=True):
        if not step_stats.applied and step_stats.loss_scale <= MIN_LOSS_SCALE:
            return (
                f"float16 overflows at step {entry.step} even without a loss scale; lower --learning_rate, or use "
                "--precision=mixed_bfloat16 or float32"
            )
        if step_stats.applied and not math.isfinite(step_stats.loss_sum):
            return (
                f"the loss is not finite at step {entry.step} (it was at step {previous}); lower --learning_rate, or "
                "use --precision=float32"
            )
        previous = entry.step
    return ""
