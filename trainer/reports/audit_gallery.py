"""The pictures of the audit page: samples, clusters of copies, outliers, doubtful labels.

Owns: the choice of images, captions; links are relative to the path ``page``.  Does not own: which images are copies or
odd (``data/audit/``).
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from typing import Any

import numpy as np

from trainer.core.storage import files
from trainer.data.audit import outliers
from trainer.data.audit.duplicates import Duplicates
from trainer.data.audit.scan import Records
from trainer.data.layouts import drop
from trainer.reports import gallery_items, html
from trainer.reports.audit_labels import Doubt
from trainer.reports.parts import thumbnails

_SAMPLES = 120
_SAMPLES_OF_A_CLASS = 6
_CLUSTERS = {"across_splits": 12, "across_classes": 12, "inside": 6}
_IN_A_CLUSTER = 8
_NAMED = 200  # Of a cluster.
_OF_A_MEASURE = 6
_DOUBTS = 24


@dataclasses.dataclass(frozen=True)
class Choice:
    """An image that can be put on a drop list: its picture, its line there, and its file's address if it has one."""

    picture: html.Picture
    line: str
    file: str


@dataclasses.dataclass(frozen=True)
class Cluster:
    """Images that are alike, side by side.

    Attributes:
        choices: the images shown.
        caption: how they are alike.
        size: number of all members.
        splits: of the members.
        files: name and address of each member, of the first ones of many.
    """

    choices: tuple[Choice, ...]
    caption: str
    size: int
    splits: tuple[str, ...]
    files: tuple[tuple[str, str], ...]


def picture(records: Records, index: int, caption: str = "") -> html.Picture | None:
    """Return a thumbnail; None if the file cannot be read any more, without which the page is useful too."""
    image = thumbnails.read(records.path(index))
    if image is None:
        return None
    row = records.table[index]
    size = f"{row['width']} x {row['height']}, {row['format']}, {row['bytes'] / 1000:.0f} kB"
    return html.picture(thumbnails.small(image), files.printable(records.names[index]), caption or size)


def samples(records: Records, page: str) -> Iterable[dict[str, Any]]:
    """Yield some images of every class of every split, evenly spread over the good ones."""
    table = records.table
    cells = len(records.splits) * len(records.class_names)
    of_a_class = min(max(_SAMPLES // cells, 1), _SAMPLES_OF_A_CLASS)
    for number, split in enumerate(records.splits):
        for label, name in list(enumerate(records.class_names))[:_SAMPLES]:
            members = np.flatnonzero((table["split"] == number) & (table["label"] == label) & table["ok"])
            chosen = members[np.linspace(0, len(members) - 1, min(of_a_class, len(members))).round().astype(int)]
            yield {"title": f"{split.name}, {name}", "choices": _choices(records, page, chosen.tolist())}


def clusters(copies: Duplicates, page: str) -> dict[str, list[Cluster]]:
    """Return clusters to look at by kind: across splits, only across classes, or inside a class of a split."""
    return {kind: list(_of_kind(copies, page, kind)) for kind in _CLUSTERS}


def _of_kind(copies: Duplicates, page: str, kind: str) -> Iterator[Cluster]:
    remaining = _CLUSTERS[kind]
    correlations = {frozenset((pair.first, pair.second)): pair for pair in copies.near}
    for members in sorted(copies.clusters, key=lambda each: (-_equal(copies, each), -len(each), each)):
        if _kind(copies, members) != kind:
            continue
        chosen = _choices(copies.records, page, _spread(copies, members))
        if len(chosen) < 2:
            continue
        records = copies.records
        splits = tuple(records.splits[number].name for number in sorted(set(records.table["split"][list(members)])))
        named = tuple(
            (files.printable(records.names[i]), gallery_items.link_to(records.path(i), page)) for i in members[:_NAMED]
        )
        yield Cluster(chosen, _caption(copies, members, correlations), len(members), splits, named)
        remaining -= 1
        if not remaining:
            return


def _spread(copies: Duplicates, members: Sequence[int]) -> list[int]:
    """Return the members to show, one of every split and class first."""
    seen: set[tuple[int, int]] = set()
    first: list[int] = []
    rest: list[int] = []
    for index in members:
        row = copies.records.table[index]
        key = int(row["split"]), int(row["label"])
        (rest if key in seen else first).append(index)
        seen.add(key)
    return sorted([*first, *rest][:_IN_A_CLUSTER])


def _equal(copies: Duplicates, members: Sequence[int]) -> bool:
    return len(set(copies.content[list(members)].tolist())) == 1


def _kind(copies: Duplicates, members: Sequence[int]) -> str:
    if copies.crosses_splits(*members):
        return "across_splits"
    return "across_classes" if copies.crosses_classes(*members) else "inside"


def _caption(copies: Duplicates, members: Sequence[int], pairs: Mapping[frozenset[int], Any]) -> str:
    if _equal(copies, members):
        text = "equal files"
    elif pair := pairs.get(frozenset(members)):
        return f"{pair.distance} of 64 bits apart, correlation {pair.correlation:.3f}"
    else:
        text = "alike, each to some other"
    more = f", {_IN_A_CLUSTER} of them shown" if len(members) > _IN_A_CLUSTER else ""
    return f"{len(members):,} {text}{more}" if len(members) > 2 else text


def _choices(records: Records, page: str, members: Iterable[int], caption: str = "") -> tuple[Choice, ...]:
    pictures = ((index, picture(records, index, caption)) for index in members)
    return tuple(
        Choice(each, drop.line_of(records.names[index]), gallery_items.link_to(records.path(index), page))
        for index, each in pictures
        if each
    )


def odd(records: Records, page: str) -> list[dict[str, Any]]:
    """Return the oddest images by each measure, with their values."""
    found = []
    for measure, members in zip(outliers.MEASURES, outliers.oddest(records).values(), strict=True):
        choices: list[Choice] = []
        for index in members[:_OF_A_MEASURE]:
            caption = f"{measure.value(records.table[index]):,.3g} {measure.unit}"
            choices += _choices(records, page, [index], caption)
        if choices:
            found.append({"title": measure.title, "choices": choices})
    return found


def doubts(records: Records, found: Sequence[Doubt], page: str) -> list[Choice]:
    """Return images whose label a model contradicts."""
    places = {files.printable(name): index for index, name in enumerate(records.names)}
    shown: list[Choice] = []
    for doubt in found[:_DOUBTS]:
        caption = f"is {doubt.label}, called {doubt.called}; p({doubt.called}) {doubt.probability:.3f}"
        shown += _choices(records, page, [places[doubt.path]] if doubt.path in places else [], caption)
    return shown


def suggested(records: Records, chosen: Set[int], most: int) -> list[str]:
    """Return the lines of the suggested drop list for the page's script; none if there are more than ``most``."""
    return [drop.line_of(records.names[index]) for index in sorted(chosen)] if len(chosen) <= most else []
