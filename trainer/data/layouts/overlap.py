"""Whether a source (video, identity) is in more than one split.  Imports no TensorFlow."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.data.layouts import sources
from trainer.data.layouts.split import SOURCE, Split

_SHOWN = 3


def shared(splits: Sequence[Split]) -> dict[str, Any] | None:
    """Return how the sources of the splits are known, and which are in several splits; None: no source is known.

    The dictionary is ready for JSON: ``rule``, ``sources`` by split, ``shared`` (how many are in several) and
    ``examples``.
    """
    known = {split.name: _keys(split) for split in splits}
    rules = [rule for keys, rule in known.values() if keys]
    if not rules:
        return None
    counts = collections.Counter(key for keys, _ in known.values() for key in keys)
    both = sorted(key for key, count in counts.items() if count > 1)
    numbers = {name: len(keys) for name, (keys, _) in known.items()}
    return {"rule": rules[0], "sources": numbers, "shared": len(both), "examples": both[:_SHOWN]}


def _keys(split: Split) -> tuple[set[str], str]:
    """Return the sources of a split and the rule; a source that file names tell is named without the split."""
    if SOURCE in split.columns:
        return set(split.columns[SOURCE]) - {""}, split.source_rule or sources.IN_COLUMN
    if split.source_rule:
        return set(), split.source_rule
    keys, rule = sources.keys_by_name(split.names)
    return {key.partition("/")[2] for key in keys if key}, rule


def sentence(splits: Sequence[Split]) -> str:
    """Return the findings in words; empty: no source is known."""
    found = shared(splits)
    return words(found) if found else ""


def words(found: Mapping[str, Any]) -> str:
    """Return the findings of ``shared`` as the words of a sentence."""
    if found["shared"]:
        examples = ", ".join(map(repr, found["examples"]))
        return f"{found['shared']:,} sources of one name are in several splits, such as {examples} ({found['rule']})"
    return f"no source is in two splits ({found['rule']})"
