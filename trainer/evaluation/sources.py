"""Group images by source (frames of one video, by file name or table), and read the table of ``--groups``.

Does not own: metrics by group (``groups.py``), resampling (``bootstrap.py``).  Imports no TensorFlow.
"""

import csv
import dataclasses
import io
import posixpath
import re
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from trainer.core.errors import RequestError
from trainer.core.storage import files

NONE = "(none)"  # The value of an image without a row, or with an empty cell.
_FEWEST_SOURCES = (
    10  # For the rule by number: in "face_0001.jpg" the number counts faces, not frames of a video "face".
)
_SOURCE_COLUMNS = ("source", "video")  # Columns that --group_by=auto takes from a table.
_EXAMPLES = 3

_FRAME = re.compile(r"(.+?)[_-]+(?:frame|f)[_-]?\d+", re.IGNORECASE)
_NUMBERED = re.compile(r"(.+?)[_-]+\d+")
_FRAME_ALONE = re.compile(r"(?:frame|f|img|image)?[_-]?\d+", re.IGNORECASE)

Columns = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True, eq=False)
class Sources:
    """The unit of resampling: whole sources, or single images.

    Attributes:
        numbers: ``[N]`` source of each image, from 0; None: each image is its own unit.
        rule: how the sources were determined, in words.
    """

    numbers: npt.NDArray[np.int64] | None
    rule: str

    def select(self, indices: npt.NDArray[np.int64]) -> "Sources":
        """Return the sources of these images, renumbered from 0."""
        if self.numbers is None:
            return self
        return Sources(np.unique(self.numbers[indices], return_inverse=True)[1].astype(np.int64), self.rule)

    def describe(self, images: int) -> dict[str, str | int]:
        """Return ``unit`` (sources or images), their number and the rule, for ``metrics.json``."""
        if self.numbers is None:
            return {"unit": "images", "count": images, "rule": self.rule}
        return {"unit": "sources", "count": len(np.unique(self.numbers)), "rule": self.rule}


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
    if group_by != "auto" and group_by not in columns:
        raise RequestError(
            f"--group_by: expected none, auto or a column of --groups ({', '.join(columns) or 'no table was given'}), "
            f"received {group_by!r}"
        )
    candidates = [group_by] if group_by != "auto" else [name for name in _SOURCE_COLUMNS if name in columns]
    for column in candidates:
        # Each image without a value is its own source.
        keys = [value if value != NONE else f"\0{number}" for number, value in enumerate(columns[column])]
        return Sources(_number(keys), f"column {column} of the groups table")
    return _by_name(names)


def _by_name(names: Sequence[str]) -> Sources:
    """Apply the first rule that groups any images; an image that does not match it is its own source."""
    for rule, of_name in (
        ("file names: one folder a video (video/0001.png)", _folder_source),
        ("file names: frames of a video (video_frame12.jpg)", _frame_source),
        ("file names: numbered images of a video (video_0012.png)", _numbered_source),
    ):
        numbers = _number([of_name(name) or f"\0{name}" for name in names])
        count = int(numbers.max()) + 1
        if count < len(names) and (of_name is not _numbered_source or count >= _FEWEST_SOURCES):
            return Sources(numbers, rule)
    return Sources(None, "each image by itself (file names do not tell sources)")


def _number(keys: Sequence[str]) -> npt.NDArray[np.int64]:
    order: dict[str, int] = {}
    return np.array([order.setdefault(key, len(order)) for key in keys], np.int64)


def _folder_source(name: str) -> str:
    """Return the folder of an image such as ``Test/Fake/video/0001.png``; "" for any other name."""
    folder, stem = _parts(name)
    return folder if folder.count("/") > 1 and _FRAME_ALONE.fullmatch(stem) else ""


def _frame_source(name: str) -> str:
    folder, stem = _parts(name)
    match = _FRAME.fullmatch(stem)
    return f"{folder}/{match[1]}" if match else ""


def _numbered_source(name: str) -> str:
    folder, stem = _parts(name)
    match = _NUMBERED.fullmatch(stem)
    return f"{folder}/{match[1]}" if match else ""


def _parts(name: str) -> tuple[str, str]:
    folder, base = posixpath.split(name)
    return folder, posixpath.splitext(base)[0]


def read_groups(path: str, names: Sequence[str], split: str) -> dict[str, list[str]]:
    """Read a CSV of groups: a column ``path`` as in predictions.csv, and one or more columns of values.

    Args:
        path: local or gs://.
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
    try:
        text = files.read_text(path)
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"--groups: expected a readable CSV file, received {path!r}: {error}") from error
    try:
        header, *cells = list(csv.reader(io.StringIO(text.removeprefix("\ufeff")))) or [[]]
    except csv.Error as error:
        raise RequestError(f"--groups: expected a readable CSV file, received {path!r}: {error}") from error
    header = [name.strip() for name in header]
    if "path" not in header or len(header) < 2 or len(set(header)) < len(header) or not all(header):
        raise RequestError(
            f"--groups: expected a CSV with the header path,<column>..., received {','.join(header) or 'nothing'} in "
            f"{path!r}"
        )
    rows = []
    for number, row in enumerate(cells, start=2):
        if any(row[len(header) :]):
            raise RequestError(
                f"--groups: expected at most {len(header)} cells in each row of {path!r}, as its header has, received "
                f"{len(row)} in row {number}; write cells that hold a comma in double quotes"
            )
        if any(row):  # Absent cells at the end are empty.
            rows.append(dict(zip(header, [*map(str.strip, row), *[""] * len(header)], strict=False)))
    return [name for name in header if name != "path"], rows
