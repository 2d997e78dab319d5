"""The run as it is written down: ``metrics.jsonl``, and TensorBoard events beside it.

Losses stay on the device until a window of steps is fetched at once, so the loop never waits for a number.
Owns: the format of the lines, and that a resumed job has every step once.
Does not own: the terminal (``progress_bar.py``), event files (``tensorboard.py``).
"""

import dataclasses
import json
import math
import time
from typing import Any

import tensorflow as tf

from trainer.core.errors import Diverged
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files
from trainer.core.storage.lines import BufferedLines
from trainer.training.loop import Plan
from trainer.training.tensorboard import SummaryWriter
from trainer.training.train_step import MIN_LOSS_SCALE, StepStats

_WINDOW_SECONDS = 1.0
_WINDOW_STEPS = 200


@dataclasses.dataclass(frozen=True)
class Window:
    """Means over the steps fetched at once.

    Attributes:
        loss: mean cross-entropy over the examples of applied steps, nats.
        accuracy: share of examples predicted right.
        examples: real examples.
        seconds: wall time.
        waited: seconds of it spent waiting for data.
    """

    loss: float
    accuracy: float
    examples: float
    seconds: float
    waited: float

    @property
    def images_per_second(self) -> float:
        """Real examples over wall time."""
        return self.examples / self.seconds


@dataclasses.dataclass
class _Pending:
    step: int
    rate: float
    stats: Any


class MetricsLog:
    """Writes lines for the chief; other processes keep quiet."""

    def __init__(self, paths: JobPaths, plan: Plan, *, write: bool) -> None:
        """Open the journal of a job.

        Args:
            paths: of the job.
            plan: tells epochs and the cadence of train lines.
            write: whether this process is the chief.
        """
        self._paths, self._plan, self._write = paths, plan, write
        self._lines = BufferedLines(paths.metrics)
        self.events = SummaryWriter(paths.tensorboard, write=write)
        self._pending: list[_Pending] = []
        self._group: list[StepStats] = []  # Steps of the next train line that are fetched already.
        self._started = time.monotonic()
        self._waited = 0.0
        self.images = 0.0
        self.seconds = 0.0

    def continue_from(self, step: int) -> None:
        """Drop the lines and events of steps that will be done again, so that every step stands there once."""
        self.events.continue_from(step)
        self._pending = []
        self._lines.flush()
        if not self._write or not files.exists(self._paths.metrics):
            return
        lines = files.read_text(self._paths.metrics).splitlines(keepends=True)
        kept = [line for line in lines if _is_whole(line) and _stays(json.loads(line), step)]
        if kept != lines:
            files.write_text(self._paths.metrics, "".join(kept))

    def state(self) -> list[list[float]]:
        """Return what a checkpoint must hold: the steps of an unfinished train line."""
        return [list(dataclasses.astuple(one)) for one in self._group]

    def restore(self, state: list[list[float]]) -> None:
        """Continue from a checkpoint's state."""
        self._group = [StepStats.of(vector) for vector in state]

    def line(self, kind: str, step: int, **values: Any) -> None:
        """Append one line; numbers that are not finite become null."""
        self._append([self._record(kind, step, values)])
        self.flush()

    def flush(self) -> None:
        """Write what waits for a slow disk or bucket: a checkpoint must not know more steps than ``metrics.jsonl``."""
        self._lines.flush()
        self.events.send()

    def resume_clock(self) -> None:
        """Begin a window: what came before (validation, saving) is not training time."""
        self._started, self._waited = time.monotonic(), 0.0

    def add(self, step: int, rate: float, stats: tf.Tensor, waited: float) -> None:
        """Note a step whose numbers are still on the device.

        Args:
            step: steps done with this one.
            rate: its learning rate.
            stats: [5], see ``StepStats``.
            waited: seconds that the loop waited for the batch.
        """
        self._pending.append(_Pending(step, rate, stats))
        self._waited += waited

    def fetch(self, *, force: bool) -> Window | None:
        """Fetch and write the pending steps if the window is full or ``force``; return its means.

        Raises:
            Diverged: if a loss is not finite in a step that was applied.
        """
        full = len(self._pending) >= _WINDOW_STEPS or time.monotonic() - self._started >= _WINDOW_SECONDS
        if not self._pending or not (force or full):
            return None
        pending, self._pending = self._pending, []
        stats = [StepStats.of(vector) for vector in tf.stack([entry.stats for entry in pending]).numpy()]
        seconds = max(time.monotonic() - self._started, 1e-9)
        window = _window(stats, seconds, self._waited)
        self.images, self.seconds = self.images + window.examples, self.seconds + seconds
        self._write_steps(pending, stats, window.images_per_second)
        self.events.scalars(pending[-1].step, {"train/loss": window.loss, "train/accuracy": window.accuracy,
                                                "train/learning_rate": pending[-1].rate,
                                                "train/images_per_second": window.images_per_second})  # fmt: skip
        self.resume_clock()
        self._refuse_divergence(pending, stats)
        return window

    def validation(self, step: int, values: dict[str, Any]) -> None:
        """Write the line of one validation."""
        self.events.scalars(step, {f"validation/{name.removeprefix('val_')}": value for name, value in values.items()})
        self.line("validation", step, **values)

    def _write_steps(self, pending: list[_Pending], stats: list[StepStats], images_per_second: float) -> None:
        records = []
        for entry, one in zip(pending, stats, strict=True):
            self._group.append(one)
            if self._plan.logs_at(entry.step):
                values = _train_values(self._group, entry.rate, images_per_second)
                records.append(self._record("train", entry.step, values))
                self._group = []
        self._append(records)

    def _record(self, kind: str, step: int, values: dict[str, Any]) -> dict[str, Any]:
        values = {name: round_rate(value) if name == "learning_rate" else value for name, value in values.items()}
        finite = {name: None if _not_finite(value) else value for name, value in values.items()}
        return {"kind": kind, "step": step, "epoch": self._plan.epoch_of(step), **finite}

    def _append(self, records: list[dict[str, Any]]) -> None:
        if self._write:
            self._lines.add([json.dumps(record) for record in records])

    def _refuse_divergence(self, pending: list[_Pending], stats: list[StepStats]) -> None:
        for before, entry, one in zip([None, *pending], pending, stats, strict=False):
            if not one.applied and one.loss_scale <= MIN_LOSS_SCALE:
                raise Diverged(
                    f"float16 overflows at step {entry.step} even without a loss scale; lower --learning_rate, or use "
                    "--precision=mixed_bfloat16 or float32"
                )
            if one.applied and not math.isfinite(one.loss_sum):
                since = before.step if before else entry.step - 1
                raise Diverged(
                    f"the loss is not finite at step {entry.step} (it was at step {since}); lower --learning_rate, or "
                    "use --precision=float32"
                )


