"""The training record in ``metrics.jsonl``: one JSON object a line.

Owns: the format of the lines, and that every step appears once, also in a resumed job.
Does not own: the numbers (``step_stats.py``), the terminal (``progress_bar.py``), event files (``tensorboard.py``).
Imports no TensorFlow.
"""

import datetime
import json
import math
import os
from collections.abc import Callable
from typing import Any

from trainer.core.job_dir import JobPaths
from trainer.core.storage import files
from trainer.core.storage.lines import BufferedLines
from trainer.training.loop import Plan
from trainer.training.observers import Observer, SavedCheckpoint, Start, Validation, Window


class MetricsLog(Observer):
    """Writes lines in the chief; does nothing in other processes."""

    def __init__(self, paths: JobPaths, plan: Plan, *, write: bool) -> None:
        """Open the log of a job.

        Args:
            paths: of the job.
            plan: says which epoch a step belongs to.
            write: whether this process is the chief.
        """
        self._paths = paths
        self._plan = plan
        self._write = write
        self._lines = BufferedLines(paths.metrics)
        self._validated = -1  # Step of a validation whose line an earlier start wrote; -1: none.

    def on_start(self, start: Start) -> None:
        """Drop the lines of steps that will be done again; write the "start" line unless this is a rollback."""
        self._drop_after(start.step)
        if not start.rollback:
            self.write_line("start", start.step, **start.machine, total_steps=start.total_steps, time=utc_now())

    def on_window(self, window: Window) -> None:
        """Write the train lines that a window finished, with what the window says of this process."""
        if not (self._write and window.lines):
            return
        process = {"data_wait": round(window.waited / window.seconds, 4), **_memory()}
        self._append([self._record("train", line.step, {**line.values, **process}) for line in window.lines])

    def on_validation(self, validation: Validation) -> None:
        """Write the line of a validation, in place of one whose outcome a kill kept out of the checkpoint."""
        if validation.step == self._validated:
            self._keep(lambda record: record["kind"] != "validation" or record["step"] != validation.step)
            self._validated = -1
        self.write_line("validation", validation.step, **validation.values)

    def on_checkpoint(self, checkpoint: SavedCheckpoint) -> None:
        """Write the line of a checkpoint."""
        self.write_line("checkpoint", checkpoint.step, path=checkpoint.path, seconds=round(checkpoint.seconds, 3))

    def write_line(self, kind: str, step: int, **values: Any) -> None:
        """Append one line and flush; numbers that are not finite become null."""
        self._append([self._record(kind, step, values)])
        self.flush()

    def flush(self) -> None:
        """Write what waits for a slow disk or bucket: a checkpoint must not know more steps than ``metrics.jsonl``."""
        self._lines.flush()

    def _drop_after(self, step: int) -> None:
        """Remove the lines of later steps, the "end" line, and a last line that a kill cut off."""
        records = self._keep(lambda record: record["step"] <= step and record["kind"] != "end")
        validated = {record["step"] for record in records if record["kind"] == "validation"}
        self._validated = step if step in validated else -1

    def _keep(self, is_valid: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
        """Rewrite the file without the lines that are not valid, if there are any; return the others' records."""
        self._lines.flush()
        if not self._write or not files.exists(self._paths.metrics):
            return []
        lines = files.read_bytes(self._paths.metrics).decode("utf-8", "replace").splitlines(keepends=True)
        kept = [(line, record) for line in lines if (record := _record_of(line)) and is_valid(record)]
        if len(kept) < len(lines):
            files.write_text(self._paths.metrics, "".join(line for line, _ in kept))
        return [record for _, record in kept]

    def _record(self, kind: str, step: int, values: dict[str, Any]) -> dict[str, Any]:
        values = {name: round_rate(value) if name == "learning_rate" else value for name, value in values.items()}
        finite = {name: None if _is_not_finite(value) else value for name, value in values.items()}
        times = {} if "time" in finite else {"time": utc_now()}
        return {"kind": kind, "step": step, "epoch": self._plan.epoch_of(step), **finite, **times}

    def _append(self, records: list[dict[str, Any]]) -> None:
        if self._write:
            self._lines.add([json.dumps(record) for record in records])


def round_rate(rate: float) -> float:
    """Return a learning rate as a person wrote it: seven digits, all that the optimizer's float32 holds."""
    return float(f"{rate:.7g}")


def utc_now() -> str:
    """Return the time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _memory() -> dict[str, int]:
    """Return the memory of this process on the host, bytes; nothing where the system does not say it in this form."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return {"memory_bytes": int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")}
    except (OSError, ValueError, IndexError):
        return {}


def _is_not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def _record_of(line: str) -> dict[str, Any] | None:
    """Return a line's record; None if it was not written to its end, as a kill can cut the last one."""
    try:
        record = json.loads(line) if line.endswith("\n") else None
    except json.JSONDecodeError:
        return None
    return record if isinstance(record, dict) and {"kind", "step"} <= record.keys() else None
