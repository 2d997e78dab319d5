"""Records of ended trials: ``trial.json`` of each, the table of all, the best settings, and what stays on disk.

The process that runs a trial writes its record; the process that holds the oracle reads them all.  Imports no
TensorFlow.
"""

import dataclasses
import json
import logging
import re
from collections.abc import Collection, Mapping, Sequence

from trainer.core import checked_json, tables
from trainer.core.checked_json import COUNT, NUMBER, OBJECT, TEXT, nullable, optional
from trainer.core.config import Value
from trainer.core.job_dir import JobPaths, SweepPaths
from trainer.core.storage import files
from trainer.sweep.request import Request

log = logging.getLogger(__name__)

DONE = "done"
PRUNED = "pruned"
FAILED = "failed"

_FIELDS = {
    "trial": TEXT, "job": TEXT, "settings": OBJECT, "status": TEXT, "reason": optional(TEXT),
    "score": optional(nullable(NUMBER)), "validation": optional(OBJECT), "epochs": optional(COUNT),
    "best_epoch": optional(COUNT), "seconds": optional(NUMBER), "worker": optional(TEXT),
    "ended": optional(TEXT),
}  # fmt: skip
_REMEDY = "restore the file from a backup, or start the sweep over with --resume=never"


@dataclasses.dataclass(frozen=True)
class Record:
    """The end of a trial.

    Attributes:
        trial: its id.
        job: id of the trial in whose folder it trained: its own, or the one that it continues (hyperband).
        settings: chosen by the search.
        status: ``done``, ``pruned`` or ``failed``.
        reason: why it was pruned or failed; else empty.
        score: the objective at the best epoch (of a pruned trial: so far).
        validation: loss (nats), accuracy and auc there.
        epochs: epochs trained, over all starts.
        best_epoch: the best of them.
        seconds: duration of its last start.
        worker: id of the worker that ran it.
        ended: when, ISO 8601 in UTC; empty in records of older versions.
    """

    trial: str
    job: str
    settings: dict[str, Value]
    status: str
    reason: str = ""
    score: float | None = None
    validation: dict[str, float | None] = dataclasses.field(default_factory=dict)
    epochs: int = 0
    best_epoch: int = 0
    seconds: float = 0.0
    worker: str = ""
    ended: str = ""

    def write(self, paths: SweepPaths) -> None:
        """Write the record atomically."""
        files.write_text(paths.record(self.trial), json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def read(paths: SweepPaths, trial_id: str) -> Record | None:
    """Return a trial's record; None if it has not ended."""
    path = paths.record(trial_id)
    if not files.exists(path):
        return None
    values = checked_json.read(path, _FIELDS, remedy=_REMEDY, what="the record of a trial")
    return Record(**{field.name: values[field.name] for field in dataclasses.fields(Record) if field.name in values})


def read_all(paths: SweepPaths) -> list[Record]:
    """Return the records of all ended trials, by id."""
    records = [read(paths, name) for name in files.list_names(paths.trials)]
    return [record for record in records if record is not None]


def by_score(records: Sequence[Record], *, maximizes: bool) -> list[Record]:
    """Return the trials that have a score, best first; among equals the earlier one first."""
    scored = [record for record in records if record.score is not None]
    return sorted(scored, key=lambda record: (-record.score if maximizes else record.score, record.trial))  # type: ignore[operator]


def kind_of(reason: str) -> str:
    """Return a reason without its numbers, so that "diverged at step 7" and "... at step 9" are one."""
    return re.sub(r"[-+]?[\d.]+(e[-+]?\d+)?", "#", reason)


def write_table(request: Request, records: Sequence[Record]) -> None:
    """Write ``trials.csv``: one row per trial, by id."""
    names = [one.name for one in request.space]
    head = ["trial", "status", "score", *names, "loss", "accuracy", "auc", "epochs", "best_epoch", "seconds", "worker",
            "job_dir", "reason"]  # fmt: skip
    lines = [tables.csv_line(head)]
    for record in records:
        chosen = [record.settings.get(name, "") for name in names]
        figures = [record.validation.get(name) for name in ("loss", "accuracy", "auc")]
        lines.append(tables.csv_line([record.trial, record.status, record.score, *chosen, *figures, record.epochs,
                                      record.best_epoch, record.seconds, record.worker,
                                      request.paths.trial(record.job), record.reason]))  # fmt: skip
    files.write_text(request.paths.table, "".join(lines))


def best_settings(request: Request, record: Record) -> dict[str, Value]:
    """Return all settings of a trial except its folder; epochs are those that it was meant to train."""
    path = JobPaths(request.paths.trial(record.job)).config
    settings = checked_json.read(path, {}, remedy=_REMEDY, what="the settings of a trial")
    return {name: value for name, value in settings.items() if name not in ("job_dir", "resume")}


def write_best(request: Request, records: Sequence[Record]) -> None:
    """Write ``best_config.json``, if there is a best trial."""
    for record in by_score(records, maximizes=request.maximizes)[:1]:
        files.write_text(request.paths.best, json.dumps(best_settings(request, record), indent=1) + "\n")


def prune(request: Request, records: Sequence[Record], needed: Collection[str]) -> None:
    """Remove models, checkpoints and reports of trials that are neither among the best nor still needed.

    Args:
        request: holds the number of best trials to keep.
        records: of all ended trials.
        needed: ids of trials that are running or may be continued.
    """
    ranked = list(dict.fromkeys(record.job for record in by_score(records, maximizes=request.maximizes)))
    jobs = _jobs(records)
    kept = set(ranked[: request.sweep.keep_trials]) | {jobs.get(trial, trial) for trial in needed}
    for job in {record.job for record in records} - kept:
        paths = JobPaths(request.paths.trial(job))
        for folder in (paths.checkpoints, files.join(paths.job_dir, "export"), paths.report):
            if files.exists(folder):
                files.remove_tree(folder)


def _jobs(records: Sequence[Record]) -> Mapping[str, str]:
    return {record.trial: record.job for record in records}
