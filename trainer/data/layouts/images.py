"""All images of a data_dir in one table, as a layout reads it, and the splits that follow from it.

Does not own: where the rows come from (``named/``).  Imports no TensorFlow.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainer.core.config import LayoutConfig
from trainer.core.errors import RequestError
from trainer.core.litter import NOTHING, LeftOut
from trainer.core.placement import SPLITS, TEST, TRAIN
from trainer.data.layouts import draw, sources, words
from trainer.data.layouts.split import SOURCE, Origin, Split

ALL = "All"  # Of --split: every image, whatever its split.
_EXAMPLES = 8


@dataclasses.dataclass(frozen=True, eq=False)
class Images:
    """The images of all splits, one row each, in any order.

    Attributes:
        root: folder that names are relative to.
        what: where they were found, such as ``list 'faces.csv'``.
        names: relative to ``root``, absolute or remote.
        classes: name of each image's class.
        splits: of each image; empty where nothing says it.
        columns: as ``Split.columns``.
        source_rule: as ``Split.source_rule``.
        texts: by split, where its images come from, if ``what`` does not say it.
        notes: what was taken as what, and what was left out; a sentence each.
        left_out: what the listing of a folder left out.
        mount: as ``Split.mount``.
    """

    root: str
    what: str
    names: Sequence[str]
    classes: Sequence[str]
    splits: Sequence[str]
    columns: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    source_rule: str = ""
    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    left_out: LeftOut = NOTHING
    mount: str = ""

    def select(self, keep: Sequence[int]) -> "Images":
        """Return only these rows."""
        return dataclasses.replace(
            self,
            names=[self.names[i] for i in keep],
            classes=[self.classes[i] for i in keep],
            splits=[self.splits[i] for i in keep],
            columns={name: [values[i] for i in keep] for name, values in self.columns.items()},
        )


def with_splits(images: Images, settings: LayoutConfig) -> Images:
    """Return the images with a split each: Test is drawn if nothing says the split of any image.

    Raises:
        RequestError: if a class has too few images.
    """
    said = Counter(images.splits)
    if set(said) - {""}:
        return _without_unsaid(images, said[""])
    class_names = sorted(set(images.classes))
    number = {name: label for label, name in enumerate(class_names)}
    labels = np.fromiter((number[name] for name in images.classes), np.int32, len(images.classes))
    least = int(0.0 < settings.test_fraction < 1.0)
    _check_sizes(images, labels, class_names, least)
    order = np.array(sorted(range(len(labels)), key=lambda i: (labels[i], images.names[i])), np.int64)
    drawn, how = _draw(images, labels, order, class_names, settings, least)
    splits = np.full(len(labels), TRAIN, object)
    splits[order[drawn.positions]] = TEST
    text = f"{settings.test_fraction:.4g} of {images.what} drawn by --split_seed={settings.split_seed}{how}"
    texts = {TRAIN: images.what, TEST: text} if settings.test_fraction else {TRAIN: images.what}
    notes = (f"{TRAIN} and {TEST}: {drawn.note}",) if drawn.note else ()
    return dataclasses.replace(images, splits=splits.tolist(), texts=texts, notes=(*images.notes, *notes))


def _draw(
    images: Images, labels: npt.NDArray[np.int32], order: draw.Ints, class_names: Sequence[str],
    settings: LayoutConfig, least: int,
) -> tuple[draw.Draw, str]:  # fmt: skip
    """Return the positions in ``order`` that are Test, and how they were drawn, in words."""
    fraction, seed = settings.test_fraction, settings.split_seed
    if SOURCE in images.columns and settings.split_by == SOURCE:
        numbers = sources.by_column([images.columns[SOURCE][i] for i in order.tolist()], "").numbers
        assert numbers is not None
        drawn = draw.by_source(labels[order], numbers, fraction, seed, class_names, least)
        return drawn, f", whole sources ({images.source_rule or sources.IN_COLUMN})"
    return draw.by_image(labels[order], fraction, seed, least), ""


def _check_sizes(images: Images, labels: npt.NDArray[np.int32], class_names: Sequence[str], least: int) -> None:
    small = [name for name, count in zip(class_names, np.bincount(labels).tolist(), strict=False) if count < 2 * least]
    if small:
        raise RequestError(
            f"--test_fraction: expected two or more images of every class of which one is for {TEST}, received one of "
            f"{', '.join(small)} in {images.what}; add images, or give --test_fraction=0"
        )


def _without_unsaid(images: Images, unsaid: int) -> Images:
    if not unsaid:
        return images
    kept = images.select([i for i, split in enumerate(images.splits) if split])
    return dataclasses.replace(kept, notes=(*kept.notes, f"{unsaid:,} images without a split are not used"))


def split_of(images: Images, name: str, class_names: Sequence[str]) -> Split:
    """Return the images of one split, sorted by class and name; with the name ``All`` those of every split."""
    members: dict[str, list[int]] = {one: [] for one in class_names}
    for position, (one, of_split) in enumerate(zip(images.classes, images.splits, strict=True)):
        if name in (of_split, ALL) and one in members:
            members[one].append(position)
    order: list[int] = []
    labels: list[int] = []
    for label, one in enumerate(class_names):
        order += sorted(members[one], key=images.names.__getitem__)
        labels += [label] * len(members[one])
    chosen = images.select(order)
    return Split(
        name, images.root, tuple(class_names), tuple(chosen.names), np.asarray(labels, np.int32),
        left_out=images.left_out, columns=chosen.columns,
        source_rule=images.source_rule if SOURCE in images.columns else sources.NO_SOURCES, origin=origin(images),
        mount=images.mount,
    )  # fmt: skip


def origin(images: Images) -> Origin:
    """Return where the images were found, in words."""
    counts = Counter(zip(images.splits, images.classes, strict=True))
    there = [name for name in (*SPLITS, ALL) if any(key[0] == name for key in counts)]
    by_split = {name: {key[1]: counts[key] for key in sorted(counts) if key[0] == name} for name in there}
    texts = {name: images.texts.get(name, images.what) for name in (*there, ALL)}
    return Origin(texts, by_split, images.notes)


def classes_of(images: Images, name: str) -> list[str]:
    """Return the sorted names of the classes in a split."""
    pairs = zip(images.classes, images.splits, strict=True)
    return sorted({one for one, of_split in pairs if name in (of_split, ALL)})


def renamed(images: Images, class_names: Sequence[str]) -> Images:
    """Return the images with other names of their classes where they mean an expected one; a note says so."""
    meant = {old: new for old, new in words.renamed(sorted(set(images.classes)), class_names).items() if old != new}
    if not meant:
        return images
    note = f"classes taken as those of the model: {', '.join(f'{old} as {new}' for old, new in meant.items())}"
    classes = [meant.get(one, one) for one in images.classes]
    return dataclasses.replace(images, classes=classes, notes=(*images.notes, note))
