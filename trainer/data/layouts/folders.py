"""Folders of splits and classes under any usual name, flat folders of classes, and one level too high or too low.

Does not own: a data_dir that is exactly ``{Train,Validation,Test}/<class>`` (``manifest.py``).  Imports no TensorFlow.
"""

import dataclasses
import posixpath
from collections.abc import Sequence

from trainer.core.config import LayoutConfig
from trainer.core.errors import RequestError
from trainer.core.litter import LeftOut
from trainer.core.placement import SPLITS
from trainer.core.storage import files
from trainer.data.layouts import sources, tree, words
from trainer.data.layouts.images import Images
from trainer.data.layouts.split import METHOD, SOURCE
from trainer.data.layouts.words import FAKE, REAL, Labels

_SHOWN = 5
_ABOVE = "\0"  # Joins folders that tell no source.


@dataclasses.dataclass(frozen=True)
class Place:
    """Where the class folders of a data_dir are.

    Attributes:
        root: the folder that holds the splits, or the classes of a flat set.
        splits: folder of each split that there is; empty: the set is flat.
        unused: folders with the name of a split that another folder has.
        moved: why ``root`` is not data_dir, a sentence; empty if it is.
        nested: whether the folders of a split are not classes but have class folders below them.
    """

    root: str
    splits: dict[str, str]
    unused: tuple[str, ...] = ()
    moved: str = ""
    nested: bool = False

    @property
    def is_exact(self) -> bool:
        """Whether it is what ``manifest.py`` reads itself."""
        return bool(self.splits) and all(name == folder for name, folder in self.splits.items()) and not self.nested


def find(data_dir: str, settings: LayoutConfig, names: Sequence[str]) -> Place | None:
    """Return where the class folders of a data_dir with these folders are; None if nothing is recognised.

    Raises:
        RequestError: if several folders fit.
    """
    labels = words.labels_of(settings.labels)
    if place := _parent(data_dir):
        return place
    if place := _at(data_dir, labels, names):
        return place
    fitting = [place for name in names if (place := _at(files.join(data_dir, name), labels))]
    if len(fitting) > 1 and labels:  # Which folders are classes is said, so they may lie at any depth.
        return Place(data_dir, {})
    if len(fitting) > 1:
        roots = ", ".join(repr(place.root) for place in fitting[:_SHOWN])
        raise RequestError(
            f"--data_dir: expected one folder with splits or classes in {data_dir!r}, received {len(fitting)}: {roots}"
            "; give one of them, or --labels to take all class folders of these names"
        )
    if fitting:
        text = f"data_dir is one level too high: {fitting[0].root!r} is used"
        return dataclasses.replace(fitting[0], moved=text)
    return None


def _at(root: str, labels: Labels, names: Sequence[str] | None = None) -> Place | None:
    """Return the place if a folder, in which there are folders of these names, holds splits or classes itself."""
    names = tree.folders(root) if names is None else names
    alike = {split: [name for name in names if words.split_of(name) == split] for split in SPLITS}
    if any(alike.values()):
        return _with_splits(root, alike, labels)
    return Place(root, {}) if _are_classes(names, labels) else None


def _with_splits(root: str, alike: dict[str, list[str]], labels: Labels) -> Place:
    splits: dict[str, str] = {}
    unused: list[str] = []
    for split, names in alike.items():
        exact = [name for name in names if name == split]
        if len(names) > 1 and not exact:
            raise RequestError(
                f"--data_dir: expected one folder for {split} in {root!r}, received {', '.join(map(repr, names))}; "
                "rename or move all but one"
            )
        if names:
            splits[split] = (exact or names)[0]
            unused += [name for name in names if name != splits[split]]
    first = files.join(root, next(iter(splits.values())))
    return Place(root, splits, tuple(unused), nested=_is_nested(first, labels))


def _is_nested(folder: str, labels: Labels) -> bool:
    """Return whether the folders of a split have no name of a class, but folders below the first have."""
    names = tree.folders(folder)
    if not names or any(words.kind_of(name) or labels.class_of(name) for name in names):
        return False
    return _are_classes(tree.folders(files.join(folder, names[0])), labels)


def _are_classes(names: Sequence[str], labels: Labels) -> bool:
    if labels:
        return len({labels.class_of(name) for name in names} - {""}) > 1
    return {words.kind_of(name) for name in names} >= {FAKE, REAL}


def _parent(data_dir: str) -> Place | None:
    """Return the place above, if data_dir is one split of several."""
    path = files.absolute(data_dir).rstrip("/")
    above, name = posixpath.split(path)
    own = words.split_of(name)
    if not own or above.endswith(":/") or not _are_classes(tree.folders(path), Labels({})):
        return None
    if not any(words.split_of(other) not in ("", own) for other in tree.folders(above)):
        return None
    place = _at(above, Labels({}))
    text = f"data_dir is one level too low: it is {own} of {above!r}, which is used"
    return place and dataclasses.replace(place, moved=text)


