"""Progress on the terminal: a bar with live numbers, and a line for each epoch; without a terminal only the lines.

Does not own: how long the rest takes (``time_left.py``).
"""

import dataclasses
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

import tqdm

from trainer.core import progress
from trainer.training.loop import Plan
from trainer.training.observers import Compile, End, Observer, Start, Step, Validating, Validation, Window
from trainer.training.start.time_left import Series, TimeLeft

log = logging.getLogger(__name__)

# One time is left, that of the whole job: it stands behind the bar, and that of the epoch is left out.
_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{postfix}"
_BAR_COLUMNS = 34  # Of all but the numbers behind the bar: "epoch 12/100:  50%|####| 1234/5678, ".
# Of the line of an epoch: what a narrow terminal shows first.
_IMPORTANCE = (
    "job", "epoch", "val_loss", "val_auc", "left", "loss", "best", "val_accuracy", "images/s", "accuracy", "lr",
    "data wait",
)  # fmt: skip


@dataclasses.dataclass
class _Sums:
    """Sums over windows, in place of the windows: an epoch may take days."""

    examples: float = 0.0
    loss: float = 0.0  # Of all examples.
    accuracy: float = 0.0  # Of all examples.
    seconds: float = 0.0
    waited: float = 0.0

    def add(self, window: Window) -> None:
        self.examples += window.examples
        self.loss += window.loss * window.examples
        self.accuracy += window.accuracy * window.examples
        self.seconds += window.seconds
        self.waited += window.waited


