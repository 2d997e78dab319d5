"""How many sources (videos, identities) each class of each split has, and which have the most images."""

import collections
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.core.storage import files
from trainer.data.layouts import sources
from trainer.data.layouts.split import SOURCE, Split

_LARGEST = 10


def of_splits(splits: Sequence[Split]) -> dict[str, dict[str, Any]] | None:
    """Return ``{split: {class: {sources, images, alone, largest}}}``; None if no source is known.

    ``alone`` counts images of no known source, ``largest`` lists ``{source, images}``.
    """
    keys = {split.name: _keys(split) for split in splits}
    if not any(any(values) for values in keys.values()):
        return None
    return {split.name: _of_classes(split, keys[split.name]) for split in splits}


def _keys(split: Split) -> Sequence[str]:
    """Return the source of each image; "" where none is known."""
    if SOURCE in split.columns:
        return split.columns[SOURCE]
    known = [] if split.source_rule else sources.keys_by_name(split.names)[0]
    return known or [""] * len(split)


def _of_classes(split: Split, keys: Sequence[str]) -> dict[str, Any]:
    result = {}
    for label, name in enumerate(split.class_names):
        members = np.flatnonzero(split.labels == label).tolist()
        counts = collections.Counter(keys[index] for index in members)
        alone = counts.pop("", 0)
        largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_LARGEST]
        result[name] = {
            "sources": len(counts),
            "images": len(members),
            "alone": alone,
            "largest": [{"source": files.printable(key), "images": count} for key, count in largest],
        }
    return result
