"""The audit of a data set, its files and its page: verdict, counts, samples, plots, duplicates, cues, broken files.

Owns: the order of work, words, the choice of images.  Does not own: numbers (``data/audit/``), drawings
(``audit_charts.py``).
"""

import dataclasses
import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from trainer.core.errors import StoppedEarly
from trainer.core.storage import files
from trainer.core.storage.transient import is_transient
from trainer.data.audit import cues, digest, duplicates, scan
from trainer.data.audit import summary as summaries
from trainer.data.audit.cues import FILE, PICTURE, Finding
from trainer.data.audit.duplicates import Duplicates, Pair
from trainer.data.audit.request import AuditFlags
from trainer.data.audit.scan import Records
from trainer.data.formats import rescue
from trainer.data.layouts import overlap
from trainer.data.manifest import Split
from trainer.reports import audit_charts, html, plots

_THUMBNAIL = 160  # Pixels of the longer side.
_SAMPLES = 120
_SAMPLES_OF_A_CLASS = 6
_PAIRS = {"across_splits": 12, "across_classes": 12, "inside": 6}
_ROWS = 200


def audit(splits: Sequence[Split], request: AuditFlags) -> dict[str, Any]:
    """Audit the splits, write ``audit.json`` and ``audit.html``, and return the contents of the first."""
    records = scan.scan(splits, workers=request.workers, max_image_pixels=request.max_image_pixels)
    copies = duplicates.find(records, request.near_distance)
    findings = cues.find(records, request.cue_auc)
    settings = {
        "data_dir": files.printable(request.data_dir),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **{name: getattr(request, name) for name in ("max_image_pixels", "near_distance", "cue_auc")},
    }
    summary = summaries.summarise(copies, findings, settings)
    text = json.dumps(summary, indent=1, allow_nan=False)
    files.write_text(files.join(request.out, digest.AUDIT_FILE), text + "\n")
    files.write_text(files.join(request.out, "audit.html"), render(copies, findings, summary))
    return summary


def summary_table(summary: Mapping[str, Any], out: str) -> str:
    """Return the short text that ends the command."""
    lines = []
    for split, classes in summary["counts"].items():
        counts = ", ".join(f"{name} {count['images']:,}" for name, count in classes.items())
        bad = sum(count["bad"] for count in classes.values())
        lines.append(f"{split:<12}{counts}{f'; {bad:,} broken' if bad else ''}")
    exact, near = summary["exact"], summary["near"]
    lines.append(f"{'equal':<12}{exact['groups']:,} pictures in {exact['images']:,} files")
    lines.append(f"{'similar':<12}{near['inside']:,} pairs in a class, {near['across_classes']:,} across classes")
    lines += [f"{'sources':<12}{text}" for text in [_sources(summary)] if text]
    lines += [f"{'PROBLEM':<12}{text}" for text in summary["strict_failures"]]
    for cue in summary["cues"]:
        if cue["flagged"]:
            best = max(value for value in cue["auc"].values() if value is not None)
            lines.append(f"{'cue':<12}{cue['title']}: AUC {best:.3f} ({', '.join(cue['flagged'])})")
    if not summary["strict_failures"]:
        lines.append(f"{'leakage':<12}none found, nor equal files in two classes")
    return "\n".join([*lines, f"{'report':<12}{files.join(out, 'audit.html')}"])


def _sources(summary: Mapping[str, Any]) -> str:
    """Return whether a source is in several splits, a sentence; empty: no source is known."""
    found = summary["sources"]
    return overlap.words(found) if found else ""


@dataclasses.dataclass(frozen=True)
class _Twins:
    """A pair of images side by side, and how similar they are."""

    pictures: tuple[html.Picture, ...]
    caption: str


def render(copies: Duplicates, findings: Sequence[Finding], summary: Mapping[str, Any]) -> str:
    """Return the page; images are read again for thumbnails, and files that have disappeared are left out."""
    records = copies.records
    flag_auc = summary["settings"]["cue_auc"]
    template = html.templates().get_template("audit.html")
    return template.render(
        data_dir=files.printable(summary["settings"]["data_dir"]),
        summary=summary,
        tiles=_tiles(copies, findings, summary),
        verdicts=_verdicts(copies, findings, summary),
        counts=html.draw(
            plots.class_counts({split.name: split.counts for split in records.splits}),
            "Bars of the number of images by split and class",
            "Files that were found; what of them is broken is in the table.",
        ),
        samples=list(_samples(records)),
        drawings=_drawings(records),
        pairs={kind: list(_twins(copies, kind)) for kind in _PAIRS},
        cues=html.draw(
            audit_charts.cue_bars(findings, flag_auc),
            "Bars of the AUC of each cue, from 0.5",
            "The highest of the splits. Hatched bars are flagged.",
        ),
        flagged=[_flagged_row(finding) for finding in findings if finding.flagged],
        all_cues=[_cue_row(finding) for finding in findings],
        rows=_ROWS,
    )


