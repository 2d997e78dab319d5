"""One line that says what Train, Validation and Test are, how many images of each class, and where they come from.

So that no default steps in without a word: a share of Train for an absent Validation, a folder ``val`` that no command
reads.  Does not own: the splits themselves (``manifest.py``).  Imports no TensorFlow.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.core.errors import RequestError, StorageDown
from trainer.core.litter import LeftOut, is_litter_folder
from trainer.core.placement import SPLIT_WORDS, SPLITS
from trainer.core.storage import files, listing
from trainer.data import class_folders, tfrecord
from trainer.data.layouts import drop, images, overlap, words
from trainer.data.layouts.split import Origin
from trainer.data.manifest import TEST, TRAIN, VALIDATION, Split

_MOST_NAMES = 5
_UNEVEN = 2.0  # Times as many images in the largest class as in the smallest, above which a job is told.
_MOST_REQUESTS = 20  # Names in a bucket that are asked whether they are folders.


def of_training(data_dir: str, train: Split, validation: Split) -> str:
    """Return the line for a job: of its two splits, and of Test, which training never reads."""
    pack = tfrecord.read_manifest(data_dir)
    texts = {split.name: _source(data_dir, split, pack) for split in (train, validation)}
    left_out = train.left_out
    if validation.held_out:
        texts = {TRAIN: f"the rest of {texts[TRAIN]}", VALIDATION: validation.held_out}
    elif validation.origin is None:
        left_out += validation.left_out
    lines = {split.name: f"{texts[split.name]}: {_counts(split.counts)}" for split in (train, validation)}
    if validation.self_blended is not None:
        lines[VALIDATION] += f"; forgeries: {validation.forgeries_made}"
    if train.origin is not None:
        return _of_origin(train.origin, {**lines, TEST: _test_of(train.origin)}, left_out)
    line = _line(data_dir, {**lines, TEST: _test(data_dir, pack)}, left_out, pack)
    return ". ".join(filter(None, [line, _dropped(train, validation)]))


def of_splits(data_dir: str, splits: Sequence[Split]) -> str:
    """Return the line for commands that read all splits; it says whether a source is in several of them."""
    pack = tfrecord.read_manifest(data_dir)
    lines = dict.fromkeys((TRAIN, VALIDATION, TEST), "none")
    left_out = LeftOut()
    for split in splits:
        lines[split.name] = f"{_source(data_dir, split, pack)}: {_counts(split.counts)}"
        left_out = split.left_out if split.origin else left_out + split.left_out
    shared = overlap.sentence(splits)
    if splits and splits[0].origin is not None:
        return _of_origin(splits[0].origin, lines, left_out, shared)
    return ". ".join(filter(None, [_line(data_dir, lines, left_out, pack), _dropped(*splits), shared]))


def of_one(split: Split) -> str:
    """Return the line for a command that reads one split."""
    source = "packed set" if split.records is not None else f"folder {files.join(split.root, split.name)!r}"
    if split.origin is not None:
        source = _text_of(split.origin, split.name)
    notes = split.origin.notes if split.origin else ()
    elsewhere = _elsewhere(split)
    text = f"{split.name}: {source}: {_counts(split.counts)}"
    return "; ".join(filter(None, [text, *notes, elsewhere, split.left_out.describe(), _dropped(split)]))


def _dropped(*splits: Split) -> str:
    return drop.words({split.name: split.dropped for split in splits})


def _elsewhere(split: Split) -> str:
    """Return how many images a drawn Test leaves to Train, if this is one."""
    others = split.origin.counts.get(TRAIN, {}) if split.origin else {}
    if words.split_of(split.name) != TEST or not others or " drawn by " not in _text_of(split.origin, split.name):
        return ""
    return f"{sum(others.values()):,} others are for {TRAIN}; --split=All takes all"


def _text_of(origin: Origin | None, name: str) -> str:
    assert origin is not None
    return origin.texts.get(name) or origin.texts.get(words.split_of(name)) or origin.texts.get(images.ALL, "data_dir")


def _test_of(origin: Origin) -> str:
    counts = origin.counts.get(TEST)
    return f"{origin.texts[TEST]}: {_counts(counts)}; training never reads it" if counts else "none"


def _of_origin(origin: Origin, lines: Mapping[str, str], left_out: LeftOut, *more: str) -> str:
    parts = [f"{name}: {lines[name]}" for name in SPLITS if name in lines]
    return ". ".join(filter(None, [*parts, *origin.notes, *more, left_out.describe()]))


def are_uneven(split: Split) -> bool:
    """Return whether the classes differ by more than 2 to 1."""
    return _ratio(split) > _UNEVEN


def of_uneven_classes(split: Split, remedies: Sequence[str]) -> str:
    """Return the line that warns of uneven classes, and names the flags against them."""
    return (
        f"{split.name}: the classes differ by {_ratio(split):.3g} to 1 ({_counts(split.counts)}), so a detector can "
        f"answer the largest class too often; give {' or '.join(remedies)}"
    )


def _ratio(split: Split) -> float:
    counts = split.counts.values()
    return max(counts) / max(min(counts), 1)


def _line(data_dir: str, lines: Mapping[str, str], left_out: LeftOut, pack: Any) -> str:
    alike, others = _unused(data_dir) if pack is None else ({}, [])
    parts = []
    for name, text in lines.items():
        unused = [f"folder {one!r} is not used: rename it {name}" for one in alike.get(name, ())]
        parts.append("; ".join([f"{name}: {text}", *unused]))
    if others:
        shown = ", ".join(map(repr, others[:_MOST_NAMES])) + (", ..." if others[_MOST_NAMES:] else "")
        parts.append(f"other folders are not used: {shown}")
    return ". ".join([*parts, *filter(None, [left_out.describe()])])


def _source(data_dir: str, split: Split, pack: Any) -> str:
    if split.origin is not None:
        return _text_of(split.origin, split.name)
    return _folder(data_dir, split.name) if pack is None else "packed set"


def _folder(data_dir: str, split: str) -> str:
    return f"folder {files.join(data_dir, split)!r}"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items()) or "no images"


def _test(data_dir: str, pack: Any) -> str:
    """Return the source and the counts of Test; whatever is wrong with it, training goes on without it."""
    if pack is not None:
        counts = pack["splits"].get(TEST, {}).get("counts")
        return f"packed set: {_counts(counts)}" if isinstance(counts, dict) else "none"
    try:
        listed = class_folders.read(files.join(data_dir, TEST))
    except (RequestError, StorageDown) as error:
        return f"not counted ({error})"
    if listed is None:
        return "none"
    counts = {name: len(names) for name, names in sorted(listed.classes.items())}
    loose = f", {len(listed.left_out.loose):,} outside the class folders" if listed.left_out.loose else ""
    return f"{_folder(data_dir, TEST)}: {_counts(counts)}{loose}; training never reads it"


def _unused(data_dir: str) -> tuple[dict[str, list[str]], list[str]]:
    """Return the folders beside the splits that no command reads: by the split that they look like, and the others."""
    try:
        names = _folders(data_dir)
        # A file system that ignores case finds "validation" under the name Validation.
        used = {name for name in names if name.capitalize() in SPLIT_WORDS
                and files.is_dir(files.join(data_dir, name.capitalize()))
                and (name in SPLIT_WORDS or name.capitalize() not in names)}  # fmt: skip
    except (RequestError, StorageDown):
        return {}, []
    rest = [name for name in names if name not in used]
    alike = {split: [name for name in rest if name.lower() in words] for split, words in SPLIT_WORDS.items()}
    return alike, [name for name in rest if not any(name in members for members in alike.values())]


def _folders(data_dir: str) -> list[str]:
    """Return the names of the folders in data_dir that are neither hidden nor litter."""
    if files.is_remote(data_dir):
        names = files.list_names(data_dir)[:_MOST_REQUESTS]
        names = [name for name in names if files.is_dir(files.join(data_dir, name))]
    else:
        names = [entry.name for entry in listing.entries(data_dir) if entry.kind is listing.Kind.FOLDER]
    return [name for name in names if not listing.is_hidden(name) and not is_litter_folder(name)]
