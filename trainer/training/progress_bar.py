"""The run on the terminal: a bar with live numbers, or one clean line an epoch where there is no terminal."""

import sys
import time
from typing import Any, TextIO

import tqdm

from trainer.training.loop import Plan
from trainer.training.metrics_log import Window


class ProgressBar:
    """Shows the steps of one process; quiet processes show nothing."""

    def __init__(self, plan: Plan, start_step: int, *, show: bool, stream: TextIO = sys.stderr) -> None:
        """Begin at ``start_step`` of the plan."""
        self._plan, self._show, self._stream = plan, show, stream
        self._is_terminal = show and stream.isatty()
        self._started, self._start_step, self._done = time.monotonic(), start_step, start_step
        self._windows: list[Window] = []
        self._bar: tqdm.tqdm[Any] | None = None

    def step(self, done: int) -> None:
        """Count one step."""
        self._done = done
        if not self._is_terminal:
            return
        if self._bar is None:
            epoch, size = self._plan.epoch_of(done), self._plan.steps_per_epoch
            self._bar = tqdm.tqdm(
                total=size, initial=(done - 1) % size, desc=f"epoch {epoch}/{self._plan.epochs}", unit="step",
                leave=False, file=self._stream, dynamic_ncols=True,
            )  # fmt: skip
        self._bar.update(1)

    def window(self, window: Window) -> None:
        """Show the newest means, and count them into the epoch's."""
        self._windows.append(window)
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"loss {window.loss:.4f}, acc {window.accuracy:.3f}, {window.images_per_second:.0f} images/s, "
                f"data wait {window.waited / window.seconds:.0%}, left {duration(self._left(self._done))}"
            )

    def epoch(self, done: int, values: dict[str, Any]) -> None:
        """Print the line of a finished epoch.

        Args:
            done: steps done.
            values: the validation line.
        """
        windows, self._windows = self._windows, []
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if not self._show:
            return
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

    def close(self) -> None:
        """Remove the bar."""
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
