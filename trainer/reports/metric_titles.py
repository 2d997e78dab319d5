"""The figures of ``metrics.json`` for people: titles, values, intervals, what each means and what intervals are about.

Does not own: figures (``metrics.py``), how one number looks (``html.py``), layout (``templates/``).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from trainer.evaluation import metrics
from trainer.reports import html


@dataclasses.dataclass(frozen=True)
class Figure:
    """How a figure is told.

    Attributes:
        title: a few words.
        share: whether it is shown as a percentage.
        meaning: a sentence; ``{positive}`` and ``{rest}`` stand for classes.
    """

    title: str
    share: bool
    meaning: str


# By name, as in ``ci95``.
FIGURES = {
    "accuracy": Figure("Accuracy", True, "Share of images called right."),
    "auc": Figure("AUC", False, "Chance that a {positive} image outscores one of {rest}; 0.5 is guessing."),
    "average_precision": Figure("Average precision", False, "Area under the precision-recall curve."),
    "eer": Figure("Equal error rate", True, "Error where missed {positive} and false alarms are equally frequent."),
    "balanced_accuracy": Figure("Balanced accuracy", True, "Mean over the classes of the share called right."),
    "macro.auc": Figure("AUC, mean of classes", False, "Mean over the classes of the AUC of each against the others."),
    "tpr_at_fpr.0.01": Figure("Found at 1% alarms", True, "{positive} found if 1% of {rest} may be called so."),
    "tpr_at_fpr.0.001": Figure(
        "Found at 0.1% alarms", True, "The same if 0.1% may be; it needs 1,000 images of {rest}."
    ),
    "log_loss": Figure("Log loss", False, "Mean cross-entropy in nats, as in training; 0 is perfect, 0.69 a coin."),
    "brier": Figure("Brier score", False, "Mean squared error of the probabilities; 0 is perfect."),
    "ece": Figure(
        "Calibration error",
        True,
        "How far stated confidence is from accuracy, on average (15 bins). Chance makes it larger, in few images and "
        "more so in their resamples, so it may lie below its interval.",
    ),
}


def cell(figures: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return one figure as ``value`` and ``note``: its 95% interval, or why it is undefined; empty without either."""
    share, value, interval = FIGURES[name].share, metrics.by_name(figures, name), figures["ci95"].get(name)
    note = html.span(interval, share) if interval else ""
    return {
        "value": html.number(value, share),
        "note": note if value is not None else figures["undefined"].get(name, ""),
    }


def rows(figures: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the ``name``, ``title``, ``value`` and ``note`` of all figures that there are; see ``cell``."""
    return [
        {"name": name, "title": figure.title, **cell(figures, name)}
        for name, figure in FIGURES.items()
        if name != "macro.auc" or name in figures["ci95"]  # Of two classes it is the AUC.
    ]


def intervals(figures: Mapping[str, Any]) -> str:
    """Return how the intervals were drawn and what they are about; that there are none, if so."""
    if not any(figures["ci95"].values()):
        return "There are no intervals here."
    drawn = figures["drawn"]
    rule = f" by {drawn['rule']}" if drawn["unit"] == "sources" else ""
    return (
        f"Intervals: percentile bootstrap over {drawn['count']:,} {drawn['unit']}{rule}, {figures['bootstrap']:,} "
        f"resamples, seed {figures['seed']}. They tell how much chance is in the choice of these images, not how the "
        "model fares on other kinds of images."
    )
