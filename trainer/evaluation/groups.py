"""Figures by group of images, the worst group first: one value of a column of a table is one group.

Does not own: the table (``sources.py``), what figures mean (``metrics.py``).
"""

from typing import Any

import numpy as np

from trainer.evaluation import metrics
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.sources import Columns, Sources

FIGURES = ("accuracy", "balanced_accuracy", "auc", "eer")


def measure(scored: Predictions, columns: Columns, sources: Sources, *, resamples: int, seed: int) -> dict[str, Any]:
    """Return by column a list of groups, ready for JSON; lowest accuracy first, then the larger group.

    A group has ``value``, ``n``, the ``FIGURES`` (None where undefined), their ``ci95`` and ``undefined`` reasons.

    Args:
        scored: at least one image.
        columns: by column, the value of each image.
        sources: what the bootstrap draws.
        resamples: bootstrap resamples; 0: no intervals.
        seed: of the resamples.
    """
    found = {}
    for column, values in columns.items():
        groups = []
        for value in dict.fromkeys(values):
            members = np.flatnonzero(np.array(values, object) == value)
            drawn = sources.select(members).numbers
            figures = metrics.measure(scored.select(members), resamples=resamples, seed=seed, sources=drawn)
            groups.append({"value": value, "n": figures["n"], **chosen(figures, FIGURES)})
        found[column] = sorted(groups, key=lambda group: (group["accuracy"], -group["n"], group["value"]))
    return found


def chosen(figures: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return some of the figures of ``metrics.measure``, with their intervals and why they are undefined."""
    kept = {*names, *(f"ci95.{name}" for name in names)}
    return {
        **{name: figures[name] for name in names},
        "ci95": {name: figures["ci95"][name] for name in names},
        "undefined": {name: reason for name, reason in figures["undefined"].items() if name in kept},
    }
