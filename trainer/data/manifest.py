"""The images of each split: files and labels, in an order that is the same in every process.

Owns: labels, order, the held-out share of Train.  Does not own: which files there are (``class_folders.py``), reading
images (``readers.py``).
Imports no TensorFlow.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core.errors import RequestError
from trainer.core.litter import NOTHING, LeftOut
from trainer.core.placement import TEST, TRAIN, VALIDATION
from trainer.core.storage import files
from trainer.data import class_folders, positive_class, tfrecord

__all__ = ["TEST", "TRAIN", "VALIDATION", "SelfBlended", "Split", "has_split", "hold_out", "read_all_splits",
           "read_split", "read_train_and_validation"]  # fmt: skip

_EXAMPLES = 8
_FAKE = "Fake"  # The class of forgeries, where no folder and no setting names it.


@dataclasses.dataclass(frozen=True, eq=False)
class SelfBlended:
    """Which images of a split count as forgeries of themselves (``self_blending/validation.py``).

    ``examples[i]`` is the number that, with the seed, determines the forgery of image i; -1: it is no forgery.
    """

    seed: int
    examples: npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The images of one split, sorted by class and then by file name.

    ``names[i]`` is relative to ``root`` (such as ``Train/Fake/a.jpg``); ``labels[i]`` indexes ``class_names``.
    In a packed set ``records`` locates their bytes; the names are those of the files that were packed.  ``left_out``
    names what else the listing saw, relative to ``root``.  ``self_blended`` images have the label of forgeries.
    """

    name: str
    root: str
    class_names: tuple[str, ...]
    names: Sequence[str]
    labels: npt.NDArray[np.int32]
    records: tfrecord.Records | None = None
    left_out: LeftOut = NOTHING
    self_blended: SelfBlended | None = None

    def __len__(self) -> int:
        return len(self.names)

    def path(self, index: int) -> str:
        """Return the full path of image ``index``; in a packed set no file has it."""
        return files.join(self.root, self.names[index])

    @property
    def counts(self) -> dict[str, int]:
        """Images of each class."""
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        return dict(zip(self.class_names, counts.tolist(), strict=True))

    @property
    def forgeries_made(self) -> str:
        """What is to be said of images that count as forgeries of themselves; empty if there are none."""
        count = int((self.self_blended.examples >= 0).sum()) if self.self_blended else 0
        return f"{count:,} made by blending images with themselves, as there are no others" if count else ""

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 over names and labels: equal fingerprints mean the same images in the same order."""
        digest = hashlib.sha256()
        for name in (*self.class_names, *self.names):
            digest.update(name.encode("utf-8", "surrogateescape") + b"\0")
        digest.update(self.labels.astype("<i4").tobytes())
        return digest.hexdigest()

    def select(self, indices: Sequence[int] | npt.NDArray[np.int64], name: str) -> "Split":
        """Return the split of only these images, under another name."""
        numbers = np.asarray(indices, np.int64)
        records = self.records.select(numbers) if self.records else None
        names = tuple(self.names[i] for i in numbers.tolist())
        blended = self.self_blended and SelfBlended(self.self_blended.seed, self.self_blended.examples[numbers])
        return Split(name, self.root, self.class_names, names, self.labels[numbers], records, self.left_out, blended)


def read_split(data_dir: str, split: str, class_names: Sequence[str] | None = None) -> Split:
    """List ``data_dir/split/<class>/**``, hidden files and folders left out, or read a packed set's index.

    Args:
        data_dir: folder, local or remote.
        split: folder name below it, such as ``Train``.
        class_names: classes to expect, in label order; None takes the folders' names in sorted order.

    Raises:
        RequestError: if the folder is missing, has fewer than two classes, a class that is not expected, or
            (with ``class_names=None``) a class without files.
    """
    return _read_split(data_dir, tfrecord.read_manifest(data_dir), split, class_names)


def _read_split(
    data_dir: str, pack: dict[str, Any] | None, split: str, class_names: Sequence[str] | None,
    keep_litter: bool = False, forged: str | None = None,
) -> Split:  # fmt: skip
    """List a split as ``read_split`` does.

    Args:
        data_dir: as ``read_split``.
        pack: the folder's ``pack.json``; None if it has none.
        split: as ``read_split``.
        class_names: as ``read_split``.
        keep_litter: whether litter counts as images.
        forged: with ``class_names=None`` the setting ``positive_class``, whose class may lack images and a folder; None
            if no class may.
    """
    if pack is not None:
        return _read_packed_split(data_dir, split, class_names, pack, keep_litter, forged)
    root = files.join(data_dir, split)
    listing = class_folders.read(root, keep_litter=keep_litter)
    if listing is None:
        raise RequestError(
            f"--data_dir: expected {data_dir!r} to hold {split}/<class>/* images, received no folder {root!r}; "
            f"check the path{_folders_there(data_dir)}"
        )
    folders = sorted(listing.classes)
    classes, may_lack = _classes(folders, class_names, forged)
    _check_classes(root, folders, classes, must_fill=class_names is None and not may_lack)
    # Sorted by class and then by name, so that every process and every file system gives the same order.
    names: list[str] = []
    labels: list[int] = []
    for label, class_name in enumerate(classes):
        members = sorted(listing.classes.get(class_name, ()))
        if not members and class_names is None and class_name != may_lack:
            raise RequestError(
                f"expected images in every class, received an empty class {files.join(root, class_name)!r}; "
                "add images or remove the folder"
            )
        names += [f"{split}/{class_name}/{name}" for name in members]
        labels += [label] * len(members)
    left_out = listing.left_out.below(split)
    return Split(split, data_dir, classes, tuple(names), np.asarray(labels, np.int32), left_out=left_out)


def _folders_there(data_dir: str) -> str:
    names = [name for name in files.list_names(data_dir) if not name.startswith(".")]
    return f" (it holds {', '.join(names[:_EXAMPLES])}{', ...' if names[_EXAMPLES:] else ''})" if names else ""


def _classes(
    folders: Sequence[str], class_names: Sequence[str] | None, forged: str | None
) -> tuple[tuple[str, ...], str]:
    """Return the classes of a split's folders, and the one that may lack images (empty: none); see ``_read_split``.

    Raises:
        RequestError: if forgeries cannot be made for these classes.
    """
    if class_names is not None or forged is None:
        return tuple(folders if class_names is None else class_names), ""
    classes = tuple(folders)
    if len(folders) == 1 and folders[0] != forged and not positive_class.says_fake(folders[0]):
        classes = tuple(sorted([*folders, forged or _FAKE]))
    if len(classes) != 2:
        raise RequestError(
            f"--augment=sbi: expected two classes, or one of real images from which it makes the other, received "
            f"{len(classes)} ({', '.join(classes) or 'none'}); put real images in one folder and forgeries in another"
        )
    return classes, classes[positive_class.positive_class_index(classes, forged)]


def _read_packed_split(
    data_dir: str, split: str, class_names: Sequence[str] | None, pack: dict[str, Any], keep_litter: bool,
    forged: str | None,
) -> Split:  # fmt: skip
    if split not in pack["splits"]:
        raise RequestError(
            f"expected the packed set {data_dir!r} to hold {split}, received {', '.join(pack['splits'])}; pack again "
            "from a folder that has it"
        )
    packed = tfrecord.read_packed(data_dir, split, pack)
    if not keep_litter:
        packed, left_out = _without_litter(packed)
    else:
        left_out = LeftOut()
    classes, may_lack = _classes(packed.class_names, class_names, forged)
    present = [name for name, count in zip(packed.class_names, np.bincount(packed.labels), strict=False) if count]
    _check_classes(files.join(data_dir, split), present, classes, must_fill=class_names is None and not may_lack)
    if classes != packed.class_names:  # An export may have them in another order: renumber and sort by class again.
        new_label = np.array([classes.index(name) if name in classes else -1 for name in packed.class_names], np.int32)
        order = np.argsort(new_label[packed.labels], kind="stable")
        whole = Split(split, data_dir, classes, packed.names, new_label[packed.labels], packed.records, left_out)
        return whole.select(order, split)
    return Split(split, data_dir, classes, packed.names, packed.labels, packed.records, left_out)


def _without_litter(packed: tfrecord.PackedSplit) -> tuple[tfrecord.PackedSplit, LeftOut]:
    """Leave out the litter that an older version packed."""
    litter = class_folders.litter_among(packed.names)
    if not litter:
        return packed, LeftOut()
    kept = np.setdiff1d(np.arange(len(packed.names)), litter)
    names = tfrecord.Names.of([packed.names[i] for i in kept.tolist()])
    without = dataclasses.replace(packed, names=names, labels=packed.labels[kept], records=packed.records.select(kept))
    return without, LeftOut(litter=tuple(packed.names[i] for i in litter))


def has_split(data_dir: str, split: str) -> bool:
    """Return whether a folder or a packed set holds a split."""
    return _has_split(data_dir, tfrecord.read_manifest(data_dir), split)


def _has_split(data_dir: str, pack: dict[str, Any] | None, split: str) -> bool:
    return split in pack["splits"] if pack is not None else files.is_dir(files.join(data_dir, split))


def _check_classes(root: str, folders: Sequence[str], classes: Sequence[str], *, must_fill: bool) -> None:
    unknown = sorted(set(folders) - set(classes))
    if unknown:
        raise RequestError(
            f"expected the classes {', '.join(classes)} in {root!r}, received also {', '.join(unknown)}; "
            "remove or rename them"
        )
    if must_fill and len(folders) < 2:
        raise RequestError(
            f"expected at least two class folders in {root!r}, received {len(folders)} "
            f"({', '.join(folders) or 'none'}); make one folder for each class, such as Fake and Real"
        )


def read_all_splits(data_dir: str) -> list[Split]:
    """Return Train, and Validation and Test if they exist, with the classes of Train.

    Raises:
        RequestError: as ``read_split``.
    """
    pack = tfrecord.read_manifest(data_dir)
    train = _read_split(data_dir, pack, TRAIN, None)
    others = [name for name in (VALIDATION, TEST) if _has_split(data_dir, pack, name)]
    return [train, *(_read_split(data_dir, pack, name, train.class_names) for name in others)]


def read_train_and_validation(
    data_dir: str, validation_fraction: float, seed: int, *, keep_litter: bool = False, self_blended: str | None = None
) -> tuple[Split, Split]:
    """Return Train and Validation; without a Validation folder a stratified share of Train is held out for it.

    Test is never read.

    Args:
        data_dir: folder, local or remote.
        validation_fraction: the share.
        seed: of the job.
        keep_litter: whether files of other programs count as images, as in older versions.
        self_blended: the setting ``positive_class`` if training makes forgeries itself, else None
            (``Config.self_blended``).  There may be none then; in a Validation without any, half of the images become
            forgeries of themselves.

    Raises:
        RequestError: as ``read_split``, or if a class is too small to be split.
    """
    pack = tfrecord.read_manifest(data_dir)
    train = _read_split(data_dir, pack, TRAIN, None, keep_litter, self_blended)
    if self_blended is None:
        return _with_validation(data_dir, pack, train, validation_fraction, seed, keep_litter, made="")
    positive = positive_class.positive_class_index(train.class_names, self_blended)
    made = train.class_names[positive]
    train, validation = _with_validation(data_dir, pack, train, validation_fraction, seed, keep_litter, made)
    return train, validation if validation.counts[made] else self_blend_half(validation, positive, seed)


def self_blend_half(split: Split, positive: int, seed: int) -> Split:
    """Return a split in which half of the images, chosen by seed, are forgeries of themselves.

    Raises:
        RequestError: if it has fewer than two images.
    """
    if len(split) < 2:
        raise RequestError(
            f"--augment=sbi: expected at least two images in {split.name}, one of which becomes a forgery, received "
            f"{len(split)}; add images"
        )
    chosen = np.sort(np.random.default_rng([seed, len(split)]).permutation(len(split))[: len(split) // 2])
    labels, examples = split.labels.copy(), np.full(len(split), -1, np.int64)
    labels[chosen], examples[chosen] = positive, chosen
    return dataclasses.replace(split, labels=labels, self_blended=SelfBlended(seed, examples))


def _with_validation(
    data_dir: str, pack: dict[str, Any] | None, train: Split, validation_fraction: float, seed: int,
    keep_litter: bool, made: str,
) -> tuple[Split, Split]:  # fmt: skip
    """Return Train and Validation; of the class ``made`` there may be no images."""
    if not _has_split(data_dir, pack, VALIDATION):
        return hold_out(train, validation_fraction, seed, made)
    validation = _read_split(data_dir, pack, VALIDATION, train.class_names, keep_litter)
    empty = [name for name, count in validation.counts.items() if count == 0 and name != made]
    if empty:
        raise RequestError(
            f"expected images of every class in {files.join(data_dir, VALIDATION)!r}, received none of "
            f"{', '.join(empty)}; add some, or remove the folder to hold out a share of Train"
        )
    return train, validation


def hold_out(train: Split, fraction: float, seed: int, made: str = "") -> tuple[Split, Split]:
    """Split Train in two: of every class, ``round(fraction * n)`` images (at least one), chosen by seed, are held out.

    Of the class ``made`` there may be no images.

    Raises:
        RequestError: if a class has fewer than two images.
    """
    held_out: list[int] = []
    for label, class_name in enumerate(train.class_names):
        members = np.flatnonzero(train.labels == label)
        if not len(members) and class_name == made:
            continue
        if len(members) < 2:
            raise RequestError(
                f"expected at least two images of class {class_name!r} to hold one out for validation, received "
                f"{len(members)}; add images or a {VALIDATION} folder"
            )
        count = min(max(round(fraction * len(members)), 1), len(members) - 1)
        sample = np.random.default_rng([seed, label]).permutation(members)[:count]
        held_out += sorted(sample.tolist())
    kept = np.setdiff1d(np.arange(len(train)), held_out)
    return train.select(kept, TRAIN), train.select(held_out, VALIDATION)
