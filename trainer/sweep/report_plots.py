"""Figures of a sweep's report: scores, parallel coordinates, importances, learning curves.  Imports no TensorFlow."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from trainer.evaluation.training_curves import Curve
from trainer.reports.plots import COOL, INK, LINE, MUTED, SIZE, WARM, dress, legend, new_figure
from trainer.sweep.importance import Importance, encode
from trainer.sweep.records import PRUNED, Record
from trainer.sweep.space import Parameter, Space

_COLUMN = 1.1  # Width of a setting in the parallel coordinates, inches.


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


def parallel_coordinates(space: Space, ranked: Sequence[Record], metric: str) -> Figure:
    """Draw each trial as a line through its settings and its score; ``ranked`` holds scored trials, best first."""
    figure = new_figure((_COLUMN * (len(space) + 1), SIZE[1]))
    axes = figure.subplots()
    dress(axes, title="Settings and scores", x="", y="")
    axes.grid(visible=False, axis="y")
    scores = np.array([record.score for record in ranked], np.float64)
    columns = [_scaled(one, ranked) for one in space] + [_unit(scores)]
    quarter = max(1, len(ranked) // 4)
    for place in reversed(range(len(ranked))):
        rank = "best" if place == 0 else "quarter" if place < quarter else "rest"
        style = {"best": (WARM, 3.0, "-"), "quarter": (COOL, 1.8, "-"), "rest": (MUTED, 1.0, ":")}[rank]
        label = {0: "best trial", 1: "best quarter", len(ranked) - 1: "the others"}.get(place)
        axes.plot(
            range(len(columns)), [column[place] for column in columns], color=style[0], linewidth=style[1],
            linestyle=style[2], label=label if rank != "quarter" or place == 1 else None,
        )  # fmt: skip
    axes.set_xticks(range(len(columns)), [*(one.name for one in space), metric], rotation=20, ha="right")
    axes.set_yticks([])
    axes.set_ylim(-0.12, 1.12)
    for place, one in enumerate(space):
        for height, text in _marks(one, ranked):
            axes.annotate(text, (place, height), (4, 2), textcoords="offset points", fontsize=8, color=INK)
        axes.axvline(place, color=LINE, linewidth=1)
    for score, height in ((scores.max(), 1.0), (scores.min(), 0.0)):
        axes.annotate(f"{score:.4g}", (len(space), height), (4, 2), textcoords="offset points", fontsize=8, color=INK)
    _legend_below(figure, 3)
    return figure


def _unit(values: "np.ndarray[tuple[int, ...], np.dtype[np.float64]]") -> list[float]:
    low, high = float(values.min()), float(values.max())
    return [(float(value) - low) / (high - low) if high > low else 0.5 for value in values]


def _scaled(one: Parameter, ranked: Sequence[Record]) -> list[float]:
    return _unit(np.array([encode(one, record) for record in ranked], np.float64))


def _marks(one: Parameter, ranked: Sequence[Record]) -> list[tuple[float, str]]:
    """Return heights and labels along a setting's axis: all values of a choice, the ends of a range."""
    heights = dict(zip((record.settings.get(one.name) for record in ranked), _scaled(one, ranked), strict=True))
    if not one.values:
        ends = sorted(heights, key=lambda value: heights[value])
        heights = {value: heights[value] for value in (ends[0], ends[-1])}
    return [(height, _value_text(value)) for value, height in heights.items()]


def _value_text(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "not used" if value is None else str(value)


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
