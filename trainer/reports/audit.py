"""The audit as a page: verdict, counts, sample images, plots, duplicates side by side, cues and broken files.

Owns: words and the choice of images.  Does not own: numbers (``summary.py``), drawings (``charts.py``).
"""

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter
from PIL import Image

from trainer.core.storage import files
from trainer.data.audit import measure
from trainer.data.audit.cues import FILE, PICTURE, Finding
from trainer.data.audit.duplicates import Duplicates, Pair
from trainer.data.audit.scan import Records, Table
from trainer.reports import html, plots
from trainer.reports.plots import COOL, INK, LINE, MUTED, SIZE, WARM, dress, legend, new_axes, new_figure

_THUMBNAIL = 160  # Pixels of the longer side.
_SAMPLES, _SAMPLES_OF_A_CLASS = 120, 6
_PAIRS = {"across_splits": 12, "across_classes": 12, "inside": 6}
_ROWS = 200


@dataclasses.dataclass(frozen=True)
class _Twins:
    """Two images side by side, and what they have in common."""

    pictures: tuple[html.Picture, ...]
    caption: str


def render(found: Duplicates, findings: Sequence[Finding], summary: Mapping[str, Any]) -> str:
    """Return the page; images are read again for their thumbnails, a file that is gone by now is left out."""
    records = found.records
    flag_auc = summary["settings"]["cue_auc"]
    template = html.templates().get_template("audit.html")
    return template.render(
        data_dir=files.printable(summary["settings"]["data_dir"]),
        summary=summary,
        tiles=_tiles(found, findings, summary),
        verdicts=_verdicts(found, findings, summary),
        counts=html.draw(
            plots.class_counts({split.name: split.counts for split in records.splits}),
            "Bars of the number of images by split and class",
            "Files that were found; what of them is broken is in the table.",
        ),
        samples=list(_samples(records)),
        drawings=_drawings(records),
        pairs={kind: list(_twins(found, kind)) for kind in _PAIRS},
        cues=html.draw(
            cue_bars(findings, flag_auc),
            "Bars of the AUC of each cue, from 0.5",
            "The highest of the splits. Hatched bars are flagged.",
        ),
        flagged=[_flagged_row(finding) for finding in findings if finding.flagged],
        all_cues=[_cue_row(finding) for finding in findings],
        rows=_ROWS,
    )


def _tiles(found: Duplicates, findings: Sequence[Finding], summary: Mapping[str, Any]) -> list[dict[str, str]]:
    flagged = sum(finding.cue.level == FILE for finding in findings if finding.flagged)
    shared = [each for others in summary["leakage"].values() for each in others.values()]
    leaked, near = (sum(each[kind] for each in shared) for kind in ("exact", "near"))
    return [
        {"name": "Images", "value": f"{summary['images']:,}", "note": f"{len(summary['class_names'])} classes"},
        {"name": "Broken", "value": f"{len(summary['bad']):,}", "note": "cannot be decoded"},
        {"name": "Leaked", "value": f"{leaked + near:,}", "note": f"{leaked:,} equal, {near:,} alike, across splits"},
        {
            "name": "Label conflicts",
            "value": f"{len(found.label_conflicts):,}",
            "note": "pictures in two classes, byte for byte",
        },
        {"name": "Telling cues", "value": f"{flagged:,}", "note": "without looking at the picture"},
    ]


