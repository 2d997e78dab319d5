"""Drawings of one evaluation: ROC, precision-recall, DET, calibration, scores; each readable without colour.

Does not own: how drawings look and become pages (``plots.py``), figures (``metrics.py``).
"""

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from scipy import special

from trainer.evaluation.metrics import calibration_error
from trainer.evaluation.metrics.scikit import sk
from trainer.evaluation.predictions import Predictions
from trainer.reports import plots

_BINS = 20
_FEW = 10  # Images; a bin with fewer is drawn hollow.
_RATES = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)  # Ticks of the DET curve.


def roc(predictions: Predictions, eer: float) -> Figure:
    """Draw the ROC curve of positive against rest, with chance, equal error rate and the operating point."""
    positive = predictions.class_names[predictions.positive]
    figure = plots.new_figure()
    axes = plots.new_axes(figure, title="ROC", x="false positive rate", y=f"true positive rate ({positive})")
    false_alarms, detected, _ = sk().roc_curve(predictions.is_positive, predictions.p_fake)
    axes.plot(false_alarms, detected, color=plots.WARM, linewidth=2, label="this model")
    axes.plot([0, 1], [0, 1], color=plots.MUTED, linestyle=":", label="chance")
    axes.plot([eer], [1 - eer], "o", color=plots.INK, markersize=8, fillstyle="none", label="equal error rate")
    called = predictions.predicted == predictions.positive
    alarmed, hit = called[~predictions.is_positive].mean(), called[predictions.is_positive].mean()
    axes.plot([alarmed], [hit], "D", color=plots.INK, label=_rule(predictions))
    _unit_square(axes)
    plots.legend(axes, "lower right")
    return figure


def det(predictions: Predictions, eer: float) -> Figure:
    """Draw misses against false alarms on normal-deviate scales (Martin et al. 1997), which spread out small rates.

    Rates of 0 and 1 lie at infinity; they are drawn at half an image, beyond the smallest measurable rate.
    """
    positive = predictions.class_names[predictions.positive]
    figure = plots.new_figure()
    x, y = "false positive rate", f"miss rate ({positive})"
    axes = plots.new_axes(figure, title="DET", x=x, y=y)
    false_alarms, detected, _ = sk().roc_curve(predictions.is_positive, predictions.p_fake, drop_intermediate=False)
    floors = _det_floors(predictions)
    place = functools.partial(det_places, predictions)
    axes.plot(*place(false_alarms, 1.0 - detected), color=plots.WARM, linewidth=2, label="this model")
    axes.plot(*place([eer], [eer]), "o", color=plots.INK, markersize=8, fillstyle="none", label="equal error rate")
    called = predictions.predicted == predictions.positive
    alarmed, missed = called[~predictions.is_positive].mean(), 1.0 - called[predictions.is_positive].mean()
    axes.plot(*place([alarmed], [missed]), "D", color=plots.INK, label=_rule(predictions))
    for axis, limit, low in ((axes.xaxis, axes.set_xlim, floors[0]), (axes.yaxis, axes.set_ylim, floors[1])):
        axis.set_ticks(special.ndtri(_RATES), [f"{rate:g}".removesuffix(".0") for rate in np.multiply(_RATES, 100)])
        limit(*special.ndtri([min(low, 0.01) * 0.9, 0.995]))
    axes.set_xlabel(f"{x} (%)")
    axes.set_ylabel(f"{y} (%)")
    plots.legend(axes, "upper right")
    return figure


def _det_floors(predictions: Predictions) -> list[float]:
    """Return half an image as a share of those that are not positive, and of the positive ones."""
    return [0.5 / max(int(members.sum()), 1) for members in (~predictions.is_positive, predictions.is_positive)]


