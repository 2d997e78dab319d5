"""A list file: one image a row, with path and label; see docs/data.md."""

import posixpath
from collections.abc import Sequence

from trainer.core.config import LayoutConfig
from trainer.data.layouts import rows, table_files, words
from trainer.data.layouts.images import Images

HELP = "a CSV, TSV, JSONL or Parquet file with columns path and label."
ORDER = 3


def recognises(data_dir: str, names: Sequence[str]) -> bool:
    """Return whether data_dir is a list file."""
    return table_files.is_list(data_dir)


def read(data_dir: str, settings: LayoutConfig) -> Images:
    """Return the images that a list names; none of them is looked for.

    Raises:
        RequestError: if the list is not understood.
    """
    given: dict[str, str] = {}
    notes: list[str] = []

    def choose(names: Sequence[str]) -> Sequence[str]:
        given.update(rows.meanings(settings.columns, names))
        notes.extend(rows.notes_on(given, names))
        return list(given.values())

    columns = table_files.read(data_dir, choose)
    by_meaning = {meaning: columns[name] for meaning, name in given.items()}
    table = rows.Rows(
        posixpath.dirname(data_dir) or ".", f"list {data_dir!r}", by_meaning, given["label"], tuple(notes)
    )
    return rows.to_images(table, words.labels_of(settings.labels))
