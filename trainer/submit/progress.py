"""Progress of a run, from the files in its job_dir."""

import contextlib
import csv
import dataclasses
import datetime
import json
from collections.abc import Sequence
from typing import Any

from trainer.core.job_dir import JobPaths, SweepPaths
from trainer.core.storage import files


@dataclasses.dataclass(frozen=True)
class Progress:
    """Progress of a run from its metrics.jsonl; None where that has no value.

    Attributes:
        step: steps done.
        total_steps: of the whole run.
        loss: of the newest train line, nats.
        images_per_second: of the newest train line.
        batch_size: global batch, images.
        starts: number of starts of the trainer.
        ended: whether the trainer recorded its end.
        trials: of a sweep, those that ended.
        busy_seconds: from each start's first line to its last.
        newest: time of the last line (ISO 8601); empty if it has none.
        problem: why the file cannot be read, empty if it can.
    """

    step: int | None = None
    total_steps: int | None = None
    loss: float | None = None
    images_per_second: float | None = None
    batch_size: int | None = None
    starts: int = 0
    ended: bool = False
    trials: int | None = None
    busy_seconds: float | None = None
    newest: str = ""
    problem: str = ""

    @property
    def seconds_left(self) -> float | None:
        """Remaining training time at the newest speed."""
        if self.step is None or not (self.total_steps and self.batch_size and self.images_per_second):
            return None
        return max(self.total_steps - self.step, 0) * self.batch_size / self.images_per_second


def read(job_dir: str, *, sweep: bool = False) -> Progress:
    """Read a run's progress from its job_dir; a missing file means that there is none yet.

    Args:
        job_dir: of the run.
        sweep: whether it searches for settings.
    """
    if not job_dir:
        return Progress(problem="no --job_dir")
    paths = JobPaths(job_dir)
    try:
        if sweep:
            return _of_sweep(SweepPaths(job_dir))
        if not files.exists(paths.metrics):
            return Progress()
        lines = files.read_text(paths.metrics).splitlines()
        batch = json.loads(files.read_text(paths.config)).get("batch_size") if files.exists(paths.config) else None
    except Exception as error:  # Any error of a bucket's client: the other runs must still be listed.
        return Progress(problem=" ".join(str(error).split())[:120])
    return _progress(_entries(lines), batch)


def _of_sweep(paths: SweepPaths) -> Progress:
    """Return a sweep's progress from its table, which has a row for each trial that ended."""
    rows = list(csv.reader(files.read_text(paths.table).splitlines())) if files.exists(paths.table) else [[]]
    return Progress(trials=len(rows) - 1, ended=files.exists(paths.done))


def _entries(lines: list[str]) -> list[Any]:
    """Return the lines' contents, without those of a line that is being written."""
    entries = []
    for line in lines:
        with contextlib.suppress(ValueError):
            entries.append(json.loads(line))
    return entries


def _busy(entries: Sequence[Any]) -> tuple[float | None, str]:
    """Return the seconds from each start to its last line, summed, and the time of the last line."""
    begin = end = None
    seconds = 0.0
    for entry in entries:
        try:
            time = datetime.datetime.fromisoformat(entry["time"]).astimezone(datetime.UTC)
        except (ValueError, KeyError, TypeError):
            continue  # Of an older version.
        if entry.get("kind") == "start" or begin is None or end is None:
            seconds += (end - begin).total_seconds() if begin and end else 0.0
            begin = time
        end = time
    if begin is None or end is None:
        return None, ""
    return seconds + (end - begin).total_seconds(), end.isoformat()


def _progress(entries: Sequence[Any], batch_size: int | None) -> Progress:
    newest: dict[str, dict[str, Any]] = {}
    starts = step = 0
    for entry in entries:
        newest[entry["kind"]] = entry
        starts += entry["kind"] == "start"
        step = entry["step"]
    train = newest.get("train", {})
    busy, last = _busy(entries)
    return Progress(
        step=step if newest else None,
        total_steps=newest.get("start", {}).get("total_steps"),
        loss=train.get("loss"),
        images_per_second=train.get("images_per_second"),
        batch_size=batch_size,
        starts=starts,
        ended="end" in newest and newest["end"]["step"] >= step,
        busy_seconds=busy,
        newest=last,
    )