def det_places(predictions: Predictions, alarms: npt.ArrayLike, misses: npt.ArrayLike) -> list[npt.NDArray[np.float64]]:
    """Return where rates of false alarms and misses lie on the axes of ``det``."""
    rates = zip((alarms, misses), _det_floors(predictions), strict=True)
    return [special.ndtri(np.clip(np.asarray(rate, np.float64), low, 1.0 - low)) for rate, low in rates]


def reliability(predictions: Predictions) -> Figure:
    """Draw accuracy by stated confidence, in the 15 bins of the calibration error, above the number of images."""
    bins = calibration_error.bins_of(predictions.labels, predictions.predicted, predictions.probabilities)
    filled = bins.counts > 0
    counts = bins.counts[filled]
    stated, right = (sums[filled] / counts for sums in (bins.confidence, bins.right))
    edges = np.linspace(0.0, 1.0, calibration_error.BINS + 1)
    figure = plots.new_figure((plots.SIZE[0], plots.SIZE[1] + 0.9))
    upper, lower = figure.subplots(2, 1, height_ratios=[3, 1.1], sharex=True)
    plots.dress(upper, title="Calibration", x="", y="accuracy")
    plots.dress(lower, title="", x="stated confidence of the answer", y="images")
    upper.plot([0, 1], [0, 1], color=plots.MUTED, linestyle=":", label="as stated")
    upper.vlines(stated, stated, right, color=plots.WARM, linewidth=1.2)
    for members, fill, label in (
        (counts >= _FEW, "full", "this model"),
        (counts < _FEW, "none", f"under {_FEW} images"),
    ):
        if members.any():
            upper.plot(
                stated[members], right[members], "o", color=plots.WARM, markersize=6, fillstyle=fill, label=label
            )
    lower.stairs(bins.counts, edges, fill=True, facecolor=plots.COOL, alpha=0.3)
    lower.stairs(bins.counts, edges, color=plots.COOL, linewidth=1.2)
    for middle, count in zip((edges[:-1] + edges[1:])[filled] / 2, counts, strict=True):
        lower.annotate(
            f"{count:,}", (middle, count), (0, 1), textcoords="offset points", ha="center", va="bottom", fontsize=8,
            color=plots.INK,
        )  # fmt: skip
    lower.margins(y=0.3)
    lower.grid(visible=False)
    upper.set_xlim(max(0.0, float(edges[:-1][filled].min()) - 0.02), 1.02)
    upper.set_ylim(-0.02, 1.22)  # Room for the legend.
    upper.set_yticks(np.linspace(0.0, 1.0, 6))
    lower.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))  # More labels than these touch each other.
    for axis in (upper.yaxis, lower.xaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    upper.legend(frameon=False, fontsize=8, labelcolor=plots.INK, loc="upper left", ncols=3, columnspacing=1.2)
    return figure


def rocs(curves: Mapping[str, Predictions]) -> Figure:
    """Draw the ROC curves of several models on the same images, with different line styles and markers."""
    positive = next(predictions.class_names[predictions.positive] for predictions in curves.values())
    figure = plots.new_figure((plots.SIZE[0], plots.SIZE[1] + 0.6))
    axes = plots.new_axes(figure, title="ROC", x="false positive rate", y=f"true positive rate ({positive})")
    for number, (name, predictions) in enumerate(curves.items()):
        false_alarms, detected, _ = sk().roc_curve(predictions.is_positive, predictions.p_fake)
        axes.plot(
            false_alarms, detected, color=(plots.WARM, plots.COOL, plots.INK)[number % 3],
            linestyle=("-", "--", "-.", (0, (1, 1)))[number % 4], marker="osdv^x+*"[number % 8], markevery=0.13,
            markersize=5, linewidth=1.8, label=name,
        )  # fmt: skip
    axes.plot([0, 1], [0, 1], color=plots.MUTED, linestyle=":", label="chance")
    _unit_square(axes)
    plots.legend(axes, "lower right")
    return figure


def precision_recall(predictions: Predictions) -> Figure:
    """Draw precision against recall of the positive class, with chance and the operating point."""
    positive = predictions.class_names[predictions.positive]
    figure = plots.new_figure()
    x, y = f"recall ({positive})", f"precision ({positive})"
    axes = plots.new_axes(figure, title="Precision and recall", x=x, y=y)
    precision, recall, _ = sk().precision_recall_curve(predictions.is_positive, predictions.p_fake)
    axes.plot(recall, precision, color=plots.WARM, linewidth=2, drawstyle="steps-post", label="this model")
    share = float(predictions.is_positive.mean())
    axes.plot([0, 1], [share, share], color=plots.MUTED, linestyle=":", label=f"chance ({share:.0%})")
    called = predictions.predicted == predictions.positive
    if called.any():
        recalled, right = called[predictions.is_positive].mean(), predictions.is_positive[called].mean()
        axes.plot([recalled], [right], "D", color=plots.INK, label=_rule(predictions))
    _unit_square(axes)
    plots.legend(axes, "lower left")
    return figure


def _rule(predictions: Predictions) -> str:
    return f"threshold {predictions.threshold:.3g}" if len(predictions.class_names) == 2 else "likeliest class"


def _unit_square(axes: Axes) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.04)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))


