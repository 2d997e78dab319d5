"""What differs between the files that two versions of the trainer wrote for the same commands.

Pure functions for ``compare_versions.py``.  Each yields one line for every difference, and nothing when the two sides
are the same.  Numbers are compared exactly: both sides ran on the same machine.
Does not own: which commands run, or where.
"""

import collections
import csv
import dataclasses
import io
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Names whose values two runs of the same version do not share, and why.
VARYING = {
    "began": "time of a start",
    "bytes": "of an exported graph, which holds paths; the content of a checkpoint is compared by its sha256",
    "created": "time of the export or report",
    "data_wait": "a share of the time",
    "images_per_second": "a rate",
    "memory_bytes": "of a process",
    "milliseconds": "a duration",
    "milliseconds_per_image": "a duration",
    "seconds": "a duration",
    "time": "time of a start",
    "version": "of deepdetect",
    "versions": "of deepdetect and its libraries",
}
# Lists that are written from a set, so that their order changes with every process.
UNORDERED = {"tried_so_far"}
# Both sides write absolute paths; they are compared below this word.
ROOT = "ROOT"
# Files whose bytes are compared; of other files only the names (reports and model cards hold words and times).
BYTES = {".tfrecord", ".jpg", ".npz"}
# The names of event files hold time, host and process; locks name the process.
_EVENTS = re.compile(r"events\.out\.tfevents\..*")
_BEGAN = re.compile(r"(?<=starts/)\d+T\d+")  # In the names of the records of starts.
_FLAG = re.compile(r"^  (?:-\w, )?--(?P<name>\w+)(?:=(?P<values>\S+)(?: \w+>)?| (?P<metavar>[A-Z_:]+))?(?P<rest>.*)$")
_DEFAULT = re.compile(r"\(default: (?P<default>.*?)(?: [a-z]+)?(?:;.*)?\)$")


@dataclasses.dataclass(frozen=True)
class Flag:
    """A flag as ``--help`` shows it.

    Attributes:
        kind: type, or a placeholder; empty for a switch or for choices.
        choices: accepted values; empty if there is no list.
        default: as shown, without its unit; empty if none is shown.
    """

    kind: str
    choices: frozenset[str]
    default: str


def flag_surface(page: str) -> dict[str, Flag]:
    """Return the flags of a help page by name."""
    heads = (_FLAG.match(line) for line in page.splitlines())
    return {head["name"]: _flag(head) for head in heads if head}


def _flag(head: re.Match[str]) -> Flag:
    values = head["values"] or head["metavar"] or ""
    default = _DEFAULT.search(head["rest"])
    choices = frozenset(values.split("|")) if "|" in values else frozenset()
    return Flag("" if choices else values.strip("<>"), choices, default["default"] if default else "")


def flag_differences(base: Mapping[str, Flag], current: Mapping[str, Flag], where: str) -> Iterator[str]:
    """Compare two flag surfaces; a list of choices may gain values, nothing else may change."""
    for name in sorted(base.keys() | current.keys()):
        before, after = base.get(name), current.get(name)
        if before is None or after is None:
            yield f"{where}: --{name} is {'new' if before is None else 'gone'}"
            continue
        if before.choices - after.choices:
            yield f"{where}: --{name} lost {', '.join(sorted(before.choices - after.choices))}"
        if (before.kind, before.default) != (after.kind, after.default):
            yield f"{where}: --{name} was {_shown(before)}, is {_shown(after)}"


def _shown(flag: Flag) -> str:
    return f"{flag.kind or 'a choice or switch'} with default {flag.default or 'none'}"


def json_differences(base: Any, current: Any, where: str) -> Iterator[str]:
    """Compare two parsed JSON values: all keys, and all values except those of ``VARYING`` names.

    A text with spaces is a sentence: a later version may word it better, but must not drop it.
    """
    if isinstance(base, dict) and isinstance(current, dict):
        for name in itertools.chain(base, (name for name in current if name not in base)):
            if name not in base or name not in current:
                yield f"{where}.{name} is {'new' if name not in base else 'gone'}"
            elif name in UNORDERED:
                yield from json_differences(sorted(base[name]), sorted(current[name]), f"{where}.{name}")
            elif name not in VARYING:
                yield from json_differences(base[name], current[name], f"{where}.{name}")
    elif isinstance(base, list) and isinstance(current, list):
        if len(base) != len(current):
            yield f"{where} had {len(base)} entries, has {len(current)}"
        for number, (before, after) in enumerate(zip(base, current, strict=False)):
            yield from json_differences(before, after, f"{where}[{number}]")
    elif not _same_value(base, current):
        yield f"{where} was {base!r}, is {current!r}"


