"""The page about one evaluation, ``report.html``.

Owns: what it says in words.  Does not own: figures (``metrics.py``), drawings and optional sections (``sections.py``),
layout and style (``templates/``).  Imports no TensorFlow; images come as parts of a page.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.core.storage import files
from trainer.data.manifest import Split
from trainer.evaluation import calibration, groups, metrics, provenance, sources
from trainer.evaluation import predictions as predictions_lib
from trainer.evaluation.predict_split import SplitPredictions
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.request import EvaluateFlags
from trainer.evaluation.training_curves import Curves, read_curves
from trainer.reports import evaluation_sections, gallery, html, metric_titles, plots
from trainer.reports import training as training_report
from trainer.serving import exported_model

_FROM_EXPORT = ("step", "epoch", "monitor", "precision", "image_size", "created", "validation")


@dataclasses.dataclass(frozen=True)
class PageContext:
    """What the page shows beside figures.

    Attributes:
        mistakes: images that were called wrong, worst first.
        no_heat_maps: why the mistakes come without them; empty if they do not.
        samples: some images of each class.
        curves: the course of training, if it is known.
        details: what the export says of itself.
        counts: images by split and class.
        made: by title, how model and evaluation came about.
    """

    mistakes: Sequence[html.Picture]
    no_heat_maps: str
    samples: Sequence[html.Picture]
    curves: Curves | None
    details: Mapping[str, Any]
    counts: Mapping[str, Mapping[str, int]]
    made: Mapping[str, str]


def render(figures: Mapping[str, Any], scored: Predictions, beside: PageContext) -> str:
    """Return the page.

    Args:
        figures: what ``metrics.json`` holds.
        scored: the predictions behind it.
        beside: what else there is to show.
    """
    positive = scored.class_names[scored.positive]
    others = [name for name in scored.class_names if name != positive]
    rest = others[0] if len(others) == 1 else "the rest"
    counts = plots.class_counts(beside.counts)
    page = html.templates().get_template("evaluation.html")
    return page.render(
        figures=figures,
        positive=positive,
        rest=rest,
        tiles=_tiles(figures),
        sentences=[
            *_sentences(figures, positive, rest),
            *evaluation_sections.weakest(figures),
            *evaluation_sections.doubts(figures),
        ],
        matrix=_matrix(figures),
        drawings=evaluation_sections.drawings(figures, scored),
        no_ranking=figures["undefined"].get("auc", ""),
        mistakes=beside.mistakes,
        mistakes_text=_mistakes_text(scored, len(beside.mistakes)),
        no_heat_maps=beside.no_heat_maps,
        samples=beside.samples,
        training=training_report.drawings(beside.curves) if beside.curves else [],
        rows=_rows(figures, positive, rest),
        interval_text=metric_titles.intervals(figures),
        by_class=_by_class(figures),
        groups=evaluation_sections.groups(figures),
        robustness=evaluation_sections.robustness(figures),
        threshold_text=" ".join(evaluation_sections.threshold(figures, positive)),
        about={name: _plain(beside.details[name]) for name in _FROM_EXPORT if name in beside.details},
        settings=beside.details.get("config") or {},
        audit=evaluation_sections.audit(figures.get("audit"), figures["split"], figures["auc"]),
        data=[html.draw(counts, training_report.spoken(beside.counts), "Images that were found and could be read.")],
        made=beside.made,
    )


def _tiles(figures: Mapping[str, Any]) -> list[dict[str, str]]:
    tiles = []
    for row in metric_titles.rows(figures):
        if metrics.all_metrics()[row["name"]].tile:
            note = f"95% interval {row['note']}" if figures["ci95"][row["name"]] else row["note"]
            tiles.append({"name": row["title"], "value": row["value"], "note": note})
    return tiles


def _rows(figures: Mapping[str, Any], positive: str, rest: str) -> list[dict[str, str]]:
    return [
        {**row, "meaning": metrics.all_metrics()[row["name"]].meaning.format(positive=positive, rest=rest)}
        for row in metric_titles.rows(figures)
    ]


def _sentences(figures: Mapping[str, Any], positive: str, rest: str) -> list[str]:
    """Say in plain words what the main figures mean."""
    sentences = [f"Of 100 images like these, the model calls about {100 * figures['accuracy']:.0f} right."]
    interval = figures["ci95"]["accuracy"]
    if interval:
        low, high = (100 * value for value in interval)
        sentences[0] += f" The choice of images leaves room for {low:.0f} to {high:.0f} (95% interval)."
    recall, precision = (figures["per_class"][positive][name] for name in ("recall", "precision"))
    if recall is not None and precision is not None:
        sentences.append(
            f"Of 100 {positive} images it finds about {100 * recall:.0f}; of 100 images that it calls "
            f"{positive}, about {100 * precision:.0f} are (in a mix like this split's)."
        )
    if figures["auc"] is not None:
        sentences.append(
            f"Shown one {positive} image and one of {rest}, it gives the {positive} one the higher score in "
            f"{100 * figures['auc']:.1f} of 100 cases."
        )
    sentences.append(
        f"Its stated confidence is off by {100 * figures['ece']:.1f} percentage points on average. All this "
        "holds for images like these; other cameras, faces or ways of forging can be harder."
    )
    return sentences


def _plain(value: Any) -> str:
    """Return a detail of the export for a person to read."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _matrix(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for index, name in enumerate(figures["class_names"]):
        counts = figures["confusion_matrix"][index]
        total = sum(counts)
        cells = [
            {
                "count": count,
                "share": f"{count / total if total else 0:.3f}",
                "percent": f"{count / total:.1%}" if total else "no images",
                "right": column == index,
            }
            for column, count in enumerate(counts)
        ]
        rows.append({"name": name, "cells": cells})
    return rows


