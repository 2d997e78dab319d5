"""Figures for reports, each readable without colour: line styles, markers and hatches tell series apart.

Figures are matplotlib objects without pyplot, so nothing global remembers them.  One drawing serves two uses:
as a PNG on white, and as SVG whose colours are the page's CSS variables, so that it follows a dark page.
Does not own: numbers (``metrics.py``, ``curves.py``), pages (``report.py``).
"""

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter
from sklearn import metrics as sk

from trainer.curves import Curve, Curves
from trainer.metrics import Scored

INK, MUTED, LINE, WARM, COOL = "#1b1f24", "#6a737d", "#d5dae0", "#c2410c", "#0b5fa5"
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", WARM: "warm", COOL: "cool"}
SIZE = (4.2, 3.4)  # Inches; about a phone's width, so that text stays readable there.
_BINS = 20
_PAIRS_ABREAST = 8


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG on white, 150 dots per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return buffer.getvalue()


def svg(figure: Figure, alt: str) -> str:
    """Return the figure as an ``<svg>`` in the page's colours and font; ``alt`` says what it shows."""
    buffer = io.StringIO()
    # matplotlib offers these two only as settings of the process; the context puts them back.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # Several figures share a page, and ids must be unique.
    text = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]+", r"font: \1\2 var(--font)", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    opening = rf'<svg viewBox="\1" role="img" aria-label="{html.escape(alt)}">'
    return re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', opening, text, count=1)


def new_figure(size: tuple[float, float] = SIZE) -> Figure:
    """Return an empty figure, in inches."""
    return Figure(figsize=size, layout="constrained")


def new_axes(figure: Figure, *, title: str, x: str, y: str) -> Axes:
    """Return the only axes of a figure, with title and labels."""
    axes = figure.subplots()
    dress(axes, title=title, x=x, y=y)
    return axes


def dress(axes: Axes, *, title: str, x: str, y: str) -> None:
    """Give axes the look of all figures."""
    axes.set_title(title, color=INK, fontsize=11, loc="left", fontweight="bold")
    axes.set_xlabel(x, color=INK, fontsize=10)
    axes.set_ylabel(y, color=INK, fontsize=10)
    axes.tick_params(which="both", colors=MUTED, labelcolor=INK, labelsize=9)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(MUTED)


def legend(axes: Axes, place: Any = "best") -> None:
    """Add a legend without a frame."""
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc=place, handlelength=2.6)


def roc(scored: Scored, eer: float) -> Figure:
    """Draw the ROC curve of positive against rest, with chance, equal error rate and the answers given."""
    positive = scored.class_names[scored.positive]
    figure = new_figure()
    axes = new_axes(figure, title="ROC", x="share of other images called so", y=f"share of {positive} found")
    false_alarms, found, _ = sk.roc_curve(scored.is_positive, scored.p_fake)
    axes.plot(false_alarms, found, color=WARM, linewidth=2, label="this model")
    axes.plot([0, 1], [0, 1], color=MUTED, linestyle=":", label="chance")
    axes.plot([eer], [1 - eer], "o", color=INK, markersize=8, fillstyle="none", label="equal error rate")
    called = scored.predicted == scored.positive
    alarmed, hit = called[~scored.is_positive].mean(), called[scored.is_positive].mean()
    axes.plot([alarmed], [hit], "D", color=INK, label=_rule(scored))
    _unit_square(axes)
    legend(axes, "lower right")
    return figure


def precision_recall(scored: Scored) -> Figure:
    """Draw precision against recall of the positive class, with chance and the answers given."""
    positive = scored.class_names[scored.positive]
    figure = new_figure()
    x, y = f"recall: share of {positive} found", f"share of those called {positive} that are"
    axes = new_axes(figure, title="Precision and recall", x=x, y=y)
    precision, recall, _ = sk.precision_recall_curve(scored.is_positive, scored.p_fake)
    axes.plot(recall, precision, color=WARM, linewidth=2, drawstyle="steps-post", label="this model")
    share = float(scored.is_positive.mean())
    axes.plot([0, 1], [share, share], color=MUTED, linestyle=":", label=f"chance ({share:.0%})")
    called = scored.predicted == scored.positive
    if called.any():
        recalled, right = called[scored.is_positive].mean(), scored.is_positive[called].mean()
        axes.plot([recalled], [right], "D", color=INK, label=_rule(scored))
    _unit_square(axes)
    legend(axes, "lower left")
    return figure


def _rule(scored: Scored) -> str:
    return f"threshold {scored.threshold:.3g}" if len(scored.class_names) == 2 else "likeliest class"


def _unit_square(axes: Axes) -> None:
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.04)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))


def score_histogram(scored: Scored) -> Figure:
    """Draw how scores are spread: the share of each side's images in 20 bins of p_fake, and the threshold."""
    positive = scored.class_names[scored.positive]
    others = [name for name in scored.class_names if name != positive]
    rest = others[0] if len(others) == 1 else f"not {positive}"
    figure = new_figure()
    axes = new_axes(figure, title="Scores", x=f"probability of {positive}", y="share of the class's images")
    edges = np.linspace(0.0, 1.0, _BINS + 1)
    for members, name, colour, hatch, line in (
        (scored.is_positive, positive, WARM, "////", "-"),
        (~scored.is_positive, rest, COOL, "", "--"),
    ):
        if members.any():
            shares = np.histogram(scored.p_fake[members], edges)[0] / members.sum()
            label = f"{name} ({members.sum():,})"
            axes.stairs(shares, edges, fill=True, color=colour, alpha=0.15)
            bars = axes.stairs(shares, edges, fill=True, facecolor="none", edgecolor=colour, linewidth=0)
            bars.set_hatch(hatch)
            axes.stairs(shares, edges, color=colour, linewidth=2, linestyle=line, label=label)
    if len(scored.class_names) == 2:
        axes.axvline(scored.threshold, color=INK, linestyle=":", label=_rule(scored))
    axes.set_xlim(0.0, 1.0)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.35)  # Room for the legend.
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    legend(axes, "upper left")
    return figure