def _verdicts(found: Duplicates, findings: Sequence[Finding], summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Say in plain words what to do, the gravest first."""
    lines = [("bad", f"{text}.") for text in summary["strict_failures"]]
    if summary["drop_leaks"]:
        count = len(summary["drop_leaks"])
        lines.append(("do", f"To end the leakage drop {count:,} images from Train and Validation (drop_leaks)."))
    if not lines:
        lines.append(("good", "No image is in two splits, and none has two labels."))
    for level, text in ((FILE, "Without looking at the picture"), (PICTURE, "At a glance")):
        telling = [finding for finding in findings if finding.flagged and finding.cue.level == level]
        if telling:
            named = ", ".join(f"{finding.cue.title} ({finding.worst[1]:.2f})" for finding in telling)
            lines.append(("bad", f"{text}, the class is given away by: {named}. See the cues below."))
    if not any(finding.flagged for finding in findings):
        lines.append(("good", "No plain property of the files gives the class away."))
    if summary["bad"]:
        lines.append(("do", f"{len(summary['bad']):,} files cannot be decoded; training would skip them."))
    if summary["training_skips"]:
        count = len(summary["training_skips"])
        lines.append(("do", f"{count:,} good images are in a form that training does not read; convert them."))
    if summary["rotated"]:
        lines.append(("do", f"{summary['rotated']:,} images ask to be turned by EXIF; training turns JPEG files only."))
    if not found.complete:
        lines.append(("do", "So many images look alike that not all pairs were compared; there are more."))
    return [{"kind": kind, "text": text} for kind, text in lines]


def _samples(records: Records) -> Iterable[dict[str, Any]]:
    """Yield some images of every class of every split, evenly spread over its good ones."""
    table = records.table
    cells = len(records.splits) * len(records.class_names)
    of_a_class = min(max(_SAMPLES // cells, 1), _SAMPLES_OF_A_CLASS)
    for number, split in enumerate(records.splits):
        for label, name in list(enumerate(records.class_names))[:_SAMPLES]:
            members = np.flatnonzero((table["split"] == number) & (table["label"] == label) & table["ok"])
            chosen = members[np.linspace(0, len(members) - 1, min(of_a_class, len(members))).round().astype(int)]
            pictures = [picture for index in chosen if (picture := _picture(records, int(index)))]
            yield {"title": f"{split.name}, {name}", "pictures": pictures}


def _picture(records: Records, index: int) -> html.Picture | None:
    try:
        with measure.pillow_for_audit(), Image.open(_content(records, index), formats=measure.FORMATS) as image:
            image.draft("RGB", (_THUMBNAIL, _THUMBNAIL))
            small = measure.rgb(image).copy()  # What is not loaded goes with the file.
            small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    except Exception:  # It was good when it was scanned; the page is worth having without it.
        return None
    name = files.printable(records.names[index])
    row = records.table[index]
    size = f"{row['width']} x {row['height']}, {row['format']}, {row['bytes'] / 1000:.0f} kB"
    return html.picture(small, name, size)


def _content(records: Records, index: int) -> io.BytesIO:
    return io.BytesIO(files.read_bytes(records.path(index)))


def _drawings(records: Records) -> list[html.Drawing]:
    if not records.table["ok"].any():
        return []
    figures = [
        (dimensions(records), "Bubbles of width against height", "A bubble's area is its share of the class."),
        (file_sizes(records), "Histogram of file sizes", "All splits together, here and in the others."),
        (brightness(records), "Histogram of brightness", "Mean luminance of each image."),
        (qualities(records), "Histogram of JPEG qualities", "Estimated from the quantisation tables."),
        (formats(records), "Bars of file formats", "By content, not by file name."),
    ]
    return [html.draw(figure, alt, caption) for figure, alt, caption in figures if figure]


def _twins(found: Duplicates, kind: str) -> Iterable[_Twins]:
    """Yield pairs of images to look at, equal ones first."""
    wanted = _PAIRS[kind]
    for pair in _first_pairs(found, kind):
        pictures = tuple(p for index in (pair.first, pair.second) if (p := _picture(found.records, index)))
        if len(pictures) == 2:
            text = f"{pair.distance} of 64 bits apart, correlation {pair.correlation:.3f}"
            yield _Twins(pictures, "equal files" if pair.distance < 0 else text)
            wanted -= 1
        if not wanted:
            return


def _first_pairs(found: Duplicates, kind: str) -> Iterable[Pair]:
    """Yield the pairs of one kind; equal files have distance -1."""
    for group in found.exact:
        second = next((index for index in group[1:] if _kind_fits(found, kind, group[0], index)), None)
        if second is not None:
            yield Pair(group[0], second, -1, 1.0)
    yield from (pair for pair in found.near if _kind_fits(found, kind, pair.first, pair.second))


def _kind_fits(found: Duplicates, kind: str, first: int, second: int) -> bool:
    splits, classes = found.crosses_splits(first, second), found.crosses_classes(first, second)
    return {"across_splits": splits, "across_classes": classes and not splits}.get(kind, not splits and not classes)


def _flagged_row(finding: Finding) -> dict[str, str]:
    split, auc = finding.worst
    typical = [f"{name}: {_show(value)}" for name, value in finding.typical[split].items()]
    return {
        "title": finding.cue.title,
        "auc": f"{auc:.3f}",
        "splits": ", ".join(finding.flagged),
        "typical": "; ".join(typical),
        "advice": finding.cue.advice,
    }


def _show(value: Any) -> str:
    """Return a typical value: the median of a number, or the commonest of a category with its share."""
    if isinstance(value, Mapping):
        return f"{value['value'] or 'none'} ({value['share']:.0%})"
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _cue_row(finding: Finding) -> dict[str, Any]:
    known = {split: "undefined" if value is None else f"{value:.3f}" for split, value in finding.auc.items()}
    return {"title": finding.cue.title, "level": finding.cue.level, "auc": known}


# Colour, line and hatch of each class, in label order; later classes begin again.
_STYLES = ((WARM, "-", "////"), (COOL, "--", ""), (INK, ":", "...."), (MUTED, "-.", "xx"))
_CLASSES = 8  # Lines beyond these would hide each other.
_BINS = 30
_BUBBLES = 300


def _good(records: Records) -> list[tuple[str, Table]]:
    """Return name and good images of the first classes; those without any are left out."""
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
    """Draw how the mean luminance of images is spread."""
    figure = new_figure()
    axes = new_axes(
        figure, title="Brightness", x="mean luminance (0 black, 255 white)", y="share of the class's images"
    )
    groups = [(name, table["brightness"].astype(np.float64)) for name, table in _good(records)]
    _histogram(axes, groups, np.linspace(0, 255, _BINS + 1))
    axes.set_xlim(0, 255)
    return figure


def file_sizes(records: Records) -> Figure:
    """Draw how file sizes are spread, on a logarithmic scale."""
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
    """Draw how JPEG qualities are spread; None if there is no JPEG."""
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
    found = [np.unique(table["format"], return_counts=True) for _, table in groups]
    names = sorted({str(name) for distinct, _ in found for name in distinct})
    figure = new_figure((SIZE[0], 1.3 + 0.3 * len(names) * len(groups)))
    axes = new_axes(figure, title="Formats", x="share of the class's images", y="")
    height = 0.8 / len(groups)
    for number, ((name, table), (distinct, counts)) in enumerate(zip(groups, found, strict=True)):
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
    """Draw the highest AUC of each cue over the splits as a bar from 0.5, which is guessing."""
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