def hint(data_dir: str) -> str:
    """Return what to give instead, for a data_dir that is a class folder; empty: nothing is known."""
    path = files.absolute(data_dir).rstrip("/")
    for above in (posixpath.dirname(posixpath.dirname(path)), posixpath.dirname(path)):
        name = path[len(above) :].strip("/").partition("/")[0]
        fits = words.split_of(name) or (words.kind_of(name) and above == posixpath.dirname(path))
        if fits and len(above.strip("/")) > 1 and not above.endswith(":/") and (place := _at(above, Labels({}))):
            return place.root
    return ""


def read(place: Place, settings: LayoutConfig, wanted: Sequence[str] = ()) -> Images:
    """List the images of a place.

    Args:
        place: see ``find``.
        settings: of the command.
        wanted: splits to list; empty: all.

    Raises:
        RequestError: if a folder may not be listed.
    """
    labels = words.labels_of(settings.labels)
    there = {split: name for split, name in place.splits.items() if not wanted or split in wanted}
    parts = list(there.values()) if place.splits else tree.folders(place.root)
    names, left_out = tree.below(place.root, parts)
    meanings = {name: split for split, name in there.items()}
    rows = _Rows(labels, bool(place.splits), place.nested)
    for name in names:
        rows.add(name, meanings.get(name.partition("/")[0], ""))
    return rows.images(place, there, left_out)


class _Rows:
    """Collects the images of a tree, and counts by folder what belongs to no class."""

    def __init__(self, labels: Labels, has_splits: bool, nested: bool) -> None:
        self._labels, self._has_splits, self._nested = labels, has_splits, nested
        self._rows: list[tuple[str, str, str, str]] = []
        self._above: list[int] = []
        self._others: dict[str, int] = {}
        self._loose: list[str] = []

    def add(self, name: str, split: str) -> None:
        """Take an image, or note that it is not used."""
        parts = name.split("/")[:-1]
        first = int(self._has_splits)
        if len(parts) <= first:
            self._loose.append(name)
            return
        depth = self._depth(parts, first)
        if depth < 0:
            self._others[parts[first]] = self._others.get(parts[first], 0) + 1
            return
        one = self._labels.class_of(parts[depth]) or parts[depth]
        self._rows.append((name, one, split, "/".join(parts[first:depth]) or self._method(parts[depth], one)))
        self._above.append(depth + 1)

    def _method(self, folder: str, one: str) -> str:
        return folder if self._labels and folder != one else ""

    def _depth(self, parts: Sequence[str], first: int) -> int:
        """Return the place of the class among the folders; -1: the image belongs to none."""
        if self._labels:
            return next((i for i in range(first, len(parts)) if self._labels.class_of(parts[i])), -1)
        if self._nested:
            return next((i for i in range(first, len(parts)) if words.kind_of(parts[i])), -1)
        return first if self._has_splits or words.kind_of(parts[first]) else -1

    def images(self, place: Place, there: dict[str, str], left_out: LeftOut) -> Images:
        """Return the table."""
        names, classes, splits, methods = ([row[place] for row in self._rows] for place in range(4))
        columns: dict[str, list[str]] = {}
        if len(set(methods)) > 1:
            columns[METHOD] = [m if words.kind_of(one) != REAL else "" for m, one in zip(methods, classes, strict=True)]
        rule = ""
        if names:
            values, rule = _sources(names, self._above, self._has_splits)
            columns |= {SOURCE: values} if values else {}
        texts = {split: f"folder {files.join(place.root, folder)!r}" for split, folder in there.items()}
        left_out += LeftOut(loose=tuple(self._loose))
        mount = "" if place.splits and not self._nested and not self._labels else place.root
        what = f"folder {place.root!r}" if place.splits else f"classes of folder {place.root!r}"
        notes = _notes(place, self._others, self._labels)
        return Images(place.root, what, names, classes, splits, columns, rule, texts, notes, left_out, mount)


def _sources(names: Sequence[str], above: Sequence[int], has_splits: bool) -> tuple[list[str], str]:
    """Return the source of each image by its name without the split, if names tell it, and the rule."""
    # All folders down to the class's in one, so that one rule fits all depths.
    parts = [name.split("/", depth) for name, depth in zip(names, above, strict=True)]
    keys, rule = sources.keys_by_name([f"{_ABOVE.join(p[has_splits:-1])}/{p[-1]}" for p in parts], above=1)
    return [key.replace(_ABOVE, "/") for key in keys], rule


def _notes(place: Place, others: dict[str, int], labels: Labels) -> tuple[str, ...]:
    notes = [place.moved]
    if place.unused:
        notes.append(f"not used, as there is another folder for the split: {', '.join(map(repr, place.unused))}")
    if others:
        shown = ", ".join(f"{name!r} ({count:,})" for name, count in sorted(others.items())[:_SHOWN])
        more = ", ..." if len(others) > _SHOWN else ""
        why = "not in --labels" if labels else "no class by their names; --labels takes them"
        notes.append(f"not used, {why}: {shown}{more}")
    return tuple(filter(None, notes))
