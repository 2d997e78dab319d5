"""Checks and exchanges between the processes of a job: the same images and state, a shared job_dir, bad images.

Every function must be called by all processes at the same point.  Imports no TensorFlow.
Does not own: how values travel (``process_group.py``).
"""

import time
from typing import Any

from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data.bad_images import BadImages
from trainer.distributed.process_group import SingleProcess

_VISIBLE_WITHIN_SECONDS = 20.0  # Network file systems show a new file late.


def require_same(group: SingleProcess, values: dict[str, Any], remedy: str) -> None:
    """Compare values by name with the chief's.

    Raises:
        RequestError: on every process, naming what differs and where.
    """
    rows = group.gather(values)
    differences = [
        f"{name} (chief: {_short(rows[0][name])}, worker {index}: {_short(row[name])})"
        for index, row in enumerate(rows)
        for name in values
        if row[name] != rows[0][name]
    ]
    if differences:
        raise RequestError(f"expected the same on all processes, received different {'; '.join(differences)}; {remedy}")


def _short(value: Any) -> str:
    return str(value)[:16]


def require_shared(group: SingleProcess, path: str) -> None:
    """Check that all processes see a small file that the chief has just written.

    Raises:
        RequestError: on all processes, if one of them does not see it.
    """
    content = group.broadcast(files.read_text(path) if group.index == 0 else None)
    deadline = time.monotonic() + _VISIBLE_WITHIN_SECONDS
    problem = ""
    while not (files.exists(path) and files.read_text(path) == content):
        if time.monotonic() > deadline:
            problem = (
                f"--job_dir: expected worker {group.index} to see {path!r} as the chief wrote it, received "
                f"{'different content' if files.exists(path) else 'no such file'}; job_dir must be a folder that all "
                "processes share"
            )
            break
        time.sleep(0.5)
    # Even without a problem of its own, a process must gather: all of them raise, or none.
    problems = [message for message in group.gather(problem) if message]
    if problems:
        raise RequestError(problems[0])


def merge_skipped(group: SingleProcess, skipped: BadImages) -> None:
    """Exchange the bad images that each process met, so that all count the same and the chief can list them all."""
    if group.size == 1:
        return
    for index, entries in enumerate(group.gather(skipped.take_new())):
        if index != group.index:
            skipped.merge(entries)