def _same_value(base: Any, current: Any) -> bool:
    if isinstance(base, float) and isinstance(current, float) and math.isnan(base):
        return math.isnan(current)
    if _is_sentence(base) and _is_sentence(current):
        return True
    return type(base) is type(current) and bool(base == current)


def _is_sentence(value: Any) -> bool:
    return isinstance(value, str) and " " in value


def line_differences(base: str, current: str, where: str, kinds: Sequence[str] = ()) -> Iterator[str]:
    """Compare two JSON Lines files.

    Checkpoint lines are compared after the others: the writing thread decides between which lines they stand.

    Args:
        base: content before.
        current: content now.
        where: name of the file.
        kinds: compare only lines of these kinds; empty: all lines.
    """
    before, after = _records(base, kinds), _records(current, kinds)
    for number, (left, right) in enumerate(zip(before, after, strict=False), 1):
        yield from json_differences(left, right, f"{where}:{number}")
    if len(before) != len(after):
        yield f"{where} had {len(before)} lines, has {len(after)}"


def _records(content: str, kinds: Sequence[str]) -> list[Any]:
    records = [json.loads(line) for line in content.splitlines()]
    kept = [record for record in records if not kinds or record["kind"] in kinds]
    return sorted(kept, key=lambda record: record.get("kind") == "checkpoint")


def csv_differences(base: str, current: str, where: str) -> Iterator[str]:
    """Compare two CSV files, byte for byte where no column has a ``VARYING`` name."""
    before, after = (list(csv.reader(io.StringIO(content, newline=""))) for content in (base, current))
    if before[:1] != after[:1]:
        yield f"{where} had columns {before[:1]}, has {after[:1]}"
        return
    header = before[0] if before else []
    if before == after and base != current:
        yield f"{where} has other line ends or quotes"
    columns = [number for number, name in enumerate(header) if name not in VARYING]
    kept = [[[row[column] for column in columns] for row in rows] for rows in (before, after)]
    yield from json_differences(kept[0], kept[1], where)


def folder_differences(
    base: Path, current: Path, *, roots: Sequence[str], kinds: Sequence[str] = (), only: Sequence[str] = ()
) -> Iterator[str]:
    """Compare all files below two folders: their names, and the content of those that hold data.

    Args:
        base: folder that the earlier version wrote.
        current: folder that this version wrote.
        roots: folders that may stand in the files of both sides, see ``ROOT``.
        kinds: see ``line_differences``; for every ``metrics.jsonl``.
        only: compare only files of these names; empty: all files.
    """
    before, after = (_files(folder, only) for folder in (base, current))
    for name in sorted(before.keys() | after.keys()):
        if name not in before or name not in after:
            yield f"{name} is {'new' if name not in before else 'gone'}"
        else:
            contents = [_content(path, roots) for path in (before[name], after[name])]
            chosen = kinds if name.endswith("metrics.jsonl") else ()
            yield from _content_differences(contents[0], contents[1], name, chosen)


def _content(path: Path, roots: Sequence[str]) -> bytes:
    content = path.read_bytes()
    for root in roots:
        content = content.replace(root.encode(), ROOT.encode())
    return content


def _files(folder: Path, only: Sequence[str]) -> dict[str, Path]:
    paths = [path for path in folder.rglob("*") if path.is_file() and (not only or path.name in only)]
    named = {}
    starts: collections.Counter[str] = collections.Counter()
    for path in sorted(paths):
        name = _EVENTS.sub("events", path.relative_to(folder).as_posix())
        process = _BEGAN.sub("", name)
        starts[process] += 1
        named[_BEGAN.sub(str(starts[process]), name)] = path
    return named


def _content_differences(base: bytes, current: bytes, name: str, kinds: Sequence[str]) -> Iterator[str]:
    suffix = Path(name).suffix
    if suffix == ".json":
        yield from json_differences(json.loads(base), json.loads(current), name)
    elif suffix == ".jsonl":
        yield from line_differences(base.decode(), current.decode(), name, kinds)
    elif suffix == ".csv":
        yield from csv_differences(base.decode(), current.decode(), name)
    elif suffix in BYTES and base != current:
        yield f"{name} has other bytes"
