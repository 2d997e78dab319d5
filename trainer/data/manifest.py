"""The images of each split: files and labels, in an order that is the same in every process.

Owns: labels, order, the held-out share of Train.  Does not own: which files there are (``class_folders.py``), reading
images (``readers.py``).
Imports no TensorFlow.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.core.config import LayoutConfig
from trainer.core.errors import RequestError
from trainer.core.litter import LeftOut
from trainer.core.placement import SPLITS, TEST, TRAIN, VALIDATION
from trainer.core.storage import files
from trainer.data import class_folders, positive_class, tfrecord
from trainer.data.layouts import draw, drop, images, resolve, sources, words
from trainer.data.layouts.images import ALL, Images
from trainer.data.layouts.split import SOURCE, Origin, SelfBlended, Split

__all__ = ["TEST", "TRAIN", "VALIDATION", "SelfBlended", "Split", "has_split", "hold_out", "read_all_splits",
           "read_split", "read_train_and_validation"]  # fmt: skip

_EXAMPLES = 8
_FAKE = "Fake"  # The class of forgeries, where no folder and no setting names it.


_DEFAULT = LayoutConfig()


def read_split(
    data_dir: str, split: str, class_names: Sequence[str] | None = None, layout: LayoutConfig = _DEFAULT
) -> Split:
    """List ``data_dir/split/<class>/**``, hidden files and folders left out, or read a packed set's index or a list.

    Args:
        data_dir: folder, local or remote, or a list file.
        split: folder name below it, such as ``Train``; where data_dir is laid out otherwise, Train, Validation or Test
            under any usual name, or All.
        class_names: classes to expect, in label order; None takes the folders' names in sorted order.
        layout: how data_dir is laid out.

    Raises:
        RequestError: if the folder is missing, has fewer than two classes, a class that is not expected, or
            (with ``class_names=None``) a class without files.
    """
    pack = tfrecord.read_manifest(data_dir)
    name = ALL if split.lower() == ALL.lower() else words.split_of(split)
    read = resolve.resolve(data_dir, layout) if pack is None else None
    if read is None or not (name or class_names is None):
        return _without_dropped(data_dir, pack, [_read_split(data_dir, pack, split, class_names)], layout)[0]
    table = drop.from_images(read(()), layout) if name == ALL else _table(read, layout, name)
    if name != ALL and name not in table.splits and files.is_dir(files.join(data_dir, split)):
        return _read_split(data_dir, pack, split, class_names)
    return dataclasses.replace(_of_table(data_dir, table, name, class_names), name=split)


def _table(read: resolve.Read, layout: LayoutConfig, *wanted: str) -> Images:
    """Return the images of the named splits, of all if none is named; those of ``--drop`` are left out."""
    return drop.from_images(images.with_splits(read(() if layout.drop else wanted), layout), layout)


def _without_dropped(
    data_dir: str, pack: dict[str, Any] | None, splits: list[Split], layout: LayoutConfig
) -> list[Split]:
    """Return splits of ``{Train,Validation,Test}/<class>`` or a packed set without the images of ``--drop``."""
    if not layout.drop:
        return splits
    unread = [name for name in SPLITS if name not in [split.name for split in splits]]

    def others() -> list[str]:
        there = [name for name in unread if _has_split(data_dir, pack, name)]
        already = pack.get("dropped", []) if pack is not None else []
        return [*already, *(image for name in there for image in _names(data_dir, pack, name))]

    return drop.from_splits(splits, layout, others)


def _names(data_dir: str, pack: dict[str, Any] | None, split: str) -> Sequence[str]:
    """Return the names of a split's images, whatever their classes."""
    if pack is not None:
        return tfrecord.read_packed(data_dir, split, pack).names
    listing = class_folders.read(files.join(data_dir, split))
    classes = listing.classes.items() if listing else ()
    return [f"{split}/{folder}/{name}" for folder, members in classes for name in members]


def _of_table(
    data_dir: str, table: Images, split: str, class_names: Sequence[str] | None, forged: str | None = None
) -> Split:
    """Return a split of a table; the arguments are those of ``_read_split``."""
    if class_names is not None:
        table = images.renamed(table, class_names)
    there = images.classes_of(table, split)
    if not there:
        raise RequestError(
            f"--data_dir: expected images of {split} in {table.what}, received "
            f"{', '.join(sorted(set(table.splits))) or 'none'}; add some, or name another split"
        )
    classes, may_lack = _classes(there, class_names, forged)
    _check_classes(table.what, there, classes, must_fill=class_names is None and not may_lack)
    return images.split_of(table, split, classes)


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
            f"check the path{_folders_there(data_dir)}{resolve.hint(data_dir)}"
        )
    meant = words.renamed(listing.classes, class_names) if class_names is not None else {}
    listed = {meant.get(name, name): name for name in listing.classes}
    folders = sorted(listed)
    classes, may_lack = _classes(folders, class_names, forged)
    _check_classes(root, folders, classes, must_fill=class_names is None and not may_lack)
    # Sorted by class and then by name, so that every process and every file system gives the same order.
    names: list[str] = []
    labels: list[int] = []
    for label, class_name in enumerate(classes):
        folder = listed.get(class_name, class_name)
        members = sorted(listing.classes.get(folder, ()))
        if not members and class_names is None and class_name != may_lack:
            raise RequestError(
                f"expected images in every class, received an empty class {files.join(root, class_name)!r}; "
                "add images or remove the folder"
            )
        names += [f"{split}/{folder}/{name}" for name in members]
        labels += [label] * len(members)
    result = Split(split, data_dir, classes, tuple(names), np.asarray(labels, np.int32),
                   left_out=listing.left_out.below(split))  # fmt: skip
    return _with_note(result, root, {old: new for old, new in meant.items() if old != new})


def _with_note(split: Split, root: str, meant: dict[str, str]) -> Split:
    """Return the split with a note on the folders that were taken as classes of other names."""
    if not meant:
        return split
    note = f"classes taken as those of the model: {', '.join(f'{old} as {new}' for old, new in meant.items())}"
    return dataclasses.replace(
        split, origin=Origin({split.name: f"folder {root!r}"}, {split.name: split.counts}, (note,))
    )


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
        labels = new_label[packed.labels]
        whole = Split(split, data_dir, classes, packed.names, labels, packed.records, left_out, columns=packed.columns)
        return whole.select(order, split)
    return Split(split, data_dir, classes, packed.names, packed.labels, packed.records, left_out,
                 columns=packed.columns)  # fmt: skip


def _without_litter(packed: tfrecord.PackedSplit) -> tuple[tfrecord.PackedSplit, LeftOut]:
    """Leave out the litter that an older version packed."""
    litter = class_folders.litter_among(packed.names)
    if not litter:
        return packed, LeftOut()
    kept = np.setdiff1d(np.arange(len(packed.names)), litter)
    names = tfrecord.Names.of([packed.names[i] for i in kept.tolist()])
    columns = {key: [values[i] for i in kept.tolist()] for key, values in packed.columns.items()}
    without = dataclasses.replace(packed, names=names, labels=packed.labels[kept], records=packed.records.select(kept),
                                  columns=columns)  # fmt: skip
    return without, LeftOut(litter=tuple(packed.names[i] for i in litter))


def has_split(data_dir: str, split: str, layout: LayoutConfig = _DEFAULT) -> bool:
    """Return whether a data_dir of any kind holds a split."""
    pack = tfrecord.read_manifest(data_dir)
    read = resolve.resolve(data_dir, layout) if pack is None else None
    if read is None:
        return _has_split(data_dir, pack, split)
    return split in _table(read, layout, split).splits


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


def read_all_splits(data_dir: str, layout: LayoutConfig = _DEFAULT) -> list[Split]:
    """Return Train, and Validation and Test if they exist, with the classes of Train.

    Raises:
        RequestError: as ``read_split``.
    """
    pack = tfrecord.read_manifest(data_dir)
    read = resolve.resolve(data_dir, layout) if pack is None else None
    if read is not None:
        table = _table(read, layout)
        train = _of_table(data_dir, table, TRAIN, None)
        others = [name for name in SPLITS[1:] if name in table.splits]
        return [train, *(_of_table(data_dir, table, name, train.class_names) for name in others)]
    train = _read_split(data_dir, pack, TRAIN, None)
    others = [name for name in (VALIDATION, TEST) if _has_split(data_dir, pack, name)]
    splits = [train, *(_read_split(data_dir, pack, name, train.class_names) for name in others)]
    return _without_dropped(data_dir, pack, splits, layout)


def read_train_and_validation(
    data_dir: str, validation_fraction: float, seed: int, *, keep_litter: bool = False, self_blended: str | None = None,
    layout: LayoutConfig = _DEFAULT,
) -> tuple[Split, Split]:  # fmt: skip
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
        layout: how data_dir is laid out, and the unit of a share that is held out.

    Raises:
        RequestError: as ``read_split``, or if a class is too small to be split.
    """
    train, validation = _train_and_validation(data_dir, keep_litter, self_blended, layout)
    made = ""
    if self_blended is not None:
        positive = positive_class.positive_class_index(train.class_names, self_blended)
        made = train.class_names[positive]
    if validation is None:
        train, validation = hold_out(train, validation_fraction, seed, made, layout.split_by)
    else:
        _check_validation(data_dir, validation, made)
    if not made or validation.counts[made]:
        return train, validation
    return train, self_blend_half(validation, positive, seed)


def _train_and_validation(
    data_dir: str, keep_litter: bool, forged: str | None, layout: LayoutConfig
) -> tuple[Split, Split | None]:
    """Return Train, and Validation if data_dir has one; the arguments are those of ``_read_split``."""
    pack = tfrecord.read_manifest(data_dir)
    read = resolve.resolve(data_dir, layout) if pack is None else None
    if read is not None:
        table = _table(read, layout)
        train = _of_table(data_dir, table, TRAIN, None, forged)
        has_validation = VALIDATION in table.splits
        return train, _of_table(data_dir, table, VALIDATION, train.class_names) if has_validation else None
    train = _read_split(data_dir, pack, TRAIN, None, keep_litter, forged)
    splits = [train]
    if _has_split(data_dir, pack, VALIDATION):
        splits.append(_read_split(data_dir, pack, VALIDATION, train.class_names, keep_litter))
    train, *rest = _without_dropped(data_dir, pack, splits, layout)
    return train, rest[0] if rest else None


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


def _check_validation(data_dir: str, validation: Split, made: str) -> None:
    """Refuse a Validation without images of a class; of the class ``made`` there may be none."""
    empty = [name for name, count in validation.counts.items() if count == 0 and name != made]
    if empty:
        where = validation.origin.texts[VALIDATION] if validation.origin else repr(files.join(data_dir, VALIDATION))
        raise RequestError(
            f"expected images of every class in {where}, received none of "
            f"{', '.join(empty)}; add some, or remove the folder to hold out a share of Train"
        )


def hold_out(train: Split, fraction: float, seed: int, made: str = "", by: str = SOURCE) -> tuple[Split, Split]:
    """Split Train in two: of every class about ``fraction`` of the images, chosen by seed, are held out.

    Args:
        train: the split.
        fraction: the share, of every class at least one image.
        seed: of the job.
        made: class of which there may be no images.
        by: ``source``: whole sources where they are known, so that no source is in both.  ``image``: each by itself.

    Raises:
        RequestError: if a class has fewer than two images.
    """
    for class_name, count in train.counts.items():
        if count < 2 and not (count == 0 and class_name == made):
            raise RequestError(
                f"expected at least two images of class {class_name!r} to hold one out for validation, received "
                f"{count}; add images or a {VALIDATION} folder"
            )
    how = f"{fraction:.4g} of {TRAIN} held out by seed {seed}"
    known = sources.of_split(train) if by == SOURCE else sources.Sources(None, "")
    if known.numbers is None:
        drawn = draw.by_image(train.labels, fraction, seed)
    else:
        drawn = draw.by_source(train.labels, known.numbers, fraction, seed, train.class_names)
        how += f", whole sources ({'; '.join(filter(None, [known.rule, drawn.note]))})"
    kept = np.setdiff1d(np.arange(len(train)), drawn.positions)
    return train.select(kept, TRAIN), train.select(drawn.positions, VALIDATION, held_out=how)
