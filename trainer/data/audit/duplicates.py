"""Find duplicate images: byte for byte (exact), or visually alike (near).

Near means: perceptual hashes at most ``near_distance`` of 64 bits apart, and a correlation of the 16 x 16 luminances of
at least 0.98.  Recompressed and resized copies pass both tests; none of 603,900 pairs of different drawn faces does.
Owns: the search, what counts as a leak, and what to drop.  Does not own: fingerprints (``measure.py``).
"""

import dataclasses
import functools
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from trainer.data.audit.measure import FINGERPRINT_SIDE
from trainer.data.audit.scan import Records
from trainer.data.audit.union import Union
from trainer.data.manifest import TEST, TRAIN, VALIDATION

NEAR_DISTANCE, MAX_NEAR_DISTANCE = 6, 7  # Bits.
MIN_CORRELATION = 0.98
# A split must not share an image with a later one.  The earlier one loses it, so Test is never changed.
SPLITS = (TRAIN, VALIDATION, TEST)
_LISTED = 10_000  # Near pairs of each kind whose names are kept.
# Multi-index hashing (Norouzi, Punjani, Fleet 2012): two hashes at most 7 bits apart differ in at most one bit of one
# of four quarters, so only images with such a quarter in common are compared.
_QUARTERS, _QUARTER_BITS = 4, 16
_FLIPS = (0, *(1 << bit for bit in range(_QUARTER_BITS)))
_WINDOW = 2_000  # Candidates for an image in one bucket; only hashes that thousands share have more.
_BLOCK = 1 << 20  # Pairs compared at a time.
_CORRELATED = 1 << 15  # Pairs correlated at a time.

