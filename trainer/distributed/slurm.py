"""Expand Slurm's compressed lists of nodes and of tasks per node.  Does not own: their meaning (``cluster.py``)."""

import re
from collections.abc import Iterator

from trainer.core.errors import RequestError


def expand_nodes(text: str, source: str) -> Iterator[str]:
    """Yield the names in Slurm's list, such as ``node[01-03,7],login``.

    Args:
        text: the list.
        source: the variable that holds it, for messages.

    Raises:
        RequestError: if the text is not such a list.
    """
    parts = re.findall(r"[^,\[\]]+(?:\[[^\[\]]*\][^,\[\]]*)*", text)
    if not parts or ",".join(parts) != text:
        raise _wrong_nodes(text, source)
    for part in parts:
        yield from _expand_brackets(part, text, source)


def _expand_brackets(part: str, text: str, source: str) -> Iterator[str]:
    """Yield the names that the first bracket of a part stands for; further brackets by recursion."""
    bracket = re.search(r"\[([^\]]*)\]", part)
    if not bracket:
        yield part
        return
    for piece in bracket[1].split(","):
        limits = re.fullmatch(r"(\d+)(?:-(\d+))?", piece)
        if not limits:
            raise _wrong_nodes(text, source)
        low, high = limits[1], limits[2] or limits[1]
        for number in range(int(low), int(high) + 1):
            name = part[: bracket.start()] + str(number).zfill(len(low)) + part[bracket.end() :]
            yield from _expand_brackets(name, text, source)


def _wrong_nodes(text: str, source: str) -> RequestError:
    return RequestError(f"{source}: expected a list of nodes such as node[01-03,7], received {text!r}")


def expand_tasks(text: str, source: str) -> Iterator[int]:
    """Yield the number of tasks of each node in Slurm's list, such as ``2(x3),1``.

    Args:
        text: the list.
        source: the variable that holds it, for messages.

    Raises:
        RequestError: if the text is not such a list.
    """
    for part in text.split(","):
        entry = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if not entry:
            raise RequestError(f"{source}: expected numbers of tasks such as 2(x3),1; received {text!r}")
        yield from [int(entry[1])] * int(entry[2] or 1)
