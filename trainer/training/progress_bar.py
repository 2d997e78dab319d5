"""Progress on the terminal: a bar with live numbers, and a line for each epoch; without a terminal only the lines."""

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import tqdm

from trainer.training.loop import Plan
from trainer.training.observers import End, Observer, Start, Step, Validation, Window


class ProgressBar(Observer):
    """Shows the steps of one process; silent where ``show`` is False."""

    def __init__(self, plan: Plan, *, show: bool, stream: TextIO | None = None) -> None:
        """Bind the plan; nothing is shown before the first step."""
        self._plan = plan
        self._show = show
        self._stream = stream or sys.stderr  # Not a default argument: others may replace and close sys.stderr.
        self._is_terminal = show and self._stream.isatty()
        self._started = time.monotonic()
        self._start_step = 0
        self._done = 0
        self._windows: list[Window] = []
        self._bar: tqdm.tqdm[Any] | None = None

    def on_start(self, start: Start) -> None:
        """Begin to measure the time that is left."""
        if not start.rollback:
            self._started = time.monotonic()
            self._start_step = self._done = start.step

    def on_step(self, step: Step) -> None:
        """Count one step."""
        done = self._done = step.step
        if not self._is_terminal:
            return
        if self._bar is None:
            epoch, size = self._plan.epoch_of(done), self._plan.steps_per_epoch
            self._bar = tqdm.tqdm(
                total=size, initial=(done - 1) % size, desc=f"epoch {epoch}/{self._plan.epochs}", unit="step",
                leave=False, file=self._stream, dynamic_ncols=True,
            )  # fmt: skip
        self._bar.update(1)

    def on_window(self, window: Window) -> None:
        """Show the newest means, and add them to the epoch's."""
        if window.divergence:  # Its means may be NaN, and a rollback may keep the job going.
            return
        self._windows.append(window)
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"loss {window.loss:.4f}, acc {window.accuracy:.3f}, {window.images_per_second:.0f} images/s, "
                f"data wait {window.waited / window.seconds:.0%}, left {duration(self._left(self._done))}"
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
            f"data wait {sum(w.waited for w in windows) / max(seconds, 1e-9):.0%}  left {duration(self._left(done))}"
            f"{'  (best so far)' if values['best'] else ''}",
            file=self._stream,
            flush=True,
        )

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _left(self, done: int) -> float:
        fresh = done - self._start_step
        elapsed = time.monotonic() - self._started
        return elapsed / fresh * (self._plan.total_steps - done) if fresh > 0 else 0.0


def duration(seconds: float) -> str:
    """Return seconds as 5s, 3m05s or 2h03m."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
