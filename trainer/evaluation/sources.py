"""Which images belong together: frames of one video, by file name or by a table, and the groups that a table names.

Does not own: figures by group (``groups.py``), resampling (``bootstrap.py``).  Imports no TensorFlow.
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
_FEWEST_SOURCES = 10  # Of the rule by number: "face_0001.jpg" counts faces, and is no frame of a video "face".
_SOURCE_COLUMNS = ("source", "video")  # That --group_by=auto takes from a table.
_EXAMPLES = 3

_FRAME = re.compile(r"(.+?)[_-]+(?:frame|f)[_-]?\d+", re.IGNORECASE)
_NUMBERED = re.compile(r"(.+?)[_-]+\d+")
_FRAME_ALONE = re.compile(r"(?:frame|f|img|image)?[_-]?\d+", re.IGNORECASE)

Columns = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True, eq=False)
class Sources:
    """What the bootstrap draws.

    Attributes:
        numbers: ``[N]`` source of each image, from 0; None: every image is drawn by itself.
        rule: how sources were told apart, in words.
    """

    numbers: npt.NDArray[np.int64] | None
    rule: str

    def select(self, indices: npt.NDArray[np.int64]) -> "Sources":
        """Return the sources of only these images, numbered anew."""
        if self.numbers is None:
            return self
        return Sources(np.unique(self.numbers[indices], return_inverse=True)[1].astype(np.int64), self.rule)

    def describe(self, images: int) -> dict[str, str | int]:
        """Return ``unit`` (sources or images), how many there are, and the rule, for ``metrics.json``."""
        if self.numbers is None:
            return {"unit": "images", "count": images, "rule": self.rule}
        return {"unit": "sources", "count": len(np.unique(self.numbers)), "rule": self.rule}


def find_sources(group_by: str, names: Sequence[str], columns: Columns) -> Sources:
    """Tell which images are of one source.

    Args:
        group_by: ``none``; ``auto`` (a column source or video of the table, else file names); or a column.
        names: of the images, ``<split>/<class>/...``, at least one.
        columns: of the table, see ``read_groups``; empty without one.

    Raises:
        RequestError: if the table has no such column.
    """
    if group_by == "none":
        return Sources(None, "each image by itself (--group_by=none)")
    if group_by != "auto" and group_by not in columns:
        raise RequestError(
            f"--group_by: expected none, auto or a column of --groups ({', '.join(columns) or 'no table was given'}), "
            f"received {group_by!r}"
        )
    wanted = [group_by] if group_by != "auto" else [name for name in _SOURCE_COLUMNS if name in columns]
    for column in wanted:
        # Images without a value have nothing in common.
        keys = [value if value != NONE else f"\0{number}" for number, value in enumerate(columns[column])]
        return Sources(_number(keys), f"column {column} of the groups table")
    return _by_name(names)


def _by_name(names: Sequence[str]) -> Sources:
    """Take the first rule that puts some images together; an image that it does not fit is its own source."""
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
    """Return the folder of ``Test/Fake/video/0001.png``; "" for images that are not numbered within one."""
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
    """Read a CSV of groups: a column ``path`` as in predictions.csv, and a column of values for each way to group.

    Args:
        path: local or gs://.
        names: of the images, ``<split>/<class>/...``.
        split: rows of other splits are left out.

    Returns:
        By column, the value of each image; ``(none)`` where the table has none.

    Raises:
        RequestError: if it is no such table, names images that are not there, or one image twice.
    """
    header, rows = _read_table(path)
    found = dict.fromkeys(map(files.printable, names), -1)
    strangers: list[str] = []
    others = 0
    for number, row in enumerate(rows):
        name = row["path"].removeprefix("./")
        if name in found:
            if found[name] >= 0 and rows[found[name]] != row:
                raise RequestError(f"--groups: expected one row for each image, received two for {name!r} in {path!r}")
            found[name] = number
        elif name.startswith(f"{split}/") or "/" not in name:
            strangers.append(name)
        else:
            others += 1
    example = next(iter(found))
    if strangers or not any(number >= 0 for number in found.values()):
        received = f"{len(strangers):,} that are not: {', '.join(strangers[:_EXAMPLES])}" if strangers else (
            f"{others:,} rows of other folders, such as {rows[0]['path']!r}" if rows else "no rows"
        )  # fmt: skip
        raise RequestError(f"--groups: expected paths of {split} in {path!r}, such as {example}, received {received}")
    numbers = [found[files.printable(name)] for name in names]
    return {column: [rows[number][column] or NONE if number >= 0 else NONE for number in numbers] for column in header}


def _read_table(path: str) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns beside ``path``, and the rows."""
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
    rows = [dict(zip(header, [*map(str.strip, row), *[""] * len(header)], strict=False)) for row in cells if any(row)]
    return [name for name in header if name != "path"], rows
