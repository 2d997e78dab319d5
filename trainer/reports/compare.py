"""The comparison of evaluations as ``compare.json``, as a page and on the terminal.

Does not own: the numbers (``evaluation/compare.py``), layout (``templates/``).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.core import progress, terminal
from trainer.core.storage import files
from trainer.evaluation import compare, metrics
from trainer.evaluation.compare import Evaluation
from trainer.evaluation.metrics import Metric
from trainer.reports import charts, compare_figures, evaluation_plots, html
from trainer.reports.compare_figures import signed

_MAIN = ("accuracy", "auc")  # Metrics in the sentences and on the terminal.


def write(folders: str, out: str, *, group_by: str, groups: str, resamples: int, seed: int) -> str:
    """Write ``compare.json`` and ``compare.html`` of finished evaluations; return the text to print.

    Args:
        folders: of evaluations, separated by commas.
        out: folder for the results.
        group_by: see ``compare.find_sources``.
        groups: CSV of groups, or empty.
        resamples: see ``compare.measure``.
        seed: of the resamples.

    Raises:
        RequestError: if the evaluations cannot be compared, or ``out`` cannot be written.
    """
    evaluations = compare.in_common(compare.read_evaluations(folders))
    image_sources, note = compare.find_sources(evaluations[0], group_by, groups)
    files.require_writable(out, "out")
    with progress.phase(f"comparing {len(evaluations)} evaluations"):
        compared = compare.measure(evaluations, image_sources, resamples=resamples, seed=seed)
    text = json.dumps(compared, indent=1, allow_nan=False)
    files.write_text(files.join(out, "compare.json"), text + "\n")
    page = files.join(out, "compare.html")
    files.write_text(page, render(compared, evaluations, note, page))
    return f"{to_text(compared)}\n  report: {terminal.link(page)}"


def render(compared: Mapping[str, Any], evaluations: Sequence[Evaluation], note: str, path: str) -> str:
    """Return ``compare.html``.

    Args:
        compared: the contents of ``compare.json``.
        evaluations: restricted to the images in common.
        note: a sentence about sources that are not known; may be empty.
        path: of the page, to which its links are relative.
    """
    runs = compared["runs"]
    figures = {name: metric for name, metric in metrics.all_metrics().items() if name in runs[0]["ci95"]}
    main = next((name for name in ("auc", "macro.auc") if name in figures), "accuracy")
    page = html.templates().get_template("compare.html")
    disagreements, why_no_pictures = compare_figures.disagreements(compared, path)
    return page.render(
        compared=compared,
        first=runs[0]["name"],
        sentences=[*_sentences(compared), *_warnings(compared), *([note] if note else [])],
        titles={name: metric.title for name, metric in figures.items()},
        lower={name for name, metric in figures.items() if metric.lower_is_better},
        values={name: [_value(run, name) for run in runs] for name in figures},
        differences={
            run: {name: _cell(row[name], metric.is_share) for name, metric in figures.items()}
            for run, row in compared["differences"].items()
        },
        forests=compare_figures.forests(compared, main),
        further_forests=[each for name in figures if name != main for each in compare_figures.forests(compared, name)],
        disagreements=disagreements,
        why_no_pictures=why_no_pictures,
        style=charts.style_of("figures.css"),
        scripts=[charts.script_of(name) for name in ("tables.js", "lightbox.js")],
        undefined=_undefined(runs, figures),
        drawings=_drawings(compared, evaluations),
        interval_text=_interval_text(compared),
    )


def to_text(compared: Mapping[str, Any]) -> str:
    """Return the summary that the command prints."""
    lines = [f"{compared['images']:,} images in common"]
    width = max(len(run["name"]) for run in compared["runs"])
    for run in compared["runs"]:
        shown = [f"{metrics.all_metrics()[name].title} {_number(metrics.by_name(run, name))}" for name in _MAIN]
        lines.append(f"  {run['name']:<{width}}  {'  '.join(shown)}")
    return "\n".join([*lines, *(f"  {sentence}" for sentence in _sentences(compared)[1:])])


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


def _sentences(compared: Mapping[str, Any]) -> list[str]:
    first = compared["runs"][0]["name"]
    sentences = [
        f"{compared['images']:,} images are in all of the {len(compared['runs'])} evaluations; "
        f"{compared['answered_differently']:,} of them get different answers."
    ]
    for run, row in compared["differences"].items():
        for name in _MAIN:
            metric = metrics.all_metrics()[name]
            cell = _cell(row[name], metric.is_share)
            if row[name]["verdict"]:
                how = f"{cell['value']}; 95% interval {cell['note']}"
                sentences.append(f"{metric.title} of {run} against {first}: {cell['verdict']} ({how}).")
    return sentences


def _warnings(compared: Mapping[str, Any]) -> list[str]:
    """Return sentences on what may weaken the comparison."""
    runs, warnings = compared["runs"], []
    partial = [f"{run['name']} ({run['images']:,})" for run in runs if run["images"] > compared["images"]]
    if partial:
        warnings.append(f"Not all images of {', '.join(partial)} are in common; the others are left out here.")
    folders = list(dict.fromkeys(run["data_dir"] for run in runs))
    if len(folders) > 1:
        warnings.append(
            f"The evaluations name different data folders ({', '.join(map(str, folders))}). Images are matched by "
            "path, so the comparison holds only if these are the same images."
        )
    return warnings


def _value(run: Mapping[str, Any], name: str) -> dict[str, str]:
    share = metrics.all_metrics()[name].is_share
    interval = run["ci95"].get(name)
    note = html.span(interval, share) if interval else ""
    value = metrics.by_name(run, name)
    return {"value": html.number(value, share), "note": note, "raw": "" if value is None else f"{value:.6g}"}


def _undefined(runs: Sequence[Mapping[str, Any]], figures: Mapping[str, Metric]) -> list[str]:
    """Return why metrics are undefined, each reason once."""
    reasons = (f"{metric.title}: because {run['undefined'][name]}"
               for name, metric in figures.items() for run in runs if name in run["undefined"])  # fmt: skip
    return list(dict.fromkeys(reasons))


def _cell(difference: Mapping[str, Any], share: bool) -> dict[str, str]:
    if difference["difference"] is None:
        return {"value": "undefined", "note": "", "verdict": "", "raw": ""}
    note = " to ".join(signed(end, share) for end in difference["ci95"]) if difference["ci95"] else ""
    value = difference["difference"]
    return {"value": signed(value, share), "note": note, "verdict": difference["verdict"] or "", "raw": f"{value:.6g}"}


def _drawings(compared: Mapping[str, Any], evaluations: Sequence[Evaluation]) -> list[html.Drawing]:
    if any(run["auc"] is None for run in compared["runs"]):
        return []
    areas = ", ".join(f"{run['name']} {run['auc']:.3f}" for run in compared["runs"])
    return [
        html.draw(
            evaluation_plots.rocs({one.name: one.predictions for one in evaluations}),
            f"ROC curves of all evaluations; areas: {areas}",
            f"On the images in common. Areas: {areas}.",
        )
    ]


def _interval_text(compared: Mapping[str, Any]) -> str:
    if not compared["bootstrap"]:
        return "There are no intervals here (--bootstrap=0), so no difference can be called clear."
    units = compared["drawn"]
    return (
        f"Intervals: percentile bootstrap over {units['count']:,} {units['unit']} ({units['rule']}), "
        f"{compared['bootstrap']:,} resamples, seed {compared['seed']}; a resample counts for all runs at once. A "
        "difference is clear if its interval does not hold 0. Of many comparisons of equal models, about one in twenty "
        "looks clear by chance."
    )
