"""The columns of a list file: CSV, TSV, JSONL or Parquet, local or remote, only those that are needed.

Does not own: what the columns mean (``rows.py``).  Imports no TensorFlow.
"""

import contextlib
import csv
import io
import itertools
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TextIO

from trainer.core.errors import RequestError
from trainer.core.storage import files

ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
_PROBED = 200  # Lines of JSONL whose keys are taken as its columns.

Columns = dict[str, list[str]]
Choose = Callable[[Sequence[str]], Sequence[str]]  # From the names of all columns to those that are needed.


def is_list(path: str) -> bool:
    """Return whether a path names a list file, by its ending."""
    return path.lower().endswith(ENDINGS)


class _Wrong(ValueError):
    """The content is not that of a list: what was expected and received."""


def read(path: str, choose: Choose, flag: str = "data_dir") -> Columns:
    """Return columns of a list file as text; "" where a row has no value.

    Args:
        path: local or remote; one without a list's ending is read as CSV.
        choose: called once with the names of all columns.
        flag: that names the path.

    Raises:
        RequestError: naming the flag, if it is missing, or no such file.
    """
    ending = next((one for one in ENDINGS if path.lower().endswith(one)), ".csv")
    try:
        if ending == ".parquet":
            return _parquet(path, choose)
        with _text(path) as lines:
            return _jsonl(lines, choose) if ending == ".jsonl" else _csv(lines, choose, ending)
    except FileNotFoundError as error:
        raise RequestError(
            f"--{flag}: expected a list file, received {path!r}, which does not exist; check the path"
        ) from error
    except _Wrong as error:
        raise RequestError(f"--{flag}: {error}") from error
    except (csv.Error, UnicodeError, ValueError, IsADirectoryError, PermissionError) as error:
        if isinstance(error, RequestError):
            raise
        raise RequestError(f"--{flag}: expected a readable {ending[1:]} file, received {path!r}: {error}") from error


@contextlib.contextmanager
def _text(path: str) -> Iterator[TextIO]:
    raw = io.BytesIO(files.read_bytes(path)) if files.is_remote(path) else open(path, "rb")  # noqa: SIM115
    # Names of files need not be UTF-8.
    with io.TextIOWrapper(raw, "utf-8-sig", errors="surrogateescape", newline="") as lines:
        yield lines


def _csv(lines: TextIO, choose: Choose, ending: str) -> Columns:
    first = lines.readline()
    delimiter = "\t" if ending == ".tsv" or ("\t" in first and "," not in first) else (
        ";" if ";" in first and "," not in first else ",")  # fmt: skip
    reader = csv.reader(itertools.chain([first], lines), delimiter=delimiter)
    header = [name.strip() for name in next(reader, [])]
    if len(set(header)) < len(header):
        raise _Wrong(f"expected columns of different names, received {', '.join(header)}")
    places = {name: header.index(name) for name in choose(header)}
    return _cells(reader, places, len(header))


def _cells(rows: Iterable[list[str]], places: dict[str, int], width: int) -> Columns:
    columns: Columns = {name: [] for name in places}
    targets = [(place, columns[name].append) for name, place in places.items()]
    intern = sys.intern  # Labels, splits and methods repeat: one string for each value.
    for line, row in enumerate(rows, start=2):
        if not row:
            continue
        if len(row) > width and any(row[width:]):
            raise _Wrong(
                f"expected at most {width} cells in each row, as the header has, received {len(row)} in "
                f"row {line}; write cells that hold a comma in double quotes"
            )
        for place, append in targets:
            append(intern(row[place].strip()) if place < len(row) else "")
    return columns


def _jsonl(lines: TextIO, choose: Choose) -> Columns:
    rows = (json.loads(line) for line in lines if line.strip())
    probed = list(itertools.islice(rows, _PROBED))
    if not all(isinstance(row, dict) for row in probed):
        raise _Wrong("expected a JSON object on each line")
    names = list(choose(list(dict.fromkeys(name for row in probed for name in row))))
    columns: Columns = {name: [] for name in names}
    for row in itertools.chain(probed, rows):
        for name in names:
            columns[name].append(sys.intern(as_text(row.get(name))))
    return columns


def _parquet(path: str, choose: Choose) -> Columns:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise _Wrong(
            f"expected pyarrow, which reads {path!r}, received none; pip install 'deepdetect[lists]', or "
            "give the list as CSV"
        ) from error
    content: Any = io.BytesIO(files.read_bytes(path)) if files.is_remote(path) else path
    file = parquet.ParquetFile(content)
    names = list(choose(list(file.schema_arrow.names)))
    table = file.read(columns=names)
    return {name: [sys.intern(as_text(value)) for value in table.column(name).to_pylist()] for name in names}


def as_text(value: Any) -> str:
    """Return a value of JSON or Parquet as CSV would have it."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if type(value) is str else str(value)
