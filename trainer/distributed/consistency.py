"""What the processes of one job make sure of together, beside the maths: the same images, state and bad images.

Every function must be called by all processes at the same point.  Imports no TensorFlow.
"""

import time
from typing import Any

from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data.bad_images import BadImages
from trainer.distributed.process_group import SingleProcess

_SEEN_WITHIN_SECONDS = 20.0  # Network file systems show a new file late.


def require_same(group: SingleProcess, values: dict[str, Any], remedy: str) -> None:
    """Compare values by name with the chief's.

    Raises:
        RequestError: on every process, naming what differs and where.
    """
    everyone = group.gather(values)
    differing = [
        f"{name} (chief: {_short(everyone[0][name])}, worker {index}: {_short(theirs[name])})"
        for index, theirs in enumerate(everyone)
        for name in values
        if theirs[name] != everyone[0][name]
    ]
    if differing:
        raise RequestError(f"expected the same on all processes, received different {'; '.join(differing)}; {remedy}")


def _short(value: Any) -> str:
    return str(value)[:16]


def require_shared(group: SingleProcess, path: str) -> None:
    """Make sure that all processes see a small file that the chief has just written.

    Raises:
        RequestError: on all, if one of them does not.
    """
    content = group.broadcast(files.read_text(path) if group.index == 0 else None)
    deadline = time.monotonic() + _SEEN_WITHIN_SECONDS
    problem = ""
    while not (files.exists(path) and files.read_text(path) == content):
        if time.monotonic() > deadline:
            problem = (
                f"--job_dir: expected worker {group.index} to see {path!r} as the chief wrote it, received "
                f"{'another content' if files.exists(path) else 'no such file'}; job_dir must be a folder that all "
                "processes share"
            )
            break
        time.sleep(0.5)
    problems = [told for told in group.gather(problem) if told]
    if problems:
        raise RequestError(problems[0])


def merge_skipped(group: SingleProcess, skipped: BadImages) -> None:
    """Let every process know the bad images that the others met, so that all count alike and the chief names all."""
    if group.size == 1:
        return
    for index, entries in enumerate(group.gather(skipped.take_new())):
        if index != group.index:
            skipped.merge(entries)
