"""Slurm's compressed lists, of nodes and of tasks a node; what a job makes of them is in ``cluster.py``."""

import re
from collections.abc import Iterator

from trainer.core.errors import RequestError


def expand_nodes(text: str, source: str) -> Iterator[str]:
    """Yield the names in Slurm's list, such as ``node[01-03,7],login``.

    Args:
        text: the list.
        source: the variable that holds it, for messages.

    Raises:
        RequestError: if it is no such list.
    """
    parts = re.findall(r"[^,\[\]]+(?:\[[^\[\]]*\][^,\[\]]*)*", text)
    if not parts or ",".join(parts) != text:
        raise _no_nodes(text, source)
    for part in parts:
        yield from _expand_brackets(part, text, source)


def _expand_brackets(part: str, text: str, source: str) -> Iterator[str]:
    found = re.search(r"\[([^\]]*)\]", part)
    if not found:
        yield part
        return
    for piece in found[1].split(","):
        ends = re.fullmatch(r"(\d+)(?:-(\d+))?", piece)
        if not ends:
            raise _no_nodes(text, source)
        low, high = ends[1], ends[2] or ends[1]
        for number in range(int(low), int(high) + 1):
            name = part[: found.start()] + str(number).zfill(len(low)) + part[found.end() :]
            yield from _expand_brackets(name, text, source)


def _no_nodes(text: str, source: str) -> RequestError:
    return RequestError(f"{source}: expected a list of nodes such as node[01-03,7], received {text!r}")


def expand_tasks(text: str, source: str) -> Iterator[int]:
    """Yield the tasks of each node in Slurm's list, such as ``2(x3),1``.

    Args:
        text: the list.
        source: the variable that holds it, for messages.

    Raises:
        RequestError: if it is no such list.
    """
    for part in text.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not found:
            raise RequestError(f"{source}: expected numbers of tasks such as 2(x3),1; received {text!r}")
        yield from [int(found[1])] * int(found[2] or 1)
