"""Rows as text: CSV and JSONL for programs, an aligned table for people.  Imports no TensorFlow."""

import csv
import io
import json
import os
from collections.abc import Callable, Sequence

from trainer.core.config import Value
from trainer.core.errors import RequestError

Row = dict[str, Value | None]


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
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def to_jsonl(rows: Sequence[Row]) -> str:
    """Return rows as one JSON object per line; None becomes null."""
    return "".join(json.dumps(row) + "\n" for row in rows)


def to_table(rows: Sequence[Row]) -> str:
    """Return rows as aligned text for people, with the path last because its length varies most."""
    heads = [name for name in rows[0] if name not in ("path", "error")]
    lines = [[*heads, "path"]]
    for row in rows:
        cells = [_cell(row[name]) for name in heads]
        lines.append([*cells, f"{row['path']}  ({row['error']})" if row["error"] else str(row["path"])])
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    texts = ["  ".join([*map(str.ljust, line, widths), line[-1]]) for line in lines]
    return "\n".join(texts) + "\n"


def _cell(value: Value | None) -> str:
    if value is None or value == "":
        return "-"
    return f"{value:.4f}" if isinstance(value, float) else str(value)
