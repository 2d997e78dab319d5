"""Metrics as people read them: titles, values, intervals, and what the intervals are about.

Does not own: metrics and their words (``evaluation/metrics/``), how one number looks (``html.py``), layout
(``templates/``).
"""

from collections.abc import Mapping
from typing import Any

from trainer.evaluation import metrics
from trainer.reports import html


def cell(figures: Mapping[str, Any], name: str) -> dict[str, str]:
    """Return a metric as ``value`` and ``note``: its 95% interval, or why it is undefined; empty without either."""
    share = metrics.all_metrics()[name].is_share
    value = metrics.by_name(figures, name)
    interval = figures["ci95"].get(name)
    note = html.span(interval, share) if interval else ""
    return {
        "value": html.number(value, share),
        "note": note if value is not None else figures["undefined"].get(name, ""),
    }


def rows(figures: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the ``name``, ``title``, ``value`` and ``note`` of all metrics of an evaluation; see ``cell``."""
    return [
        {"name": name, "title": metric.title, **cell(figures, name)}
        for name, metric in metrics.all_metrics().items()
        if name in figures["ci95"]
    ]


def intervals(figures: Mapping[str, Any]) -> str:
    """Return how the intervals were computed and what they mean, or that there are none."""
    if not any(figures["ci95"].values()):
        return "There are no intervals here."
    units = figures["drawn"]
    rule = f" by {units['rule']}" if units["unit"] == "sources" else ""
    return (
        f"Intervals: percentile bootstrap over {units['count']:,} {units['unit']}{rule}, {figures['bootstrap']:,} "
        f"resamples, seed {figures['seed']}. They show how much depends on the choice of these images, not how the "
        "model performs on other kinds of images."
    )
