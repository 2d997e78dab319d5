"""Figures for reports, each readable without colour: series differ in line style, marker or hatch.

Figures are matplotlib objects without pyplot, so no global state keeps them.  Each can be a PNG on white, or an SVG
whose colours are the page's CSS variables, so that it follows a dark page.
Does not own: numbers (``evaluation/``), drawings of one evaluation (``evaluation_plots.py``), pages (``training.py``,
``evaluation.py``).
"""

import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from trainer.core import terminal
from trainer.data.pixels import Pixels
from trainer.evaluation.training_curves import Curve, Curves

INK = "#1b1f24"
MUTED = "#6a737d"
LINE = "#d5dae0"
WARM = "#c2410c"
COOL = "#0b5fa5"
_VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", WARM: "warm", COOL: "cool"}
SIZE = (4.2, 3.4)  # Inches; about a phone's width, so that text stays readable there.
_PAIRS_ABREAST = 8
_BELOW_LEGEND = 0.62  # Share of the height that curves may use.


def png(figure: Figure) -> bytes:
    """Return the figure as a PNG on white, 150 dots per inch."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, facecolor="white")
    return buffer.getvalue()


def svg(figure: Figure, alt: str) -> str:
    """Return the figure as an ``<svg>`` in the page's colours and font; ``alt`` describes it."""
    buffer = io.StringIO()
    # matplotlib has these two only as process-wide settings; the context restores them.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = terminal.visible(buffer.getvalue())  # Names may hold marks that reorder a line.
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # Several figures share a page, and ids must be unique.
    text = re.sub(r"font: ([^;\"]*?)([\d.]+px) [^;\"]+", r"font: \1\2 var(--font)", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var(--{variable})")
    spoken = f'role="img" aria-label="{html.escape(terminal.visible(alt))}">'
    # Not as a template of the replacement, in which a backslash of a name would be a command.
    return re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', lambda head: f"<svg {head[1]} {spoken}", text, count=1)


def new_figure(size: tuple[float, float] = SIZE) -> Figure:
    """Return an empty figure, in inches."""
    return Figure(figsize=size, layout="constrained")


def new_axes(figure: Figure, *, title: str, x: str, y: str) -> Axes:
    """Return the only axes of a figure, with title and labels."""
    axes = figure.subplots()
    dress(axes, title=title, x=x, y=y)
    return axes


def dress(axes: Axes, *, title: str, x: str, y: str) -> None:
    """Set title, labels and the common style of all figures."""
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


def training(curves: Curves) -> Figure:
    """Draw loss, accuracy, AUC and learning rate by epoch in one figure, one above the other."""
    parts = _training_parts(curves)
    figure = new_figure((7.2, 3.3 * len(parts)))
    for axes, draw in zip(np.ravel(figure.subplots(len(parts), 1)), parts.values(), strict=True):
        draw(axes, curves)
    return figure


def training_parts(curves: Curves) -> dict[str, Figure]:
    """Draw the same as separate figures by name, for pages that place them side by side."""
    figures = {}
    for name, draw in _training_parts(curves).items():
        figures[name] = new_figure()
        draw(figures[name].subplots(), curves)
    return figures


def _training_parts(curves: Curves) -> dict[str, Callable[[Axes, Curves], None]]:
    """Return the function that draws each part; without the AUC if Validation does not define it."""
    parts: dict[str, Callable[[Axes, Curves], None]] = {
        "Loss": _draw_loss,
        "Accuracy": _draw_accuracy,
        "AUC": _draw_auc,
        "Learning rate": _draw_rate,
    }
    if not curves.validation["val_auc"].values:
        del parts["AUC"]
    return parts


def _draw_loss(axes: Axes, curves: Curves) -> None:
    dress(axes, title="Loss", x="epoch", y="cross-entropy (nats)")
    _draw_line(axes, curves.train["loss"], "o-", COOL, "train (augmented)")
    _draw_validation(axes, curves, "val_loss")


def _draw_accuracy(axes: Axes, curves: Curves) -> None:
    dress(axes, title="Accuracy", x="epoch", y="accuracy")
    _draw_line(axes, curves.train["accuracy"], "o-", COOL, "train (augmented)")
    _draw_validation(axes, curves, "val_accuracy")
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))


def _draw_auc(axes: Axes, curves: Curves) -> None:
    dress(axes, title="AUC", x="epoch", y="area under the ROC curve")
    _draw_validation(axes, curves, "val_auc")


def _draw_rate(axes: Axes, curves: Curves) -> None:
    dress(axes, title="Learning rate", x="epoch", y="rate (log scale)")
    _draw_line(axes, curves.learning_rate, "d-", INK, "at the epoch's end")
    axes.set_yscale("log")
    _finish(axes, curves)


def _draw_line(axes: Axes, curve: Curve, style: str, colour: str, label: str) -> None:
    axes.plot(curve.epochs, curve.values, style, color=colour, label=label, linewidth=2, markersize=5)


def _draw_validation(axes: Axes, curves: Curves, name: str) -> None:
    curve = curves.validation[name]
    _draw_line(axes, curve, "s--", WARM, "validation")
    if curves.best_epoch in curve.epochs:
        best = curve.values[curve.epochs.index(curves.best_epoch)]
        label = f"best epoch: {curves.best_epoch} ({curves.monitor})"
        axes.plot([curves.best_epoch], [best], "*", color=INK, markersize=13, label=label)
    _finish(axes, curves)


def _finish(axes: Axes, curves: Curves) -> None:
    """Mark restarts by vertical lines, and add the legend and whole epochs; curves stay below the legend."""
    top = 1.0
    if axes.get_yscale() == "linear":
        low, high = axes.get_ylim()
        ticks = [tick for tick in axes.get_yticks() if low <= tick <= high]
        top = _BELOW_LEGEND
        axes.set_ylim(low, low + (high - low) / top)
        axes.set_yticks(ticks)
    for number, place in enumerate(curves.restarts):
        label = f"restart ({len(curves.restarts)})" if len(curves.restarts) > 1 else "restart"
        axes.axvline(place, ymax=top, color=MUTED, linestyle="-.", linewidth=1.2, label="" if number else label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend(axes, "best" if top == 1.0 else "upper left")


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


def augmentation_pairs(before: Pixels, after: Pixels, labels: Sequence[str]) -> Figure:
    """Draw images ``[N, S, S, 3]``, N >= 1, each above its augmented version, with their classes."""
    abreast = min(len(labels), _PAIRS_ABREAST)
    blocks = -(-len(labels) // abreast)
    # Fixed margins in inches: laying out dozens of axes automatically takes seconds.
    width, height = 1.3 * abreast + 0.5, 2.9 * blocks
    left, top = 0.45, 0.3
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
