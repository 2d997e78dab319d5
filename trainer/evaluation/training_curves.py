"""Training curves by epoch, read from a job's ``metrics.jsonl``.  Imports no TensorFlow."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any

from trainer.core import checked_json
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files


@dataclasses.dataclass(frozen=True)
class Curve:
    """A value by epoch; epochs count from 1, and those without a finite value are absent."""

    epochs: list[int]
    values: list[float]


@dataclasses.dataclass(frozen=True)
class Curves:
    """The curves of a job.

    Attributes:
        train: ``loss`` and ``accuracy``, means over the examples of each epoch.
        validation: ``val_loss``, ``val_accuracy`` and ``val_auc`` after each epoch.
        learning_rate: of the last train line of each epoch.
        monitor: the validation metric that selects the best epoch.
        best_epoch: the first epoch with the best value; None before any validation.
        restarts: where the job was restarted, in epochs: 2.5 is the middle of the third.
    """

    train: dict[str, Curve]
    validation: dict[str, Curve]
    learning_rate: Curve
    monitor: str
    best_epoch: int | None
    restarts: list[float] = dataclasses.field(default_factory=list)


def read_curves(job_dir: str) -> Curves | None:
    """Return a job's curves; None if there is no job, or it has logged nothing yet."""
    return curves_of(read_lines(job_dir), read_settings(job_dir))


def read_lines(job_dir: str) -> list[dict[str, Any]]:
    """Return the lines of a job's ``metrics.jsonl``; none if there is no job."""
    path = JobPaths(job_dir).metrics
    return list(_records(files.read_text(path))) if files.exists(path) else []


def curves_of(lines: list[dict[str, Any]], settings: dict[str, Any]) -> Curves | None:
    """Return the curves in a job's lines; None if nothing was logged yet."""
    train = [line for line in lines if line.get("kind") == "train"]
    validation = [line for line in lines if line.get("kind") == "validation"]
    if not train and not validation:
        return None
    monitor = str(settings.get("monitor", "val_loss"))
    after = {name: _last(validation, name) for name in ("val_loss", "val_accuracy", "val_auc")}
    return Curves(
        train={name: _mean(train, name) for name in ("loss", "accuracy")},
        validation=after,
        learning_rate=_last(train or validation, "learning_rate"),
        monitor=monitor,
        best_epoch=_best(after[monitor], lower_is_better=monitor == "val_loss"),
        restarts=_restarts(lines, settings.get("epochs")),
    )


def read_settings(job_dir: str) -> dict[str, Any]:
    """Return a job's settings; none if the file is absent or damaged, as curves only want names from it."""
    path = JobPaths(job_dir).config
    try:
        return checked_json.read(path, {}, remedy="") if files.exists(path) else {}
    except (FileNotFoundError, checked_json.Malformed):
        return {}


def last_start(job_dir: str) -> dict[str, Any] | None:
    """Return the newest ``start`` line of a job; None without one."""
    starts = [line for line in read_lines(job_dir) if line.get("kind") == "start"]
    return starts[-1] if starts else None


def _restarts(lines: list[dict[str, Any]], epochs: int | None) -> list[float]:
    """Return where each start but the first began, in epochs; whole ones if the steps of an epoch are not known."""
    starts = [line for line in lines if line.get("kind") == "start"]
    total = next((line["total_steps"] for line in reversed(starts) if line.get("total_steps")), None)
    steps_per_epoch = total / epochs if total and epochs else None
    places = [line["step"] / steps_per_epoch if steps_per_epoch else float(line["epoch"]) for line in starts[1:]]
    return sorted(set(places))


def _records(text: str) -> Iterable[dict[str, Any]]:
    """Yield the objects of the lines; a killed job may leave the last line incomplete."""
    for line in text.splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            yield record


def _mean(lines: Iterable[dict[str, Any]], name: str) -> Curve:
    """Return means over examples: a train line weighs as many images as it covers."""
    sums: dict[int, list[float]] = {}
    for line in lines:
        if line.get(name) is not None:
            total = sums.setdefault(line["epoch"], [0.0, 0.0])
            total[0] += line[name] * line["examples"]
            total[1] += line["examples"]
    means = {epoch: total / examples for epoch, (total, examples) in sorted(sums.items()) if examples}
    return Curve(list(means), list(means.values()))


def _last(lines: Iterable[dict[str, Any]], name: str) -> Curve:
    values = {line["epoch"]: float(line[name]) for line in lines if line.get(name) is not None}
    return Curve(sorted(values), [values[epoch] for epoch in sorted(values)])


def _best(curve: Curve, *, lower_is_better: bool) -> int | None:
    if not curve.values:
        return None
    value = min(curve.values) if lower_is_better else max(curve.values)
    return curve.epochs[curve.values.index(value)]
