"""Rows as text: CSV and JSONL for programs, an aligned table for people.  Imports no TensorFlow.

CSV is RFC 4180 with line feeds: a cell with a comma, quote, line feed or carriage return is quoted, and nothing else is
changed, so every reader gets names back exactly.  One exception: a spreadsheet computes a text that begins like a
formula, so such a path gets ``./`` in front, and any other such text an apostrophe (``guarded``).
"""

import json
import os
import re
from collections.abc import Callable, Iterable, Sequence

from trainer.core import terminal
from trainer.core.config import Value
from trainer.core.errors import RequestError
from trainer.core.storage import files

Row = dict[str, Value | None]

_PATHS = ("path", "heatmap")  # Columns.
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")
_LIKE_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_GUARDED = re.compile(r"'+[=+\-@\t\r]")
_QUOTED = re.compile(r'[,"\r\n]')


def renderer(out: str, flag: str) -> Callable[[Sequence[Row]], str]:
    """Return the function that renders rows for a file's extension; without a file, as a table.

    Raises:
        RequestError: for an extension that is neither .csv nor .jsonl, naming the flag.
    """
    extension = os.path.splitext(out)[1].lower()
    renderers = {".csv": to_csv, ".jsonl": to_jsonl}
    if out and extension not in renderers:
        raise RequestError(f"--{flag}: expected a file that ends in .csv or .jsonl, received {out!r}")
    return renderers.get(extension, to_table)


def to_csv(rows: Sequence[Row], *, header: bool = True) -> str:
    """Return rows as CSV with a header; None becomes an empty cell.  Without rows the text is empty."""
    if not rows:
        return ""
    heads = list(rows[0])
    lines = [[_below_here(row[head]) if head in _PATHS else row[head] for head in heads] for row in rows]
    return (csv_line(heads) if header else "") + "".join(map(csv_line, lines))


def csv_line(cells: Iterable[Value | None]) -> str:
    """Return cells as one line of CSV; a text that begins like a formula is ``guarded``."""
    return ",".join(_csv_cell(cell) for cell in cells) + "\n"


def guarded(text: str) -> str:
    """Return a text that no spreadsheet computes: with an apostrophe in front if it begins like a formula."""
    return f"'{text}" if _LIKE_FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unguarded(text: str) -> str:
    """Return the text that ``guarded`` got."""
    return text[1:] if _GUARDED.match(text) else text


def _csv_cell(value: Value | None) -> str:
    text = guarded(value) if isinstance(value, str) else "" if value is None else str(value)
    return '"' + text.replace('"', '""') + '"' if _QUOTED.search(text) else text


def _below_here(path: Value | None) -> Value | None:
    """Return the same path, beginning with a dot if it looked like a formula."""
    return files.join(".", path) if isinstance(path, str) and _LIKE_FORMULA.match(path) else path


def to_jsonl(rows: Sequence[Row]) -> str:
    """Return rows as one JSON object per line; None becomes null."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def to_table(rows: Sequence[Row]) -> str:
    """Return rows as aligned text for people, with the path last because its length varies most."""
    return Table().part(rows)


class Table:
    """An aligned table that grows: its columns are as wide as the widest cell so far."""

    def __init__(self) -> None:
        """Begin without a row; the first ones bring the header."""
        self._widths: list[int] = []

    def part(self, rows: Sequence[Row]) -> str:
        """Return the next rows as text."""
        heads = [name for name in rows[0] if name not in ("path", "error")]
        lines = [] if self._widths else [[*heads, "path"]]
        self._widths = self._widths or [0] * len(heads)
        for row in rows:
            cells = [_cell(row[name]) for name in heads]
            path = terminal.in_line(str(row["path"]))
            lines.append([*cells, f"{path}  ({terminal.in_line(str(row['error']))})" if row["error"] else path])
        self._widths = [max(width, *(len(line[n]) for line in lines)) for n, width in enumerate(self._widths)]
        return "".join("  ".join([*map(str.ljust, line, self._widths), line[-1]]) + "\n" for line in lines)


def _cell(value: Value | None) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else terminal.in_line(str(value))
