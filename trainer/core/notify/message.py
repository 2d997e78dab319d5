"""What is told of a job that has ended, from its folder."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

from trainer.core.job_dir import JobPaths, SweepPaths
from trainer.core.storage import files

DONE, FAILED = "done", "failed"


@dataclasses.dataclass(frozen=True)
class End:
    """How a job ended.

    Attributes:
        name: of the job or run.
        state: ``done``, ``failed`` or another word for a run's state.
        exit_code: of the job's process, or of the command that followed it.
        job_dir: of the job.
        reason: one line; empty if there is nothing to explain.
    """

    name: str
    state: str
    exit_code: int
    job_dir: str
    reason: str = ""


def of(end: End) -> dict[str, Any]:
    """Return the message: JSON's types only, with the field ``text`` that chat programs show.

    Raises:
        Exception: of the storage in which job_dir lies.
    """
    result = _read(JobPaths(end.job_dir).result) if end.state == DONE else {}
    step = result.get("step", _newest_step(end.job_dir))
    metrics = {name: value for name, value in _finite(result.get("validation", {})).items() if value is not None}
    return {**bare(end), "text": _text(end, step, metrics), "step": step, "metrics": metrics,
            "report": _report(end.job_dir)}  # fmt: skip


def bare(end: End) -> dict[str, Any]:
    """Return the message of a job whose folder cannot be read."""
    return {**dataclasses.asdict(end), "text": _text(end, None, {}), "step": None, "metrics": {}, "report": ""}


def _text(end: End, step: int | None, metrics: Mapping[str, Any]) -> str:
    at = "" if step is None else f" at step {step}"
    values = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items() if isinstance(value, float))
    code = f" (exit code {end.exit_code})" if end.exit_code else ""
    return "; ".join(filter(None, (f"deepdetect: {end.name} {end.state}{at}{code}", values, end.reason, end.job_dir)))


def _newest_step(job_dir: str) -> int | None:
    path = JobPaths(job_dir).metrics
    lines = files.read_text(path).splitlines() if files.exists(path) else []
    for line in reversed(lines):
        try:
            return int(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue  # A line that was being written.
    return None


def _report(job_dir: str) -> str:
    paths = (f"{JobPaths(job_dir).report}/index.html", SweepPaths(job_dir).report)
    return next((path for path in paths if files.exists(path)), "")


def _read(path: str) -> dict[str, Any]:
    try:
        return dict(json.loads(files.read_text(path))) if files.exists(path) else {}
    except (ValueError, TypeError):
        return {}


def _finite(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return values as JSON can say them: it has no NaN."""
    return {name: value if not isinstance(value, float) or math.isfinite(value) else None
            for name, value in values.items()}  # fmt: skip
