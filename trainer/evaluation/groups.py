"""Metrics by group of images, the worst group first; each value in a column of a table is a group.

Does not own: the table (``sources.py``), the metrics (``metrics/``).
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation import metrics
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.sources import Columns, Sources

FIGURES = ("accuracy", "balanced_accuracy", "auc", "eer")


def measure(
    predictions: Predictions, columns: Columns, sources: Sources, *, resamples: int, seed: int
) -> dict[str, Any]:
    """Return a list of groups for each column, ready for JSON: lowest accuracy first, then larger groups.

    A group has ``value``, ``n``, the ``FIGURES`` (None where undefined), their ``ci95`` and ``undefined`` reasons.  One
    of forgeries alone has ``against_rest``: the AUC of its images against all that are none, and how many those are.

    Args:
        predictions: at least one image.
        columns: the value of each image, by column.
        sources: the unit of resampling.
        resamples: bootstrap resamples; 0: no intervals.
        seed: of the resamples.
    """
    groups_by_column = {}
    for column, values in columns.items():
        groups = []
        for value in dict.fromkeys(values):
            members = np.flatnonzero(np.array(values, object) == value)
            numbers = sources.select(members).numbers
            figures = metrics.measure(predictions.select(members), resamples=resamples, seed=seed, sources=numbers)
            group = {"value": value, "n": figures["n"], **subset(figures, FIGURES)}
            rest = _against(predictions, members)
            if len(rest):
                numbers = sources.select(rest).numbers
                figures = metrics.measure(predictions.select(rest), resamples=resamples, seed=seed, sources=numbers)
                group["against_rest"] = {"n": figures["n"] - len(members), **subset(figures, ("auc",))}
            groups.append(group)
        groups_by_column[column] = sorted(groups, key=lambda group: (group["accuracy"], -group["n"], group["value"]))
    return groups_by_column


def _against(predictions: Predictions, members: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the positions of a group of forgeries, such as those of one method, and of all images that are none.

    Empty for a group with both, whose own AUC says more, and where there are no others.
    """
    negatives = np.flatnonzero(~predictions.is_positive)
    if not predictions.is_positive[members].all() or not len(negatives):
        return np.empty(0, np.int64)
    return np.sort(np.concatenate([members, negatives]))


def subset(figures: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return some of the metrics of ``metrics.measure``, with their intervals and why they are undefined."""
    kept = {*names, *(f"ci95.{name}" for name in names)}
    return {
        **{name: figures[name] for name in names},
        "ci95": {name: figures["ci95"][name] for name in names},
        "undefined": {name: reason for name, reason in figures["undefined"].items() if name in kept},
    }
