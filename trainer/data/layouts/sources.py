"""Which images come from one source, such as frames of one video: by a column, else by file names.

Imports no TensorFlow.
"""

import collections
import dataclasses
import posixpath
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainer.data.layouts.split import SOURCE, Split

# For the rule by number: in "face_0001.jpg" the number counts faces, not frames of a video "face".
FEWEST_SOURCES = 10
# Of several images each, in a class: "Real/real_0001.jpg" beside "Fake/easy_12_0110.jpg" is one name, not one video.
_FEWEST_IN_A_CLASS = 3
NO_SOURCES = "each image by itself (file names do not tell sources)"
IN_COLUMN = "column source of the data"

_FRAME = re.compile(r"(.+?)[_-]+(?:frame|f)[_-]?\d+", re.IGNORECASE)
_NUMBERED = re.compile(r"(.+?)[_-]+\d+")
_FRAME_ALONE = re.compile(r"(?:frame|f|img|image)?[_-]?\d+", re.IGNORECASE)


@dataclasses.dataclass(frozen=True, eq=False)
class Sources:
    """The unit of resampling and of drawn splits: whole sources, or single images.

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


def of_split(split: Split) -> Sources:
    """Return the sources of a split's images: of its column if it has one, else by names ``<split>/<class>/...``."""
    if SOURCE in split.columns:
        return by_column(split.columns[SOURCE], split.source_rule or IN_COLUMN)
    return Sources(None, split.source_rule) if split.source_rule else by_name(split.names)


def by_column(values: Sequence[str], rule: str) -> Sources:
    """Return the sources that a column names; an image without a value is its own source."""
    return Sources(number([value or f"\0{place}" for place, value in enumerate(values)]), rule)


def by_name(names: Sequence[str], *, above: int = 2, fewest: int = 1) -> Sources:
    """Return the sources that names tell; an image that does not match the rule is its own source.

    Args:
        names: of the images.
        above: folders of a name down to the class's, which tell no source; two in ``<split>/<class>/...``.
        fewest: sources that a rule must find.
    """
    keys, rule = keys_by_name(names, above=above, fewest=fewest)
    return by_column(keys, rule) if keys else Sources(None, rule)


def keys_by_name(names: Sequence[str], *, above: int = 2, fewest: int = 1) -> tuple[list[str], str]:
    """Return the source of each image by the first rule that groups any, and the rule; no sources without one.

    An image that does not match the rule has the source "".  The arguments are those of ``by_name``.
    """
    for rule, of_name in (
        ("file names: one folder a video (video/0001.png)", _folder_source),
        ("file names: frames of a video (video_frame12.jpg)", _frame_source),
        ("file names: numbered images of a video (video_0012.png)", _numbered_source),
    ):
        keys, least = [of_name(name, above) for name in names], fewest
        if of_name is _numbered_source:
            keys, least = _without_names_of_classes(keys, above), max(fewest, FEWEST_SOURCES)
        alone = keys.count("")
        count = len(set(keys)) - (alone > 0) + alone
        if least <= count < len(names):
            return keys, rule
    return [], NO_SOURCES


def _without_names_of_classes(keys: list[str], above: int) -> list[str]:
    """Return the keys, but "" in classes with so few sources of several images that they only name the class."""
    images = collections.Counter(key for key in keys if key)
    several = collections.Counter(_class(key, above) for key, count in images.items() if count > 1)
    return [key if several[_class(key, above)] >= _FEWEST_IN_A_CLASS else "" for key in keys]


def _class(key: str, above: int) -> str:
    return "/".join(key.split("/")[:above])


def number(keys: Sequence[str]) -> npt.NDArray[np.int64]:
    """Return a number from 0 for each key, equal ones for equal keys, in their order."""
    order: dict[str, int] = {}
    return np.array([order.setdefault(key, len(order)) for key in keys], np.int64)


def _folder_source(name: str, above: int) -> str:
    """Return the folder of an image such as ``Test/Fake/video/0001.png``; "" for any other name."""
    folder, stem = _parts(name)
    depth = folder.count("/") + 1 if folder else 0
    return folder if depth > above and _FRAME_ALONE.fullmatch(stem) else ""


def _frame_source(name: str, above: int) -> str:
    folder, stem = _parts(name)
    match = _FRAME.fullmatch(stem)
    return f"{folder}/{match[1]}" if match else ""


def _numbered_source(name: str, above: int) -> str:
    folder, stem = _parts(name)
    match = _NUMBERED.fullmatch(stem)
    return f"{folder}/{match[1]}" if match else ""


def _parts(name: str) -> tuple[str, str]:
    folder, base = posixpath.split(name)
    return folder, posixpath.splitext(base)[0]