def _window(stats: list[StepStats], seconds: float, waited: float) -> Window:
    values = _train_values(stats, 0.0, 0.0)
    return Window(values["loss"], values["accuracy"], values["examples"], seconds, waited)


def _train_values(group: list[StepStats], rate: float, images_per_second: float) -> dict[str, Any]:
    """Return the values of a train line: means over the examples of the group's applied steps."""
    applied = [one for one in group if one.applied]
    examples = sum(one.examples for one in applied)
    values: dict[str, Any] = {
        "loss": sum(one.loss_sum for one in applied) / examples if examples else math.nan,
        "accuracy": sum(one.correct for one in applied) / examples if examples else math.nan,
        "learning_rate": rate,
        "images_per_second": round(images_per_second, 2),
        "examples": int(sum(one.examples for one in group)),
    }
    if group[-1].loss_scale != 1.0:
        values |= {"loss_scale": group[-1].loss_scale, "skipped_steps": len(group) - len(applied)}
    return values


def round_rate(rate: float) -> float:
    """Return a learning rate as a person wrote it: seven digits, all that the optimizer's float32 holds."""
    return float(f"{rate:.7g}")


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _stays(record: dict[str, Any], step: int) -> bool:
    """Tell whether a line is still true when the job goes on after ``step``."""
    return bool(record["step"] <= step and record["kind"] != "end")


def _is_whole(line: str) -> bool:
    """Tell whether a line was written to its end; a kill can cut the last one."""
    try:
        return line.endswith("\n") and isinstance(json.loads(line), dict)
    except json.JSONDecodeError:
        return False
