"""Draw a share of every class by seed, whole sources together where they are known.

Imports no TensorFlow.
"""

import collections
import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class Draw:
    """The positions that were drawn, by class and then in order; and a note on what could not be as asked."""

    positions: list[int]
    note: str = ""


def by_image(labels: npt.NDArray[np.int32], fraction: float, seed: int, least: int = 1) -> Draw:
    """Draw ``round(fraction * n)`` images of every class, ``least`` or more; where a class has two, one stays."""
    drawn: list[int] = []
    for label in np.unique(labels).tolist():
        drawn += _some_of(np.flatnonzero(labels == label), label, fraction, seed, least)
    return Draw(drawn)


def _some_of(members: Ints, label: int, fraction: float, seed: int, least: int) -> list[int]:
    count = _target(len(members), fraction, least)
    return sorted(np.random.default_rng([seed, label]).permutation(members)[:count].tolist())


def _target(images: int, fraction: float, least: int) -> int:
    return min(max(round(fraction * images), least), images - least)


def by_source(
    labels: npt.NDArray[np.int32], sources: Ints, fraction: float, seed: int, class_names: Sequence[str], least: int = 1
) -> Draw:
    """Draw whole sources, so that every class comes as near to its share as they allow.

    A class of a single source cannot be in both parts without sharing it: its images are drawn one by one.

    Args:
        labels: ``[N]`` class of each image.
        sources: ``[N]`` source of each image, from 0.
        fraction: the share.
        seed: of the order in which sources are considered.
        class_names: for the note.
        least: images of every class that each part must have: 1, or 0 where nothing is to be split.
    """
    classes = np.unique(labels).tolist()
    single = [label for label in classes if least and len(np.unique(sources[labels == label])) < 2]
    divisible = np.flatnonzero(~np.isin(labels, single))
    members = _by_source(sources, divisible)
    taken = _greedy(_contents(labels, members), fraction, seed, least)
    drawn = [position for source in taken for position in members[source]]
    for label in single:
        drawn += _some_of(np.flatnonzero(labels == label), label, fraction, seed, least)
    note = ", ".join(class_names[label] for label in single)
    text = f"all images of {note} come from one source, which is therefore in both" if single else ""
    return Draw(sorted(drawn, key=lambda position: (int(labels[position]), position)), text)


def _by_source(sources: Ints, positions: Ints) -> dict[int, list[int]]:
    members = collections.defaultdict(list)
    for position, source in zip(positions.tolist(), sources[positions].tolist(), strict=True):
        members[source].append(position)
    return members


def _contents(labels: npt.NDArray[np.int32], members: dict[int, list[int]]) -> dict[int, collections.Counter[int]]:
    """Return the number of images of each class, by source."""
    values = labels.tolist()
    return {source: collections.Counter(values[i] for i in positions) for source, positions in members.items()}


def _greedy(contents: dict[int, collections.Counter[int]], fraction: float, seed: int, least: int) -> list[int]:
    """Return sources, considered in an order by seed, each taken if it brings the classes nearer to their targets."""
    totals: collections.Counter[int] = collections.Counter()
    for content in contents.values():
        totals.update(content)
    targets = {label: _target(count, fraction, least) for label, count in totals.items()}
    have = dict.fromkeys(totals, 0)
    taken, order = [], np.random.default_rng([seed, len(contents)]).permutation(sorted(contents)).tolist()
    for source in order:
        content = contents[source]
        gain = sum((abs(targets[c] - have[c]) - abs(targets[c] - have[c] - n)) / totals[c] for c, n in content.items())
        if gain > 0 and all(have[c] + n <= totals[c] - least for c, n in content.items()):
            _add(have, content)
            taken.append(source)
    return taken + _fill(contents, set(taken), have, totals, least)


def _fill(
    contents: dict[int, collections.Counter[int]], taken: set[int], have: dict[int, int], totals: dict[int, int],
    least: int,
) -> list[int]:  # fmt: skip
    """Return the smallest further sources that give each class an image, which only large sources leave without."""
    further = []
    for label in totals:
        if least and not have[label]:
            rest = [s for s, content in contents.items() if content[label] and s not in taken and all(
                have[c] + n <= totals[c] - least for c, n in content.items())]  # fmt: skip
            if rest:
                smallest = min(rest, key=lambda source: (contents[source].total(), source))
                _add(have, contents[smallest])
                taken.add(smallest)
                further.append(smallest)
    return further


def _add(have: dict[int, int], content: collections.Counter[int]) -> None:
    for label, count in content.items():
        have[label] += count
