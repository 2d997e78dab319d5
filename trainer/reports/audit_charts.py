"""Drawings of the audit page: the good images of all splits together, one class against another.

Does not own: numbers (``data/audit/``), how drawings look in general (``plots.py``), words (``audit.py``).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from trainer.data.audit.cues import FILE, Finding
from trainer.data.audit.scan import Records, Table
from trainer.reports.plots import COOL, INK, LINE, MUTED, SIZE, WARM, dress, legend, new_axes, new_figure

# Colour, line and hatch of each class, in label order; further classes start over.
_STYLES = ((WARM, "-", "////"), (COOL, "--", ""), (INK, ":", "...."), (MUTED, "-.", "xx"))
_CLASSES = 8  # More lines would hide each other.
_BINS = 30
_BUBBLES = 300


def _good(records: Records) -> list[tuple[str, Table]]:
    """Return names and good images of the first classes; classes without any are left out."""
    table = records.table[records.table["ok"]]
    classes = [(name, table[table["label"] == label]) for label, name in enumerate(records.class_names[:_CLASSES])]
    return [(name, members) for name, members in classes if len(members)]


def _histogram(axes: Axes, groups: Sequence[tuple[str, npt.NDArray[Any]]], edges: npt.NDArray[Any]) -> None:
    """Draw the share of each group's values in every bin."""
    for number, (name, values) in enumerate(groups):
        colour, line, hatch = _STYLES[number % len(_STYLES)]
        shares = np.histogram(values, edges)[0] / len(values)
        axes.stairs(shares, edges, fill=True, color=colour, alpha=0.15)
        bars = axes.stairs(shares, edges, fill=True, facecolor="none", edgecolor=colour, linewidth=0)
        bars.set_hatch(hatch)
        axes.stairs(shares, edges, color=colour, linewidth=2, linestyle=line, label=name)
    axes.set_ylim(top=axes.get_ylim()[1] * 1.3)  # Room for the legend.
    axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    legend(axes, "upper right")


def brightness(records: Records) -> Figure:
    """Draw the distribution of the mean luminance of images."""
    figure = new_figure()
    axes = new_axes(
        figure, title="Brightness", x="mean luminance (0 black, 255 white)", y="share of the class's images"
    )
    groups = [(name, table["brightness"].astype(np.float64)) for name, table in _good(records)]
    _histogram(axes, groups, np.linspace(0, 255, _BINS + 1))
    axes.set_xlim(0, 255)
    return figure


def file_sizes(records: Records) -> Figure:
    """Draw the distribution of file sizes on a logarithmic scale."""
    figure = new_figure()
    axes = new_axes(figure, title="File size", x="kB (log scale)", y="share of the class's images")
    groups = [(name, table["bytes"] / 1000) for name, table in _good(records)]
    low = min(values.min() for _, values in groups)
    high = max(values.max() for _, values in groups)
    _histogram(axes, groups, np.geomspace(low / 1.05, high * 1.05, _BINS + 1))
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    return figure


def qualities(records: Records) -> Figure | None:
    """Draw the distribution of JPEG qualities; None if there is no JPEG."""
    groups = [(name, table["quality"][table["quality"] > 0].astype(np.float64)) for name, table in _good(records)]
    groups = [(name, values) for name, values in groups if len(values)]
    if not groups:
        return None
    figure = new_figure()
    axes = new_axes(figure, title="JPEG quality", x="libjpeg's scale, from the tables", y="share of the class's JPEGs")
    _histogram(axes, groups, np.arange(0, 104, 4) + 0.5)
    return figure


def dimensions(records: Records) -> Figure:
    """Draw width against height; a bubble's area is the share of the class's images, at most 300 bubbles a class."""
    figure = new_figure()
    axes = new_axes(figure, title="Width and height", x="width (pixels)", y="height (pixels)")
    for number, (name, table) in enumerate(_good(records)):
        sides = np.stack([table["width"], table["height"]], axis=1)
        distinct, counts = np.unique(sides, axis=0, return_counts=True)
        chosen = np.argsort(-counts, kind="stable")[:_BUBBLES]
        colour = _STYLES[number % len(_STYLES)][0]
        marker = "osD^v<>p"[number]
        areas = 12 + 600 * counts[chosen] / len(table)
        x, y = distinct[chosen].T
        axes.scatter(x, y, areas, facecolor="none", edgecolor=colour, marker=marker, linewidth=1.6)
        axes.plot([], [], marker, color=colour, fillstyle="none", label=name)
    axes.margins(0.15)
    legend(axes, "upper left")
    return figure


def formats(records: Records) -> Figure:
    """Draw the share of each file format in each class."""
    groups = _good(records)
    formats_by_class = [np.unique(table["format"], return_counts=True) for _, table in groups]
    names = sorted({str(name) for distinct, _ in formats_by_class for name in distinct})
    figure = new_figure((SIZE[0], 1.3 + 0.3 * len(names) * len(groups)))
    axes = new_axes(figure, title="Formats", x="share of the class's images", y="")
    height = 0.8 / len(groups)
    for number, ((name, table), (distinct, counts)) in enumerate(zip(groups, formats_by_class, strict=True)):
        colour, _, hatch = _STYLES[number % len(_STYLES)]
        share = dict(zip(distinct.tolist(), (counts / len(table)).tolist(), strict=True))
        places = np.arange(len(names)) + (number - (len(groups) - 1) / 2) * height
        widths = [share.get(each, 0.0) for each in names]
        axes.barh(places, widths, 0.9 * height, facecolor=colour, alpha=0.35)
        style: dict[str, Any] = {"facecolor": "none", "edgecolor": colour, "hatch": hatch, "linewidth": 1.5}
        axes.barh(places, widths, 0.9 * height, **style, label=name)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set_xlim(0, 1.0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left", bbox_to_anchor=(0, -0.32), ncols=4)
    return figure


def cue_bars(findings: Sequence[Finding], flag_auc: float) -> Figure:
    """Draw the highest AUC of each cue over the splits as a bar that starts at 0.5, which is guessing."""
    shown = [finding for finding in findings if finding.worst[0]]
    figure = new_figure((6.4, 1.2 + 0.3 * len(shown)))
    axes = figure.subplots()
    dress(axes, title="What gives the class away", x="AUC, best split (0.5: nothing, 1: all)", y="")
    for place, finding in enumerate(shown):
        _, auc = finding.worst
        colour, hatch = (WARM, "////") if finding.flagged else (COOL, "")
        axes.barh(place, auc - 0.5, 0.7, left=0.5, facecolor=colour, alpha=0.35)
        axes.barh(place, auc - 0.5, 0.7, left=0.5, facecolor="none", edgecolor=colour, hatch=hatch, linewidth=1.5)
        style: dict[str, Any] = {"va": "center", "fontsize": 9, "color": INK, "textcoords": "offset points"}
        axes.annotate(f"{auc:.2f}", (auc, place), (4, 0), **style)
    axes.axvline(0.5, color=INK, linewidth=1.5)
    axes.axvline(flag_auc, color=MUTED, linestyle=":", label=f"flagged from {flag_auc:g}")
    axes.set_yticks(range(len(shown)), [_cue_label(finding) for finding in shown])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.grid(color=LINE, axis="x")
    axes.set_xlim(0.48, 1.06)
    legend(axes, "lower right")
    return figure


def _cue_label(finding: Finding) -> str:
    return finding.cue.title if finding.cue.level == FILE else f"{finding.cue.title} (picture)"
