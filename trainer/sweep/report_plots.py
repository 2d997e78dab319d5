"""Figures of a sweep's report: scores, importances, learning curves.  Imports no TensorFlow."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.evaluation.training_curves import Curve
from trainer.reports.plots import COOL, INK, MUTED, SIZE, WARM, dress, legend, new_figure
from trainer.sweep.importance import Importance
from trainer.sweep.records import PRUNED, Record


def scores(records: Sequence[Record], metric: str, *, maximizes: bool) -> Figure:
    """Draw each trial's score and the best so far, by trial."""
    figure = new_figure()
    axes = figure.subplots()
    dress(axes, title="Scores", x="trial", y=f"validation {metric}")
    places = [place for place, record in enumerate(records) if record.score is not None]
    values = [record.score for record in records if record.score is not None]
    axes.plot(places, values, "o", color=COOL, markersize=6, label="trial")
    pruned = [at for at in zip(places, values, strict=True) if records[at[0]].status == PRUNED]
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "o", color=INK, markersize=9, fillstyle="none", label="pruned")
    best = (np.maximum if maximizes else np.minimum).accumulate(np.array(values, np.float64))
    axes.plot(places, best, "-", color=WARM, linewidth=2, drawstyle="steps-post", label="best so far")
    failed = [place for place, record in enumerate(records) if record.score is None]
    if failed and values:
        # A failed trial has no score: mark it at the height of the worst one.
        worst = min(values) if maximizes else max(values)
        axes.plot(failed, [worst] * len(failed), "x", color=INK, markersize=8, label="failed")
    axes.set_xticks(range(len(records)), [record.trial.lstrip("0") or "0" for record in records])
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _legend_below(figure, 2)
    return figure


def _legend_below(figure: Figure, columns: int) -> None:
    """Add a legend below the axes, where it hides no trial."""
    figure.legend(
        loc="outside lower center", ncols=columns, frameon=False, fontsize=9, labelcolor=INK, handlelength=2.6
    )


def importance(rows: Sequence[Importance]) -> Figure:
    """Draw the importance of each setting with its interval, largest on top."""
    figure = new_figure((SIZE[0], 1.2 + 0.4 * len(rows)))
    axes = figure.subplots()
    dress(axes, title="Importance", x="growth of the squared error,\nin variances of the score", y="")
    for row, one in enumerate(rows):
        axes.plot([one.low, one.high], [row, row], color=COOL, linewidth=2)
        axes.plot([one.median], [row], "o", color=INK, markersize=6)
    axes.axvline(0.0, color=MUTED, linestyle=":")
    axes.set_yticks(range(len(rows)), [one.name for one in rows])
    axes.invert_yaxis()
    return figure


def learning_curves(curves: Sequence[tuple[str, Curve]], metric: str) -> Figure:
    """Draw validation by epoch; ``curves`` holds the best trial first, which is drawn thick."""
    figure = new_figure()
    axes = figure.subplots()
    dress(axes, title="Learning curves", x="epoch", y=f"validation {metric}")
    for place, (trial, curve) in enumerate(curves):
        colour, width, line = (
            (WARM, 2.5, "o-") if place == 0 else (COOL, 1.5, "s--") if place < 3 else (MUTED, 1.0, ".:")
        )
        label = f"trial {trial}{', the best' * (place == 0)}" if place < 3 else None
        axes.plot(
            curve.epochs, curve.values, line, color=colour, linewidth=width, markersize=4, label=label,
            zorder=4 - min(place, 2),
        )  # fmt: skip
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend(axes)
    return figure