def _mistakes_text(scored: Predictions, shown: int) -> str:
    wrong = int((scored.predicted != scored.labels).sum())
    text = f"{wrong:,} of {len(scored.labels):,} images were called wrong"
    return f"{text}; {shown} are shown." if shown < wrong else f"{text}."


def _by_class(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the table by class, with the plain average below."""
    average = ("average", {**figures["macro"], "n": figures["n"]})
    rows = []
    for name, values in [*figures["per_class"].items(), average]:
        shown = [html.number(values[figure], share=True) for figure in ("precision", "recall", "f1")]
        rows.append({"name": name, "shown": [*shown, f"{values['n']:,}"]})
    return rows


_MISTAKES_SHOWN = 36
_SAMPLES_OF_A_CLASS = 6
_EXPORT_IDENTITY = ("step", "epoch", "created")


def write(
    export: exported_model.ExportedModel,
    predictions: SplitPredictions,
    request: EvaluateFlags,
    drawn: sources.Sources,
    columns: sources.Columns,
    audit: dict[str, Any] | None,
) -> dict[str, Any]:
    """Write the three files; return what ``metrics.json`` holds.

    Args:
        export: the model.
        predictions: its answers.
        request: settings.
        drawn: what the bootstrap draws, for each image that was scored.
        columns: of the table of groups, for each image that was scored.
        audit: of the data, see ``digest.py``; None without one.
    """
    split = predictions.split
    scored = Predictions.of(
        split.labels, predictions.probabilities, export.class_names, export.positive, export.threshold
    )
    figures = {
        **_about(export, predictions, request),
        "drawn": drawn.describe(len(split)),
        **metrics.measure(scored, resamples=request.bootstrap, seed=request.seed, sources=drawn.numbers),
        "threshold_choice": export.details.get("threshold_choice"),
    }
    if audit:
        figures["audit"] = audit
    if export.details.get("temperature", 1.0) != 1.0:
        figures["calibration"] = calibration.effect(scored, export.details["temperature"])
    if columns:
        figures["groups"] = groups.measure(scored, columns, drawn, resamples=request.bootstrap, seed=request.seed)
    if request.robustness:
        from trainer.evaluation import robustness  # Loads TensorFlow.

        figures["robustness"] = robustness.measure(
            export, split, predictions.numbers, drawn,
            limit=request.robustness_images, resamples=request.bootstrap, seed=request.seed,
        )  # fmt: skip
    text = json.dumps(figures, indent=1, allow_nan=False)
    files.write_text(files.join(request.out, "metrics.json"), text + "\n")
    files.write_text(files.join(request.out, "predictions.csv"), predictions_lib.to_csv(scored, split.names))
    _write_page(export, scored, split, figures, request)
    return figures


def _about(
    export: exported_model.ExportedModel, predictions: SplitPredictions, request: EvaluateFlags
) -> dict[str, Any]:
    """Return what was evaluated, and how."""
    return {
        "split": request.split,
        "data_dir": request.data_dir,
        "class_names": list(export.class_names),
        "positive_class": export.positive_class,
        "skipped": len(predictions.skipped),
        "model": {"path": export.path, **{name: export.details.get(name) for name in _EXPORT_IDENTITY}},
        "bootstrap": request.bootstrap,
        "seed": request.seed,
    }


def _write_page(
    export: exported_model.ExportedModel,
    scored: Predictions,
    split: Split,
    figures: dict[str, Any],
    request: EvaluateFlags,
) -> None:
    job_dir, worst = provenance.job_of(export.path), gallery.worst_mistakes(scored)[:_MISTAKES_SHOWN]
    maps = gallery.explain(export, split, worst.tolist())
    beside = PageContext(
        mistakes=gallery.pictures(split, scored, worst, maps),
        no_heat_maps=maps.why_not,
        samples=gallery.pictures(split, scored, gallery.spread_samples(scored, _SAMPLES_OF_A_CLASS)),
        curves=read_curves(job_dir),
        details=export.details,
        counts=provenance.counts(job_dir, figures),
        made={**provenance.scored("trainer.evaluate", request), **provenance.trained(job_dir, export.details)},
    )
    files.write_text(files.join(request.out, "report.html"), render(figures, scored, beside))