class ProgressBar(Observer):
    """Shows the steps and validations of one process; silent where ``show`` is False."""

    def __init__(
        self, plan: Plan, *, show: bool, stream: TextIO | None = None, validation_images: int = 0,
        series: Series | None = None,
    ) -> None:  # fmt: skip
        """Bind the plan and the number of validation images; nothing is shown before the first step.

        Of a series of jobs a terminal shows the place of this one, and the time that is left for all.
        """
        self._plan = plan
        self._show = show
        self._stream = stream or sys.stderr  # Not a default argument: others may replace and close sys.stderr.
        self.is_terminal = show and self._stream.isatty()
        series = series if series and self.is_terminal else Series()
        self._job = series.title
        self._left = TimeLeft(plan, validation_images, series)
        self._is_compiling = False
        self._all, self._steady = _Sums(), _Sums()  # Of the epoch; the second without windows of compilation.
        self._bar: tqdm.tqdm[Any] | None = None
        self._validation_began = 0.0
        self._is_announced = False  # The log has said once that validation takes its time.

    def on_start(self, start: Start) -> None:
        """Begin to measure the time that is left."""
        self._left.restart(start.step)

    def on_compile(self, event: Compile) -> None:
        """Say what takes so long."""
        self._left.restart(event.step)
        self._is_compiling = True
        if self.is_terminal:
            self._open(event.step + 1).set_postfix_str("compiling the step ...")

    def on_step(self, step: Step) -> None:
        """Count one step."""
        if self._is_compiling:
            self._is_compiling = False
            self._close()  # The next step opens it again; what the log says in between has a line of its own.
        elif self.is_terminal:
            self._open(step.step).update(1)

    def on_window(self, window: Window) -> None:
        """Show the newest means, and add them to the epoch's."""
        if window.divergence:  # Its means may be NaN, and a rollback may keep the job going.
            return
        for sums in (self._all,) if window.compiled else (self._all, self._steady):
            sums.add(window)
        self._left.add_window(window)
        if self._bar is not None:
            self._bar.set_postfix_str(self._numbers(window))

    def on_validating(self, event: Validating) -> None:
        """Show how far the validation is; without a terminal say once that it goes on."""
        if event.images == 0:
            self._validation_began = time.monotonic()
        self._left.add_validating(event.images, event.total)
        if self.is_terminal:
            self._show_validation(event)
        elif self._show and not self._is_announced and self._validation_seconds() > progress.QUIET_SECONDS:
            self._is_announced = True
            log.info("validation: %d of %d images ...", event.images, event.total)

    def on_validation(self, validation: Validation) -> None:
        """Print the line of a finished epoch."""
        self._close()
        if self._show:
            with progress.no_bars(self._stream):
                print(self._epoch(validation), file=self._stream, flush=True)
        self._all, self._steady = _Sums(), _Sums()

    def on_end(self, end: End) -> None:
        """Remove the bar."""
        self._close()

    def _numbers(self, window: Window) -> str:
        """Return what stands behind the bar: as much as the terminal has room for, the most important first."""
        parts = [f"left {self._time_left(window.step)}", f"loss {window.loss:.4f}"]
        if not window.compiled:
            parts.append(f"{window.images_per_second:.0f} images/s")
        parts += [f"acc {window.accuracy:.3f}", f"data wait {window.waited / window.seconds:.0%}"]
        room = progress.columns(self._stream) - _BAR_COLUMNS - len(self._titled(""))
        return _fitting(parts, room)

    def _time_left(self, done: int) -> str:
        text = self._left.text(done)
        return f"{text} for all" if self._job and text != "unknown" else text

    def _titled(self, text: str) -> str:
        return f"{self._job}, {text}" if self._job else text

    def _epoch(self, validation: Validation) -> str:
        """Return the line of an epoch; on a terminal only as much of it as one row has room for."""
        done, values = validation.step, validation.values
        auc = "undefined" if values["val_auc"] is None else f"{values['val_auc']:.4f}"
        best = "(best)" if self.is_terminal else "(best so far)"
        parts = {
            **({"job": self._job} if self._job else {}),
            "epoch": f"{self._plan.epoch_of(done)}/{self._plan.epochs}",
            **_means(self._all),
            "val_loss": f"{values['val_loss']:.4f}", "val_accuracy": f"{values['val_accuracy']:.4f}", "val_auc": auc,
            "lr": f"{values['learning_rate']:.1e}",
            **_speed(self._steady),
            "left": self._time_left(done), **({"best": best} if values["best"] else {}),
        }  # fmt: skip
        if not self.is_terminal:
            return "  ".join(_words(parts))
        room = progress.columns(self._stream)
        shown: dict[str, str] = {}
        for name in sorted(parts, key=_IMPORTANCE.index):
            wider = {each: text for each, text in parts.items() if each in shown or each == name}
            shown = wider if len("  ".join(_words(wider))) <= room else shown
        return "  ".join(_words(shown))

    def _show_validation(self, event: Validating) -> None:
        if event.images == 0:
            self._close()
            self._bar = tqdm.tqdm(
                total=event.total, desc=self._titled("validation"), unit="image", leave=False, file=self._stream,
                dynamic_ncols=True, bar_format=_FORMAT, delay=1.0,
            )  # fmt: skip
        elif self._bar is not None:
            self._bar.update(event.images - self._bar.n)

    def _validation_seconds(self) -> float:
        return time.monotonic() - self._validation_began

    def _open(self, step: int) -> "tqdm.tqdm[Any]":
        """Return the bar of the epoch of a step, which is not counted in it yet."""
        if self._bar is None:
            epoch, size = self._plan.epoch_of(step), self._plan.steps_per_epoch
            self._bar = tqdm.tqdm(
                total=size, initial=(step - 1) % size, desc=self._titled(f"epoch {epoch}/{self._plan.epochs}"),
                unit="step", leave=False, file=self._stream, dynamic_ncols=True, bar_format=_FORMAT,
            )  # fmt: skip
        return self._bar

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _words(parts: Mapping[str, str]) -> Iterator[str]:
    for name, text in parts.items():
        yield text if name in ("job", "best") else f"{text} {name}" if name == "images/s" else f"{name} {text}"


def _means(sums: _Sums) -> dict[str, str]:
    """Return means over the epoch's examples; nothing if this start did none of its steps."""
    if not sums.examples:
        return {}
    return {"loss": f"{sums.loss / sums.examples:.4f}", "accuracy": f"{sums.accuracy / sums.examples:.4f}"}


def _speed(sums: _Sums) -> dict[str, str]:
    """Return speed and wait over windows without compilation; nothing if there are none."""
    if not sums.seconds:
        return {}
    return {"images/s": f"{sums.examples / sums.seconds:.0f}", "data wait": f"{sums.waited / sums.seconds:.0%}"}


def _fitting(parts: Sequence[str], room: int) -> str:
    """Return as many of the parts as fit into so many columns, at least the first."""
    text = parts[0]
    for part in parts[1:]:
        if len(text) + 2 + len(part) <= room:
            text += f", {part}"
    return text