Ints = npt.NDArray[np.int64]
Bits = npt.NDArray[np.uint8]
Kinds = dict[str, int]


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two images that look alike; the indices are positions in the records."""

    first: int
    second: int
    distance: int
    correlation: float


@dataclasses.dataclass(frozen=True, eq=False)
class Duplicates:
    """The result of one search; flat and bad images take no part in the near search.

    Attributes:
        records: what was searched.
        content: ``[N]`` the number of an image's content; equal numbers mean equal bytes; -1: a bad image.
        exact: positions of each group of two or more images with equal bytes.
        exact_splits: ``[N]`` bit ``s`` is set if split ``s`` holds the same bytes.
        near_splits: ``[N]`` bit ``s`` is set if split ``s`` holds an image that looks alike but is another file.
        near_counts: pairs of contents by kind: ``across_splits``, ``across_classes`` (can be both), ``inside``.
        near: such pairs, at most 10,000 of a kind, the most similar first.
        complete: False if a hash was so frequent that some of its pairs were not compared.
        clusters: positions of two or more images that equal bytes or likeness connect, directly or over others.
    """

    records: Records
    content: Ints
    exact: tuple[tuple[int, ...], ...]
    exact_splits: Bits
    near_splits: Bits
    near_counts: Kinds
    near: tuple[Pair, ...]
    complete: bool
    clusters: tuple[tuple[int, ...], ...]

    def crosses_splits(self, *indices: int) -> bool:
        """Return whether these images lie in more than one split."""
        return len(set(self.records.table["split"][list(indices)].tolist())) > 1

    def crosses_classes(self, *indices: int) -> bool:
        """Return whether these images have more than one class."""
        return len(set(self.records.table["label"][list(indices)].tolist())) > 1

    @property
    def label_conflicts(self) -> list[tuple[int, ...]]:
        """Groups of equal files in more than one class; at most one of the labels can be right."""
        return [group for group in self.exact if self.crosses_classes(*group)]

    def shared(self, split: str, other: str) -> tuple[int, int]:
        """Return how many images of a split another one holds too: exactly, and only nearly."""
        order = [each.name for each in self.records.splits]
        members = self.records.table["split"] == order.index(split)
        bit = 1 << order.index(other)
        exact = members & (self.exact_splits & bit > 0)
        near = members & (self.near_splits & bit > 0) & ~exact
        return int(exact.sum()), int(near.sum())


def leaks(records: Records, near_distance: int = NEAR_DISTANCE) -> set[str]:
    """Return the names of images to drop so that no image, exact or near, is in two splits.

    Train loses what Validation or Test also holds, Validation loses what Test also holds, and Test loses nothing.
    Duplicates within a split stay.

    Args:
        records: of one scan over all splits that matter.
        near_distance: largest distance of perceptual hashes, bits, 0 to 7.
    """
    return to_drop(find(records, near_distance))


def to_drop(duplicates: Duplicates) -> set[str]:
    """Return the same for a finished search."""
    return {duplicates.records.names[index] for index in leaked(duplicates)}


def leaked(duplicates: Duplicates) -> Ints:
    """Return their positions."""
    records = duplicates.records
    order = [split.name for split in records.splits]
    copies = duplicates.exact_splits | duplicates.near_splits
    drop = np.zeros(len(copies), bool)
    for split, later in ((TRAIN, (VALIDATION, TEST)), (VALIDATION, (TEST,))):
        if split in order:
            mask = sum(1 << order.index(name) for name in later if name in order)
            drop |= (records.table["split"] == order.index(split)) & (copies & mask > 0)
    return np.flatnonzero(drop)


def find(records: Records, near_distance: int = NEAR_DISTANCE) -> Duplicates:
    """Search the good images for equal and for similar ones.

    Memory grows linearly with the number of images, and time nearly so unless very many look alike.
    """
    assert 0 <= near_distance <= MAX_NEAR_DISTANCE
    table = records.table
    # Exact: equal hashes of the bytes get one content number.
    content = np.full(len(table), -1, np.int64)
    good = np.flatnonzero(table["ok"])
    content[good] = np.unique(table["sha256"][good], return_inverse=True)[1]
    contents = _Contents.of(records, content)
    # Near: one file of each content stands for all.
    near = _Near(contents, near_distance)
    near.search()
    exact_splits, near_splits = np.zeros((2, len(table)), np.uint8)
    exact_splits[good], near_splits[good] = contents.splits[content[good]], near.splits[content[good]]
    return Duplicates(
        records, content, contents.groups(), exact_splits, near_splits, near.counts, near.pairs(), near.complete,
        _groups(good, near.parts.parts()[content[good]]),
    )  # fmt: skip


def _groups(good: Ints, part: Ints) -> tuple[tuple[int, ...], ...]:
    """Return the positions ``good`` of each part that several have."""
    order = np.argsort(part, kind="stable")
    groups = np.split(good[order], np.flatnonzero(np.diff(part[order])) + 1)
    return tuple(sorted(tuple(group.tolist()) for group in groups if len(group) > 1))


@dataclasses.dataclass(frozen=True, eq=False)
class _Contents:
    """Distinct contents: any number of equal files counts as one in the near search.

    ``members[starts[c] : starts[c + 1]]`` are the positions of content ``c`` in the records; ``splits [C]`` holds a
    bit for each split with it, ``labels [C]`` its class, or -1 if it has several.
    """

    records: Records
    members: Ints
    starts: Ints
    splits: Bits
    labels: Ints

    @classmethod
    def of(cls, records: Records, content: Ints) -> "_Contents":
        good = np.flatnonzero(content >= 0)
        number = int(content.max(initial=-1)) + 1
        members = good[np.argsort(content[good], kind="stable")]
        starts = np.concatenate([[0], np.cumsum(np.bincount(content[good], minlength=number))])
        splits = np.zeros(number, np.uint8)
        np.bitwise_or.at(splits, content[good], np.uint8(1) << records.table["split"][good])
        label = records.table["label"].astype(np.int64)
        labels = label[members[starts[:-1]]]
        mixed = np.unique(content[good][label[good] != labels[content[good]]])
        labels[mixed] = -1
        return cls(records, members, starts, splits, labels)

    def groups(self) -> tuple[tuple[int, ...], ...]:
        """Return the positions of the files of each content that more than one file has."""
        several = np.flatnonzero(np.diff(self.starts) > 1)
        return tuple(sorted(tuple(self.of_content(int(each)).tolist()) for each in several))

    def of_content(self, number: int) -> Ints:
        return self.members[self.starts[number] : self.starts[number + 1]]


class _Near:
    """Search for contents that look alike, in blocks of bounded size."""

    def __init__(self, contents: _Contents, near_distance: int) -> None:
        self._contents = contents
        self._distance = near_distance
        first = contents.members[contents.starts[:-1]]
        table = contents.records.table
        self._nodes = np.flatnonzero(~table["flat"][first])
        self._hashes = table["phash"][first][self._nodes]
        self._rows = first[self._nodes]
        self.splits = np.zeros(len(first), np.uint8)
        self.counts: Kinds = dict.fromkeys(("across_splits", "across_classes", "inside"), 0)
        self.complete = True
        self.parts = Union(len(first))
        self._kept: dict[str, list[Pair]] = {kind: [] for kind in self.counts}

    def search(self) -> None:
        """Compare all candidates; each pair is compared once."""
        for quarter in range(_QUARTERS):
            for left, right in self._candidates(quarter):
                different = self._hashes[left] ^ self._hashes[right]
                near = np.bitwise_count(different) <= self._distance
                near &= ~_in_earlier_quarter(different, quarter)
                left, right = left[near], right[near]
                distances = np.bitwise_count(different[near])
                for start in range(0, len(left), _CORRELATED):
                    part = slice(start, start + _CORRELATED)
                    self._take(left[part], right[part], distances[part])

    def _candidates(self, quarter: int) -> Iterator[tuple[Ints, Ints]]:
        """Yield pairs whose hashes differ in at most one bit of a quarter."""
        # Sort by the quarter, so that the contents of one bucket are adjacent.
        keys = (self._hashes >> np.uint64(quarter * _QUARTER_BITS) & np.uint64(0xFFFF)).astype(np.int64)
        order = np.lexsort((self._hashes, keys))
        keys = keys[order]
        starts = np.searchsorted(keys, np.arange((1 << _QUARTER_BITS) + 1))
        places = np.arange(len(keys))
        for flip in _FLIPS:  # The bucket itself (0), then each bucket whose key differs in one bit.
            partner = keys ^ flip
            begin = places + 1 if flip == 0 else starts[partner]
            lengths = np.where(partner >= keys, starts[partner + 1] - begin, 0)
            self.complete = self.complete and bool(lengths.max(initial=0) <= _WINDOW)
            lengths = lengths.clip(0, _WINDOW)
            for part in _blocks(lengths):
                counts = lengths[part]
                offsets = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
                yield order[np.repeat(places[part], counts)], order[np.repeat(begin[part], counts) + offsets]

    def _take(self, left: Ints, right: Ints, distances: Bits) -> None:
        """Confirm pairs by their fingerprints, record their splits, and count and keep them by kind."""
        correlations = _correlation(*(self._fingerprints(side) for side in (left, right)))
        alike = correlations >= MIN_CORRELATION
        first, second = self._nodes[left[alike]], self._nodes[right[alike]]
        self.parts.join(first, second)
        np.bitwise_or.at(self.splits, first, self._contents.splits[second])
        np.bitwise_or.at(self.splits, second, self._contents.splits[first])
        splits = self._contents.splits[first] | self._contents.splits[second]
        across_splits = splits & (splits - 1) > 0  # More than one bit.
        labels = self._contents.labels[first], self._contents.labels[second]
        across_classes = (labels[0] != labels[1]) | (labels[0] < 0)
        kinds = {
            "across_splits": across_splits,
            "across_classes": across_classes,
            "inside": ~across_splits & ~across_classes,
        }
        for kind, mask in kinds.items():
            self.counts[kind] += int(mask.sum())
            self._kept[kind] += [
                Pair(*self._representatives(kind, int(first[i]), int(second[i])), int(distance), float(correlation))
                for i, distance, correlation in zip(
                    np.flatnonzero(mask)[: _LISTED - len(self._kept[kind])],
                    distances[alike][mask],
                    correlations[alike][mask],
                    strict=False,
                )
            ]

    def _fingerprints(self, nodes: Ints) -> npt.NDArray[np.float32]:
        return self._contents.records.table["fingerprint"][self._rows[nodes]].astype(np.float32)

    def _representatives(self, kind: str, first: int, second: int) -> tuple[int, int]:
        """Return one file of each content; for a pair across splits (classes), two files that differ in it."""
        ones, others = self._contents.of_content(first), self._contents.of_content(second)
        field = {"across_splits": "split", "across_classes": "label"}.get(kind)
        if field:
            values = self._contents.records.table[field]
            one = int(ones[0])
            different = others[values[others] != values[one]]
            if len(different):
                return one, int(different[0])
            return int(ones[values[ones] != values[others[0]]][0]), int(others[0])
        return int(ones[0]), int(others[0])

    def pairs(self) -> tuple[Pair, ...]:
        """Return the pairs that were kept, each once, the most similar first."""
        every = {pair for pairs in self._kept.values() for pair in pairs}
        return tuple(sorted(every, key=lambda pair: (-pair.correlation, pair.first, pair.second)))


def _in_earlier_quarter(different: npt.NDArray[np.uint64], quarter: int) -> npt.NDArray[np.bool_]:
    """Return which pairs, as the bits in which they differ, were already candidates of an earlier quarter."""
    earlier = ((different >> np.uint64(each * _QUARTER_BITS)) & np.uint64(0xFFFF) for each in range(quarter))
    none = np.zeros(len(different), bool)
    return functools.reduce(np.logical_or, (np.bitwise_count(bits) <= 1 for bits in earlier), none)


def _blocks(lengths: Ints) -> Iterator[slice]:
    """Cut places into runs of about ``_BLOCK`` pairs; runs without pairs are left out."""
    ends = np.cumsum(lengths)
    start = 0
    while start < len(lengths):
        before = int(ends[start - 1]) if start else 0
        stop = max(int(np.searchsorted(ends, before + _BLOCK, side="right")), start + 1)
        if ends[stop - 1] > before:
            yield slice(start, stop)
        start = stop


def _correlation(left: npt.NDArray[np.float32], right: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return Pearson's correlation of fingerprints ``[P, 256]``, row by row; none of them is flat."""
    assert left.shape[1] == FINGERPRINT_SIDE**2
    left -= left.mean(axis=1, keepdims=True)
    right -= right.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    return np.asarray(np.einsum("ij,ij->i", left, right) / norms, np.float32)
