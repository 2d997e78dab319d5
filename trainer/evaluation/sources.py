"""Group images by source (frames of one video, by file name or table), and read the table of ``--groups``.

Does not own: metrics by group (``groups.py``), resampling (``bootstrap.py``).  Imports no TensorFlow.
"""

from collections.abc import Mapping, Sequence

from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data.layouts import table_files
from trainer.data.layouts.sources import IN_COLUMN, Sources, by_column, by_name, of_split
from trainer.data.layouts.split import METHOD, SOURCE, Split

__all__ = ["NONE", "Columns", "Sources", "columns_of", "find_sources", "read_groups", "sources_of"]

NONE = "(none)"  # The value of an image without a row, or with an empty cell.
_SOURCE_COLUMNS = ("source", "video")  # Columns that --group_by=auto takes from a table.
_EXAMPLES = 3

Columns = Mapping[str, Sequence[str]]


def find_sources(group_by: str, names: Sequence[str], columns: Columns) -> Sources:
    """Return which images share a source.

    Args:
        group_by: ``none``; ``auto`` (a column source or video of the table, else file names); or a column.
        names: of the images, ``<split>/<class>/...``, at least one.
        columns: of the table, see ``read_groups``; empty without one.

    Raises:
        RequestError: if the table does not have the column.
    """
    if group_by == "none":
        return Sources(None, "each image by itself (--group_by=none)")
    column = _column(group_by, columns)
    return _by_column(column, columns) if column else by_name(names)


def sources_of(group_by: str, split: Split, columns: Columns) -> Sources:
    """Return which images of a split share a source: as ``find_sources``, but a column of the data before names."""
    column = _column(group_by, columns) if group_by not in ("none", *split.columns) else ""
    if group_by in split.columns and group_by not in columns:
        rule = f"column {group_by} of the data" if group_by != SOURCE else split.source_rule or IN_COLUMN
        return by_column(split.columns[group_by], rule)
    if group_by == "auto" and not column:
        return of_split(split)
    return find_sources(group_by, split.names, columns)


def _column(group_by: str, columns: Columns) -> str:
    """Return the column that ``--group_by`` names; empty: file names decide."""
    if group_by != "auto" and group_by not in columns:
        raise RequestError(
            f"--group_by: expected none, auto or a column of --groups ({', '.join(columns) or 'no table was given'}), "
            f"received {group_by!r}"
        )
    return next((name for name in (_SOURCE_COLUMNS if group_by == "auto" else (group_by,)) if name in columns), "")


def _by_column(column: str, columns: Columns) -> Sources:
    # Each image without a value is its own source.
    keys = [value if value != NONE else "" for value in columns[column]]
    return by_column(keys, f"column {column} of the groups table")


def columns_of(split: Split) -> dict[str, list[str]]:
    """Return the columns of the data whose values are groups: the methods of forging."""
    return {METHOD: [value or NONE for value in split.columns[METHOD]]} if METHOD in split.columns else {}


def read_groups(path: str, names: Sequence[str], split: str) -> dict[str, list[str]]:
    """Read a list file of groups: a column ``path`` as in predictions.csv, and one or more columns of values.

    Args:
        path: local or remote.
        names: of the images, ``<split>/<class>/...``.
        split: rows of other splits are ignored.

    Returns:
        The value of each image, by column; ``(none)`` where the table has none.

    Raises:
        RequestError: if it is not such a table, names images that are not in the split, or one image twice.
    """
    header, rows = _read_table(path)
    row_numbers = dict.fromkeys(map(files.printable, names), -1)
    strangers: list[str] = []
    others = 0
    for number, row in enumerate(rows):
        name = row["path"].removeprefix("./")
        if name in row_numbers:
            if row_numbers[name] >= 0 and rows[row_numbers[name]] != row:
                raise RequestError(f"--groups: expected one row for each image, received two for {name!r} in {path!r}")
            row_numbers[name] = number
        elif name.startswith(f"{split}/") or "/" not in name:
            strangers.append(name)
        else:
            others += 1
    example = next(iter(row_numbers))
    if strangers or not any(number >= 0 for number in row_numbers.values()):
        received = f"{len(strangers):,} that are not: {', '.join(strangers[:_EXAMPLES])}" if strangers else (
            f"{others:,} rows of other folders, such as {rows[0]['path']!r}" if rows else "no rows"
        )  # fmt: skip
        raise RequestError(f"--groups: expected paths of {split} in {path!r}, such as {example}, received {received}")
    numbers = [row_numbers[files.printable(name)] for name in names]
    return {column: [rows[number][column] or NONE if number >= 0 else NONE for number in numbers] for column in header}


def _read_table(path: str) -> tuple[list[str], list[dict[str, str]]]:
    """Return the names of the columns other than ``path``, and the rows."""
    files.require_form(path, "groups")

    def choose(header: Sequence[str]) -> Sequence[str]:
        if "path" not in header or len(header) < 2 or not all(header):
            raise RequestError(
                f"--groups: expected a CSV with the header path,<column>..., received {','.join(header) or 'nothing'} "
                f"in {path!r}"
            )
        return header

    columns = table_files.read(path, choose, "groups")
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True) if any(row)]
    return [name for name in columns if name != "path"], rows