def training(curves: Curves) -> Figure:
    """Draw loss, accuracy and learning rate by epoch, one above the other, as one figure."""
    figure = new_figure((7.2, 8.4))
    loss, accuracy, rate = figure.subplots(3, 1, height_ratios=[3, 3, 1.8])
    _draw_loss(loss, curves)
    _draw_accuracy(accuracy, curves)
    _draw_rate(rate, curves)
    return figure


def training_parts(curves: Curves) -> dict[str, Figure]:
    """Draw the same as three figures by name, for pages that place them side by side."""
    figures = {}
    for name, draw in {"Loss": _draw_loss, "Accuracy": _draw_accuracy, "Learning rate": _draw_rate}.items():
        figures[name] = new_figure()
        draw(figures[name].subplots(), curves)
    return figures


def _draw_loss(axes: Axes, curves: Curves) -> None:
    dress(axes, title="Loss", x="epoch", y="cross-entropy (nats)")
    _draw_pair(axes, curves, curves.train["loss"], curves.validation["val_loss"])


def _draw_accuracy(axes: Axes, curves: Curves) -> None:
    dress(axes, title="Accuracy", x="epoch", y="share called right")
    _draw_pair(axes, curves, curves.train["accuracy"], curves.validation["val_accuracy"])
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _draw_pair(axes: Axes, curves: Curves, train: Curve, validation: Curve) -> None:
    style: dict[str, Any] = {"linewidth": 2, "markersize": 5}
    axes.plot(train.epochs, train.values, "o-", color=COOL, label="train (augmented)", **style)
    axes.plot(validation.epochs, validation.values, "s--", color=WARM, label="validation", **style)
    if curves.best_epoch in validation.epochs:
        best = validation.values[validation.epochs.index(curves.best_epoch)]
        label = f"best epoch: {curves.best_epoch} ({curves.monitor})"
        axes.axvline(curves.best_epoch, color=MUTED, linestyle=":", linewidth=1)
        axes.plot([curves.best_epoch], [best], "*", color=INK, markersize=13, label=label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend(axes)


def _draw_rate(axes: Axes, curves: Curves) -> None:
    dress(axes, title="Learning rate", x="epoch", y="rate (log scale)")
    axes.plot(curves.learning_rate.epochs, curves.learning_rate.values, "d-", color=INK, markersize=5)
    axes.set_yscale("log")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def class_counts(counts: Mapping[str, Mapping[str, int]]) -> Figure:
    """Draw the number of images of each class in each split, written at the end of each bar."""
    rows = [(split, name, count) for split, classes in counts.items() for name, count in classes.items()]
    names = list(dict.fromkeys(name for _, name, _ in rows))
    figure = new_figure((SIZE[0] + 1.0, 1.2 + 0.36 * len(rows)))
    axes = new_axes(figure, title="Images by split and class", x="images", y="")
    style: dict[str, Any] = {"va": "center", "fontsize": 9, "color": INK}
    for row, (_, name, count) in enumerate(rows):
        colour, hatch = ((WARM, "///"), (COOL, ""))[names.index(name) % 2]
        axes.barh(row, count, height=0.7, facecolor=colour, alpha=0.35)
        axes.barh(row, count, height=0.7, facecolor="none", edgecolor=colour, hatch=hatch, linewidth=1.5)
        axes.annotate(f"{count:,}", (count, row), (4, 0), textcoords="offset points", **style)
    axes.set_yticks(range(len(rows)), [f"{split}  {name}" for split, name, _ in rows])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


def augmentation_pairs(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8], labels: Sequence[str]) -> Figure:
    """Draw images ``[N, S, S, 3]``, N >= 1, above their augmented selves, with the class of each."""
    abreast = min(len(labels), _PAIRS_ABREAST)
    blocks = -(-len(labels) // abreast)
    # Fixed margins in inches: laying out dozens of axes automatically takes seconds.
    width, height, left, top = 1.3 * abreast + 0.5, 2.9 * blocks, 0.45, 0.3
    figure = Figure(figsize=(width, height))
    grid = figure.subplots(2 * blocks, abreast, squeeze=False)
    figure.subplots_adjust(left / width, 0.02, 0.99, 1 - top / height, wspace=0.06, hspace=0.16)
    for axes in grid.flat:
        axes.set_axis_off()
    names = ("as read", "augmented")
    style: dict[str, Any] = {"rotation": 90, "ha": "right", "va": "center", "fontsize": 10, "color": INK}
    for index, label in enumerate(labels):
        row, column = 2 * (index // abreast), index % abreast
        grid[row, column].set_title(label, fontsize=10, color=INK)
        for axes, images, name in zip(grid[row : row + 2, column], (before, after), names, strict=True):
            axes.imshow(images[index], interpolation="antialiased")
            if column == 0:
                axes.text(-0.06, 0.5, name, transform=axes.transAxes, **style)
    return figure
