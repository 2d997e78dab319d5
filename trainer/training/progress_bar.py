"""Progress on the terminal: a bar with live numbers, and a line for each epoch; without a terminal only the lines."""

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import tqdm

from trainer.training.loop import Plan
from trainer.training.observers import Compile, End, Observer, Start, Step, Validation, Window


class ProgressBar(Observer):
    """Shows the steps of one process; silent where ``show`` is False."""

    def __init__(self, plan: Plan, *, show: bool, stream: TextIO | None = None) -> None:
        """Bind the plan; nothing is shown before the first step."""
        self._plan = plan
        self._show = show
        self._stream = stream or sys.stderr  # Not a default argument: others may replace and close sys.stderr.
        self.is_terminal = show and self._stream.isatty()
        self._started = time.monotonic()
        self._start_step = 0
        self._done = 0
        self._is_compiling = False
        self._windows: list[Window] = []
        self._bar: tqdm.tqdm[Any] | None = None

    def on_start(self, start: Start) -> None:
        """Begin to measure the time that is left."""
        self._measure_from(start.step)

    def on_compile(self, event: Compile) -> None:
        """Say what takes so long."""
        self._is_compiling = True
        if self.is_terminal:
            self._open(event.step + 1).set_postfix_str("compiling the step ...")

    def on_step(self, step: Step) -> None:
        """Count one step."""
        self._done = step.step
        if self._is_compiling:  # What came before, reading or computing features too, tells nothing of what is left.
            self._is_compiling = False
            self._measure_from(step.step)
            self._close()  # The next step opens it again; what the log says in between has a line of its own.
        elif self.is_terminal:
            self._open(step.step).update(1)

    def on_window(self, window: Window) -> None:
        """Show the newest means, and add them to the epoch's."""
        if window.divergence:  # Its means may be NaN, and a rollback may keep the job going.
            return
        self._windows.append(window)
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"loss {window.loss:.4f}, acc {window.accuracy:.3f}, {window.images_per_second:.0f} images/s, "
                f"data wait {window.waited / window.seconds:.0%}, left {self._left(self._done)}"
            )

    def on_validation(self, validation: Validation) -> None:
        """Print the line of a finished epoch."""
        windows, self._windows = self._windows, []
        self._close()
        if self._show:
            self._print_epoch(validation.step, validation.values, windows)

    def on_end(self, end: End) -> None:
        """Remove the bar."""
        self._close()

    def _print_epoch(self, done: int, values: Mapping[str, Any], windows: list[Window]) -> None:
        examples, seconds = sum(w.examples for w in windows), sum(w.seconds for w in windows)
        loss = sum(w.loss * w.examples for w in windows) / max(examples, 1)
        accuracy = sum(w.accuracy * w.examples for w in windows) / max(examples, 1)
        auc = "undefined" if values["val_auc"] is None else f"{values['val_auc']:.4f}"
        print(
            f"epoch {self._plan.epoch_of(done)}/{self._plan.epochs}  loss {loss:.4f}  accuracy {accuracy:.4f}  "
            f"val_loss {values['val_loss']:.4f}  val_accuracy {values['val_accuracy']:.4f}  val_auc {auc}  "
            f"lr {values['learning_rate']:.1e}  {examples / max(seconds, 1e-9):.0f} images/s  "
            f"data wait {sum(w.waited for w in windows) / max(seconds, 1e-9):.0%}  left {self._left(done)}"
            f"{'  (best so far)' if values['best'] else ''}",
            file=self._stream,
            flush=True,
        )

    def _open(self, step: int) -> "tqdm.tqdm[Any]":
        """Return the bar of the epoch of a step, which is not counted in it yet."""
        if self._bar is None:
            epoch, size = self._plan.epoch_of(step), self._plan.steps_per_epoch
            self._bar = tqdm.tqdm(
                total=size, initial=(step - 1) % size, desc=f"epoch {epoch}/{self._plan.epochs}", unit="step",
                leave=False, file=self._stream, dynamic_ncols=True,
            )  # fmt: skip
        return self._bar

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _measure_from(self, step: int) -> None:
        self._started = time.monotonic()
        self._start_step = self._done = step

    def _left(self, done: int) -> str:
        """Return the time to the last step; unknown before there is a step that was not compiled first."""
        fresh, steps = done - self._start_step, self._plan.total_steps - done
        if fresh <= 0 and steps:
            return "unknown"
        return duration((time.monotonic() - self._started) / max(fresh, 1) * steps)


def duration(seconds: float) -> str:
    """Return seconds as 5s, 3m05s or 2h03m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
