"""The audit of a data set, its files and its page: verdict, counts, samples, plots, duplicates, cues, broken files.

Owns: the order of work, words.  Does not own: numbers (``data/audit/``), drawings (``audit_charts.py``), pictures
(``audit_gallery.py``).
"""

import datetime
import json
from collections.abc import Mapping, Sequence, Set
from typing import Any

from trainer.core import progress, terminal
from trainer.core.storage import files
from trainer.data.audit import cues, digest, duplicates, rescued, scan, suggestion
from trainer.data.audit import summary as summaries
from trainer.data.audit.cues import FILE, PICTURE, Finding
from trainer.data.audit.duplicates import Duplicates
from trainer.data.audit.request import AuditFlags
from trainer.data.audit.scan import Records
from trainer.data.layouts import overlap
from trainer.data.manifest import Split
from trainer.reports import audit_charts, audit_gallery, audit_labels, charts, html, plots
from trainer.reports.audit_labels import Doubt

_ROWS = 200
_EMBEDDED = 100_000  # Names of the suggested drop list in the page itself.


def audit(splits: Sequence[Split], request: AuditFlags) -> dict[str, Any]:
    """Audit the splits, write ``audit.json``, ``audit.html`` and the lists beside them, and return the first."""
    doubts = audit_labels.read(request.evaluation, splits) if request.evaluation else []
    records = scan.scan(splits, workers=request.workers, max_image_pixels=request.max_image_pixels)
    with progress.phase("looking for copies"):
        copies = duplicates.find(records, request.near_distance)
    with progress.phase("looking for what gives the class away"):
        findings = cues.find(records, request.cue_auc)
    chosen = suggestion.positions(copies)
    settings = {
        "data_dir": files.printable(request.data_dir),
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **{name: getattr(request, name) for name in ("max_image_pixels", "near_distance", "cue_auc")},
    }
    summary = summaries.summarise(copies, findings, chosen, settings)
    summary["likely_wrong_labels"] = audit_labels.as_json(doubts, request.evaluation)
    with progress.phase("writing the report"):
        text = json.dumps(summary, indent=1, allow_nan=False)
        files.write_text(files.join(request.out, digest.AUDIT_FILE), text + "\n")
        files.write_text(files.join(request.out, suggestion.FILE), suggestion.text(copies, chosen))
        files.write_text(files.join(request.out, rescued.FILE), rescued.table(records))
        page = files.join(request.out, "audit.html")
        files.write_text(page, render(copies, findings, chosen, doubts, summary, page))
    return summary


def summary_table(summary: Mapping[str, Any], out: str) -> str:
    """Return the short text that ends the command."""
    lines = []
    for split, classes in summary["counts"].items():
        counts = ", ".join(f"{name} {count['images']:,}" for name, count in classes.items())
        bad = sum(count["bad"] for count in classes.values())
        lines.append(f"{split:<12}{counts}{f'; {bad:,} broken' if bad else ''}")
    if number := sum(summary["rescued"].values()):
        lines.append(f"{'rescued':<12}{number:,} images that not every decoder reads, in {rescued.FILE}")
    exact, near = summary["exact"], summary["near"]
    lines.append(f"{'equal':<12}{exact['groups']:,} pictures in {exact['images']:,} files")
    lines.append(f"{'similar':<12}{near['inside']:,} pairs in a class, {near['across_classes']:,} across classes")
    clusters = f"{summary['clusters']['count']:,} clusters of {summary['clusters']['images']:,} images"
    lines.append(f"{'copies':<12}{clusters}; {summary['suggested_drop']:,} images in {suggestion.FILE}")
    if summary["likely_wrong_labels"]:
        lines.append(f"{'labels':<12}{len(summary['likely_wrong_labels']['listed']):,} likely wrong")
    lines += [f"{'sources':<12}{text}" for text in [_sources(summary)] if text]
    lines += [f"{'PROBLEM':<12}{text}" for text in summary["strict_failures"]]
    for cue in summary["cues"]:
        if cue["flagged"]:
            best = max(value for value in cue["auc"].values() if value is not None)
            lines.append(f"{'cue':<12}{cue['title']}: AUC {best:.3f} ({', '.join(cue['flagged'])})")
    if not summary["strict_failures"]:
        lines.append(f"{'leakage':<12}none found, nor equal files in two classes")
    return "\n".join([*lines, f"{'report':<12}{terminal.link(files.join(out, 'audit.html'))}"])


def _sources(summary: Mapping[str, Any]) -> str:
    """Return whether a source is in several splits, a sentence; empty: no source is known."""
    found = summary["sources"]
    return overlap.words(found) if found else ""


def render(
    copies: Duplicates, findings: Sequence[Finding], chosen: Set[int], doubts: Sequence[Doubt],
    summary: Mapping[str, Any], page: str,
) -> str:  # fmt: skip
    """Return the page with the path ``page``.

    Images are read again for thumbnails, and files that have disappeared are left out.
    """
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
        samples=list(audit_gallery.samples(records, page)),
        drawings=_drawings(records),
        clusters=audit_gallery.clusters(copies, page),
        odd=audit_gallery.odd(records, page),
        doubts=audit_gallery.doubts(records, doubts, page),
        drop_file=suggestion.FILE,
        rescued_file=rescued.FILE,
        suggested=audit_gallery.suggested(records, chosen, _EMBEDDED),
        cues=html.draw(
            audit_charts.cue_bars(findings, flag_auc),
            "Bars of the AUC of each cue, from 0.5",
            "The highest of the splits. Hatched bars are flagged.",
        ),
        flagged=[_flagged_row(finding) for finding in findings if finding.flagged],
        all_cues=[_cue_row(finding) for finding in findings],
        rows=_ROWS,
        style=charts.style_of("figures.css"),
        scripts=[charts.script_of(name) for name in ("tables.js", "lightbox.js", "clusters.js")],
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
    if summary["suggested_drop"]:
        lines.append(("do", f"Leave out {summary['suggested_drop']:,} copies, leaks and conflicts, after a look at the "
                            f"clusters below: --drop={suggestion.FILE} of pack and train."))  # fmt: skip
    if doubtful := (summary["likely_wrong_labels"] or {}).get("listed"):
        lines.append(("do", f"Look at {len(doubtful):,} labels that the model contradicts with confidence."))
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
        lines.append(
            ("do", f"Repair or remove {len(summary['bad']):,} files that cannot be decoded; training skips them.")
        )
    if summary["rotated"]:
        lines.append(("good", f"{summary['rotated']:,} images are turned as their EXIF says, here and in training."))
    if not copies.complete:
        lines.append(("note", "So many images look alike that not all pairs were compared; there are more."))
    return [{"kind": kind, "text": text} for kind, text in lines]


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
