"""The findings of an audit as the numbers and names of ``audit.json`` (docs/audit.md describes it).

Owns: the schema, and what makes ``--strict`` fail.  Does not own: searches (``duplicates.py``, ``cues.py``).
"""

from collections.abc import Mapping, Set
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core.storage import files
from trainer.data.audit import digest, outliers, rescued, source_counts
from trainer.data.audit.cues import Finding
from trainer.data.audit.duplicates import MIN_CORRELATION, Duplicates, to_drop
from trainer.data.audit.scan import Records, Table
from trainer.data.layouts import overlap

_FIGURES = ("bytes", "width", "height", "brightness", "contrast")


def summarise(
    duplicates: Duplicates, findings: list[Finding], chosen: Set[int], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of ``audit.json``: plain types, no NaN, names as UTF-8.

    Args:
        duplicates: of all splits.
        findings: of ``cues.find``.
        chosen: positions of the images that are suggested to be left out.
        settings: to be shown.
    """
    records = duplicates.records
    table = records.table
    odd = outliers.oddest(records)
    return {
        "schema": digest.SCHEMA,
        "settings": dict(settings),
        "class_names": list(records.class_names),
        "images": len(table),
        "listings": digest.listings(records.splits),
        "counts": _by_split_and_class(records, lambda part: {"images": len(part), "bad": int((~part["ok"]).sum())}),
        "figures": _by_split_and_class(records, _figures),
        "formats": _by_split_and_class(records, lambda part: _tally(part, "format")),
        "modes": _by_split_and_class(records, lambda part: _tally(part, "mode")),
        "bad": [{"path": _name(records, index), "reason": why} for index, why in sorted(records.reasons.items())],
        "rescued": rescued.counts(records),
        "training_skips": [],  # Training reads what the audit reads; it did not always.
        "rotated": int((table["ok"] & (table["orientation"] > 1)).sum()),
        "flat": [_name(records, int(index)) for index in np.flatnonzero(table["ok"] & table["flat"])],
        "exact": _exact(duplicates),
        "near": _near(duplicates),
        "leakage": leakage(duplicates),
        "sources": overlap.shared(records.splits),
        "drop_leaks": sorted(files.printable(name) for name in to_drop(duplicates)),
        "clusters": _clusters(duplicates, chosen),
        "suggested_drop": len(chosen),
        "source_counts": source_counts.of_splits(records.splits),
        "outliers": {
            measure.name: [
                {"path": _name(records, index), "value": float(f"{measure.value(table[index]):.7g}")}
                for index in odd[measure.name]
            ]
            for measure in outliers.MEASURES
        },
        "cues": [_cue(finding) for finding in findings],
        "strict_failures": strict_failures(duplicates),
    }


def strict_failures(duplicates: Duplicates) -> list[str]:
    """Return a sentence for each reason why ``--strict`` fails: leakage, exact or near, and exact label conflicts.

    Similar images of different classes are not a reason, because a forgery looks like its source.
    """
    reasons = []
    for split, others in leakage(duplicates).items():
        for other, counts in others.items():
            if counts["exact"] or counts["near"]:
                reasons.append(
                    f"{counts['exact']:,} images of {split} are in {other} too, and {counts['near']:,} more look like "
                    "one there"
                )
    conflicts = duplicates.label_conflicts
    if conflicts:
        reasons.append(f"{len(conflicts):,} pictures are in more than one class, byte for byte")
    return reasons


def leakage(duplicates: Duplicates) -> dict[str, dict[str, dict[str, int]]]:
    """Return how many images of each split a later one also holds: ``{split: {later: {exact, near}}}``."""
    names = [split.name for split in duplicates.records.splits]
    return {
        name: {
            other: dict(zip(("exact", "near"), duplicates.shared(name, other), strict=True))
            for other in names[at + 1 :]
        }
        for at, name in enumerate(names[:-1])
    }


def _name(records: Records, index: int) -> str:
    return files.printable(records.names[index])


def _by_split_and_class(records: Records, describe: Any) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for number, split in enumerate(records.splits):
        members = records.table[records.table["split"] == number]
        result[split.name] = {
            name: describe(members[members["label"] == label]) for label, name in enumerate(records.class_names)
        }
    return result


def _figures(part: Table) -> dict[str, dict[str, float] | None]:
    """Return the spread of each number over the good images; None without good images."""
    good = part[part["ok"]]
    return {name: _spread(good[name].astype(np.float64)) for name in _FIGURES}


def _spread(values: npt.NDArray[np.float64]) -> dict[str, float] | None:
    if not len(values):
        return None
    spread = {"min": values.min(), "median": np.median(values), "mean": values.mean(), "max": values.max()}
    return {name: float(f"{value:.7g}") for name, value in spread.items()}


def _tally(part: Table, field: str) -> dict[str, int]:
    names, counts = np.unique(part[field][part["ok"]], return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _exact(duplicates: Duplicates) -> dict[str, Any]:
    groups: list[dict[str, Any]] = [
        {
            "paths": [_name(duplicates.records, index) for index in group],
            "across_splits": duplicates.crosses_splits(*group),
            "across_classes": duplicates.crosses_classes(*group),
        }
        for group in duplicates.exact
    ]
    return {
        "groups": len(groups),
        "images": sum(len(group["paths"]) for group in groups),
        "across_splits": sum(group["across_splits"] for group in groups),
        "across_classes": sum(group["across_classes"] for group in groups),
        "listed": groups,
    }


def _near(duplicates: Duplicates) -> dict[str, Any]:
    listed = [
        {
            "paths": [_name(duplicates.records, pair.first), _name(duplicates.records, pair.second)],
            "distance": pair.distance,
            "correlation": round(pair.correlation, 4),
            "across_splits": duplicates.crosses_splits(pair.first, pair.second),
            "across_classes": duplicates.crosses_classes(pair.first, pair.second),
        }
        for pair in duplicates.near
    ]
    return {
        **duplicates.near_counts,
        "min_correlation": MIN_CORRELATION,
        "complete": duplicates.complete,
        "listed": listed,
    }


def _clusters(duplicates: Duplicates, chosen: Set[int]) -> dict[str, Any]:
    listed = [
        {
            "paths": [_name(duplicates.records, index) for index in cluster],
            "dropped": [_name(duplicates.records, index) for index in cluster if index in chosen],
            "equal": len({*duplicates.content[list(cluster)].tolist()}) == 1,
            "across_splits": duplicates.crosses_splits(*cluster),
            "across_classes": duplicates.crosses_classes(*cluster),
        }
        for cluster in duplicates.clusters
    ]
    return {"count": len(listed), "images": sum(map(len, duplicates.clusters)), "listed": listed}


def _cue(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.cue.name,
        "title": finding.cue.title,
        "level": finding.cue.level,
        "numeric": finding.numeric,
        "auc": {split: None if value is None else round(value, 6) for split, value in finding.auc.items()},
        "flagged": list(finding.flagged),
        "typical": finding.typical,
        "advice": finding.cue.advice,
    }
