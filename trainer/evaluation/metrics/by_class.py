"""Precision, recall and F1 of each class, and their plain averages: the tables ``per_class`` and ``macro``.

Does not own: metrics with an interval (the files with ``METRICS``).
"""

from typing import Any

import numpy as np

from trainer.evaluation.metrics.metric import Floats
from trainer.evaluation.metrics.scikit import sk
from trainer.evaluation.predictions import Predictions

_REASONS = {
    "precision": "no image was called {}",
    "recall": "there is no image of {}",
    "f1": "there is no image of {}, and none was called so",
}


def columns(predictions: Predictions) -> dict[str, Floats]:
    """Return ``precision``, ``recall``, ``f1`` and ``n`` of the classes, ``[C]`` each; NaN where undefined."""
    values = sk().precision_recall_fscore_support(
        predictions.labels,
        predictions.predicted,
        labels=list(range(len(predictions.class_names))),
        zero_division=np.nan,
    )
    return dict(zip((*_REASONS, "n"), values, strict=True))


def measure(
    predictions: Predictions, undefined: dict[str, str]
) -> tuple[dict[str, dict[str, Any]], dict[str, float | None]]:
    """Return ``per_class`` and ``macro``, ready for JSON; ``undefined`` receives the reasons by name."""
    names = predictions.class_names
    values_by_figure = columns(predictions)
    per_class: dict[str, dict[str, Any]] = {name: {} for name in names}
    macro: dict[str, float | None] = {}
    for figure, reason in _REASONS.items():
        values = values_by_figure[figure]
        for name, value in zip(names, values, strict=True):
            per_class[name][figure] = _number(value)
            if np.isnan(value):
                undefined[f"per_class.{name}.{figure}"] = reason.format(name)
        macro[figure] = _number(np.mean(values))
        if macro[figure] is None:
            undefined[f"macro.{figure}"] = f"{figure} of a class is undefined"
    for name, count in zip(names, values_by_figure["n"], strict=True):
        per_class[name]["n"] = int(count)
    return per_class, macro


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def missing(predictions: Predictions) -> str:
    """Return which classes have no image, as a reason; empty if all have some."""
    counts = np.bincount(predictions.labels, minlength=len(predictions.class_names))
    absent = [name for name, count in zip(predictions.class_names, counts, strict=True) if not count]
    return f"there is no image of {' and '.join(absent)}" if absent else ""