def _tiles(copies: Duplicates, findings: Sequence[Finding], summary: Mapping[str, Any]) -> list[dict[str, str]]:
    flagged = sum(finding.cue.level == FILE for finding in findings if finding.flagged)
    shared = [each for others in summary["leakage"].values() for each in others.values()]
    leaked, near = (sum(each[kind] for each in shared) for kind in ("exact", "near"))
    return [
        {"name": "Images", "value": f"{summary['images']:,}", "note": f"{len(summary['class_names'])} classes"},
        {"name": "Broken", "value": f"{len(summary['bad']):,}", "note": "cannot be decoded"},
        {"name": "Leaked", "value": f"{leaked + near:,}", "note": f"{leaked:,} equal, {near:,} alike, across splits"},
        {
            "name": "Label conflicts",
            "value": f"{len(copies.label_conflicts):,}",
            "note": "pictures in two classes, byte for byte",
        },
        {"name": "Telling cues", "value": f"{flagged:,}", "note": "without looking at the picture"},
    ]


def _verdicts(copies: Duplicates, findings: Sequence[Finding], summary: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return problems and what to do about them, the most serious first."""
    lines = [("bad", f"{text}.") for text in summary["strict_failures"]]
    if summary["drop_leaks"]:
        count = len(summary["drop_leaks"])
        lines.append(("do", f"To end the leakage drop {count:,} images from Train and Validation (drop_leaks)."))
    if text := _sources(summary):
        shared = ("do", "; draw the splits by source.") if summary["sources"]["shared"] else ("good", ".")
        lines.append((shared[0], f"{text[0].upper()}{text[1:]}{shared[1]}"))
    if not summary["strict_failures"] and not summary["drop_leaks"]:
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
    if summary["rotated"]:
        lines.append(("good", f"{summary['rotated']:,} images are turned as their EXIF says, here and in training."))
    if not copies.complete:
        lines.append(("do", "So many images look alike that not all pairs were compared; there are more."))
    return [{"kind": kind, "text": text} for kind, text in lines]


def _samples(records: Records) -> Iterable[dict[str, Any]]:
    """Yield some images of every class of every split, evenly spread over the good ones."""
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
        small = Image.fromarray(rescue.decode(files.read_bytes(records.path(index))))
        small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    except StoppedEarly:
        raise
    except Exception as error:  # It was good when it was scanned; the page is useful without it.
        if is_transient(error):
            raise
        return None
    name = files.printable(records.names[index])
    row = records.table[index]
    size = f"{row['width']} x {row['height']}, {row['format']}, {row['bytes'] / 1000:.0f} kB"
    return html.picture(small, name, size)


def _drawings(records: Records) -> list[html.Drawing]:
    if not records.table["ok"].any():
        return []
    figures = [
        (
            audit_charts.dimensions(records),
            "Bubbles of width against height",
            "A bubble's area is its share of the class.",
        ),
        (audit_charts.file_sizes(records), "Histogram of file sizes", "All splits together, here and in the others."),
        (audit_charts.brightness(records), "Histogram of brightness", "Mean luminance of each image."),
        (audit_charts.qualities(records), "Histogram of JPEG qualities", "Estimated from the quantisation tables."),
        (audit_charts.formats(records), "Bars of file formats", "By content, not by file name."),
    ]
    return [html.draw(figure, alt, caption) for figure, alt, caption in figures if figure]


def _twins(copies: Duplicates, kind: str) -> Iterable[_Twins]:
    """Yield pairs of images to look at, equal files first."""
    remaining = _PAIRS[kind]
    for pair in _first_pairs(copies, kind):
        pictures = tuple(p for index in (pair.first, pair.second) if (p := _picture(copies.records, index)))
        if len(pictures) == 2:
            text = f"{pair.distance} of 64 bits apart, correlation {pair.correlation:.3f}"
            yield _Twins(pictures, "equal files" if pair.distance < 0 else text)
            remaining -= 1
        if not remaining:
            return


def _first_pairs(copies: Duplicates, kind: str) -> Iterable[Pair]:
    """Yield the pairs of one kind; equal files have distance -1."""
    for group in copies.exact:
        second = next((index for index in group[1:] if _kind_fits(copies, kind, group[0], index)), None)
        if second is not None:
            yield Pair(group[0], second, -1, 1.0)
    yield from (pair for pair in copies.near if _kind_fits(copies, kind, pair.first, pair.second))


def _kind_fits(copies: Duplicates, kind: str, first: int, second: int) -> bool:
    splits = copies.crosses_splits(first, second)
    classes = copies.crosses_classes(first, second)
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
    """Return a typical value as text: the median of a number, or the most common category with its share."""
    if isinstance(value, Mapping):
        return f"{value['value'] or 'none'} ({value['share']:.0%})"
    return f"{value:,.4g}" if abs(value) < 10_000 else f"{value:,.0f}"


def _cue_row(finding: Finding) -> dict[str, Any]:
    auc_by_split = {split: "undefined" if value is None else f"{value:.3f}" for split, value in finding.auc.items()}
    return {"title": finding.cue.title, "level": finding.cue.level, "auc": auc_by_split}
