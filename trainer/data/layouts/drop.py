"""The list of images to leave out (``--drop``): its form, and the splits without them.

Test is drawn before and Validation after the images are left out: a list keeps the splits that the audit saw, and
training with it is training on what ``pack --drop`` wrote.  Imports no TensorFlow.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from trainer.core.config import LayoutConfig
from trainer.core.errors import RequestError
from trainer.core.placement import TRAIN, VALIDATION
from trainer.core.storage import files
from trainer.data.layouts.images import Images
from trainer.data.layouts.split import Split

_BREAKS = re.compile(r"[\r\n]")


def line_of(name: str) -> str:
    r"""Return an image's name as a line of the list: as ``files.printable``, with line breaks as ``\x0a``."""
    return _BREAKS.sub(lambda one: f"\\x{ord(one[0]):02x}", files.printable(name))


def read(path: str) -> dict[str, None]:
    """Return the lines of a list, each once; none without a path.

    Raises:
        RequestError: if it cannot be read.
    """
    if not path:
        return {}
    try:
        text = files.read_text(path).removeprefix("\ufeff")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError, UnicodeError) as error:
        raise RequestError(
            f"--drop: expected a text file with one image name a line, received {path!r} ({type(error).__name__}); "
            "check the path"
        ) from error
    return dict.fromkeys(line for line in (each.removesuffix("\r") for each in text.split("\n")) if line.strip())


def from_images(images: Images, settings: LayoutConfig) -> Images:
    """Return the images without those of the list; a note says how many.

    Raises:
        RequestError: if the list cannot be read, names an image that is not there, or empties a class.
    """
    lines = read(settings.drop)
    if not lines:
        return images
    names = [line_of(name) for name in images.names]
    _require_known(lines, names, images.what, settings.drop)
    kept = images.select([i for i, name in enumerate(names) if name not in lines])
    before, after = (Counter(zip(one.splits, one.classes, strict=True)) for one in (images, kept))
    for split, name in sorted(before.keys() - after.keys()):
        _refuse_empty(split, name, settings.drop)
    lost: Counter[str] = Counter()
    for (split, _), count in (before - after).items():
        lost[split] += count
    return dataclasses.replace(kept, notes=(*kept.notes, words(lost)))


def from_splits(splits: Sequence[Split], settings: LayoutConfig, others: Callable[[], Iterable[str]]) -> list[Split]:
    """Return the splits without the images of the list.

    Args:
        splits: that were read.
        settings: with the list.
        others: returns the names of data_dir's other images, and of those that a packed set lacks already.

    Raises:
        RequestError: as ``from_images``.
    """
    lines = read(settings.drop)
    named = [[line_of(name) for name in split.names] for split in splits]
    unknown = {line: None for line in lines if line not in {name for names in named for name in names}}
    if unknown:
        rest = list(others())
        _require_known(unknown, [*rest, *map(line_of, rest)], "data_dir", settings.drop)
    return [_without(split, names, lines, settings.drop) for split, names in zip(splits, named, strict=True)]


def _without(split: Split, names: Sequence[str], lines: Mapping[str, None], path: str) -> Split:
    kept = split.select([i for i, name in enumerate(names) if name not in lines], split.name)
    for name, count in kept.counts.items():
        if not count and split.counts[name]:
            _refuse_empty(split.name, name, path)
    return dataclasses.replace(kept, dropped=len(split) - len(kept))


def _require_known(lines: Mapping[str, None], names: Sequence[str], what: str, path: str) -> None:
    there = set(names)
    absent = [line for line in lines if line not in there]
    if absent:
        more = f" and {len(absent) - 1:,} others" if absent[1:] else ""
        raise RequestError(
            f"--drop: expected names of images in {what}, received {absent[0]!r}{more}, which it lacks; correct "
            f"{path!r}, or make it anew with prepare_data.py audit"
        )


def _refuse_empty(split: str, name: str, path: str) -> None:
    if split in (TRAIN, VALIDATION):
        raise RequestError(
            f"--drop: expected to leave images of every class in {split}, received a list with all of {name}; shorten "
            f"{path!r}"
        )


def words(dropped: Mapping[str, int]) -> str:
    """Return how many images the list left out, by split; empty: none."""
    counts = [f"{split} {count:,}" if split else f"{count:,}" for split, count in dropped.items() if count]
    return f"left out by --drop: {', '.join(counts)}" if counts else ""
