"""Runs and their progress as a table, wide or not, or as JSON."""

import concurrent.futures
import contextlib
import dataclasses
import datetime
import json
import os
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.core.progress import phase
from trainer.submit import progress, spent, states
from trainer.submit.plan import Table
from trainer.submit.progress import Progress
from trainer.submit.states import Run

_RETRY, _SECONDS = "DEEPDETECT_GCS_RETRY_SECONDS", 20.0
FORMS = ("table", "wide", "json")
_COLUMNS = ("NAME", "STATE", "AGE", "GPUS", "QUEUE", "STEP", "LOSS", "IMAGES/S", "LEFT", "RESTARTS", "JOB_DIR")
_WIDE = ("GPU-HOURS", "COST", "OWNER", "IMAGE", "REASON")


def read(runs: Sequence[Run]) -> list[Progress]:
    """Read the progress of all runs; one whose bucket does not answer soon has a problem instead."""
    with phase("reading the runs' progress in job_dir"), _patience(), concurrent.futures.ThreadPoolExecutor(32) as pool:
        return list(pool.map(lambda run: progress.read(run.job_dir, sweep=run.is_sweep), runs))


@contextlib.contextmanager
def _patience() -> Iterator[None]:
    """Let buckets be retried for less time than a training does, as a person waits; what the user has set stays."""
    if _RETRY in os.environ:
        yield
        return
    os.environ[_RETRY] = str(_SECONDS)
    try:
        yield
    finally:
        del os.environ[_RETRY]


def show(runs: Sequence[Run], every: Sequence[Progress], form: str = "table", prices: Table | None = None) -> str:
    """Return the runs and their progress in one of ``FORMS``; all but the table with what they cost so far."""
    if form == "json":
        return json.dumps([_entry(run, status, prices) for run, status in zip(runs, every, strict=True)], indent=1)
    wide = form == "wide"
    rows = [(*_row(run, status), *(_more(run, status, prices) if wide else ()))
            for run, status in zip(runs, every, strict=True)]  # fmt: skip
    rows = [(*_COLUMNS, *(_WIDE if wide else ())), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def duration(seconds: float | None) -> str:
    """Return seconds as 2h05m or 3m20s."""
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s"


def age(created: str) -> str:
    """Return the time since then as 3d, 5h or 12m."""
    if not created:
        return "-"
    then = datetime.datetime.fromisoformat(created)
    minutes = max(int((datetime.datetime.now(datetime.UTC) - then).total_seconds()), 0) // 60
    return f"{minutes // 1440}d" if minutes >= 2880 else f"{minutes // 60}h" if minutes >= 120 else f"{minutes}m"


def _row(run: Run, status: Progress) -> tuple[str, ...]:
    loss = "-" if status.loss is None else f"{status.loss:.4f}"
    speed = f"{status.images_per_second:.0f}" if status.images_per_second else "-"
    left = duration(status.seconds_left) if run.is_live else "-"
    restarts = str(max(status.starts - 1, 0)) if status.starts else "-"
    return (run.name, _state(run, status), age(run.created), str(run.gpus or "-"), run.queue or "-",
           _steps(run, status), loss, speed, left, restarts, run.job_dir)  # fmt: skip


def _more(run: Run, status: Progress, prices: Table | None) -> tuple[str, ...]:
    used = spent.so_far(run, status, prices)
    hours = "-" if used.gpu_hours is None else f"{used.gpu_hours:.2f}"
    cost = "-" if used.cost is None else f"{used.cost:.2f}{used.currency}"
    return hours, cost, run.owner or "-", run.image, run.detail or "-"


def _entry(run: Run, status: Progress, prices: Table | None) -> dict[str, Any]:
    own = dataclasses.asdict(run)
    used = spent.so_far(run, status, prices)
    own |= {"gpu_hours": used.gpu_hours, "cost": used.cost, "currency": used.currency}
    for name in ("uid", "is_noted"):
        del own[name]
    return {**own, "state": _state(run, status), **dataclasses.asdict(status), "seconds_left": status.seconds_left}


def _state(run: Run, status: Progress) -> str:
    return states.DONE if run.state in (states.GONE, states.EXPIRED) and status.ended else run.state


def _steps(run: Run, status: Progress) -> str:
    if run.is_sweep:
        total = f"/{run.max_trials}" if run.max_trials else ""
        return "-" if status.trials is None else f"{status.trials}{total} trials"
    return "-" if status.step is None else f"{status.step}/{status.total_steps or '?'}"