def score_histogram(predictions: Predictions) -> Figure:
    """Draw the distribution of scores: each side's share of images in 20 bins of p_fake, and the threshold."""
    positive = predictions.class_names[predictions.positive]
    others = [name for name in predictions.class_names if name != positive]
    rest = others[0] if len(others) == 1 else f"not {positive}"
    figure = plots.new_figure()
    axes = plots.new_axes(figure, title="Scores", x=f"probability of {positive}", y="share of the class's images")
    edges = np.linspace(0.0, 1.0, _BINS + 1)
    for members, name, colour, hatch, line in (
        (predictions.is_positive, positive, plots.WARM, "////", "-"),
        (~predictions.is_positive, rest, plots.COOL, "", "--"),
    ):
        if members.any():
            shares = np.histogram(predictions.p_fake[members], edges)[0] / members.sum()
            label = f"{name} ({members.sum():,})"
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.15)
            bars = axes.stairs(shares, edges, fill=True, facecolor="none", edgecolor=colour, linewidth=0)
            bars.set_hatch(hatch)
            axes.stairs(shares, edges, color=colour, linewidth=2, linestyle=line, label=label)
    if len(predictions.class_names) == 2:
        axes.axvline(predictions.threshold, color=plots.INK, linestyle=":", label=_rule(predictions))
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.35)  # Room for the legend.
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    plots.legend(axes, "upper left")
    return figure


def title(kind: str) -> str:
    """Return the heading for a kind of distortion."""
    return "JPEG" if kind == "jpeg" else kind.capitalize()


def curves(kind: str, what: Mapping[str, Any], clean: Mapping[str, Any]) -> Figure:
    """Draw AUC and accuracy of one kind of distortion, with intervals; the undistorted images come first."""
    figure = plots.new_figure()
    axes = plots.new_axes(figure, title=title(kind), x=what["unit"], y="AUC, accuracy")
    points = [clean, *what["results"]]
    names = ["as is", *(f"{result['strength']:g}" for result in what["results"])]
    for name, label, colour, style, shift in (
        ("auc", "AUC", plots.WARM, "o-", -0.04),
        ("accuracy", "accuracy", plots.COOL, "s--", 0.04),
    ):
        values = np.array([np.nan if point[name] is None else point[name] for point in points])
        if np.isfinite(values).any():
            spans = np.array(
                [point["ci95"][name] or (value, value) for point, value in zip(points, values, strict=True)]
            )
            error = np.abs(spans.T - values)
            axes.errorbar(
                np.arange(len(points)) + shift, values, error, fmt=style, color=colour, capsize=3, label=label
            )
    axes.set_xticks(range(len(points)), names)
    axes.set_ylim(-0.02, 1.04)
    plots.legend(axes, "lower left")
    return figure
