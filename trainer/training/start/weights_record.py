"""``weights.json``: what a job took of its initial weights, and whether these are still the same.

Imports no TensorFlow.
"""

import json
import logging
from typing import Any

from trainer.core import checked_json
from trainer.core.checked_json import COUNT, OBJECT, TEXT
from trainer.core.errors import RequestError
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files
from trainer.models.weights import source
from trainer.models.weights.match import Match
from trainer.models.weights.source import Source

log = logging.getLogger(__name__)

_FIELDS = {"weights": TEXT, "kind": TEXT, "path": TEXT, "sha256": TEXT, "variables": COUNT, "taken": OBJECT}


def write(path: str, initial: Source, weights: str, outcome: Match, variables: int) -> None:
    """Write what a model of so many variables took from a source, and what not."""
    content = {
        "weights": weights,
        "kind": initial.kind,
        "path": initial.path,
        "sha256": initial.sha256,
        "variables": variables,
        "taken": outcome.taken,
        "other_shape": [str(each) for each in outcome.differing],
        "missing": outcome.missing,
        "unused": outcome.unused,
    }
    files.write_text(path, json.dumps(content, indent=1) + "\n")


def read(paths: JobPaths) -> dict[str, Any] | None:
    """Return ``weights.json``; None without one."""
    if not files.exists(paths.weights):
        return None
    return checked_json.read(paths.weights, _FIELDS, remedy="restore it, or remove it", what="a job's initial weights")


def describe(paths: JobPaths) -> str:
    """Return a job's initial weights for people: path, checksum and count; empty if it began at random."""
    kept = read(paths)
    if kept is None:
        return ""
    return (
        f"{kept['path']} ({kept['kind']}), SHA-256 {kept['sha256']}, {len(kept['taken'])} of {kept['variables']} "
        "variables"
    )


def is_begun(paths: JobPaths) -> bool:
    """Return whether an earlier start of this job has used its weights; its settings are written after them."""
    return files.exists(paths.config) and files.exists(paths.weights)


def refuse_others(initial: Source, paths: JobPaths) -> None:
    """Refuse weights that were replaced between two starts of a job.

    Raises:
        RequestError: if so.
    """
    kept = read(paths) if is_begun(paths) else None
    if kept is not None and kept["sha256"] != initial.sha256:
        raise RequestError(
            f"--weights: expected {initial.path!r} as it was when {paths.job_dir!r} was started (SHA-256 "
            f"{kept['sha256'][:12]}...), received another one ({initial.sha256[:12]}...); restore it, use another "
            "--job_dir, or --resume=never to start over"
        )


def report_kept(weights: str, paths: JobPaths) -> None:
    """Log that the weights are not read again, and whether a local file was replaced since."""
    kept = read(paths)
    if kept is None:
        return
    log.info("initial weights: %s; not read again", describe(paths))
    if kept["kind"].endswith("file") and _is_replaced(kept):
        log.warning("--weights: %s was replaced since this job began; the job continues with what it began with",
                    weights)  # fmt: skip


def _is_replaced(kept: dict[str, Any]) -> bool:
    """Return whether a local file is there and has another checksum."""
    if files.is_remote(kept["path"]):
        return False
    try:
        return bool(source.sha256_of(kept["path"]) != kept["sha256"])
    except OSError:  # A job with a checkpoint does not need the file.
        return False
