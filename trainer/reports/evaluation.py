"""The results of one evaluation: ``metrics.json``, ``predictions.csv`` and ``report.html``.

Owns: what the files hold, and the words of the page.  Does not own: metrics (``evaluation/metrics/``), drawings and
optional sections (``evaluation_sections.py``), layout and style (``templates/``).
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer.core.storage import files
from trainer.data.manifest import Split
from trainer.evaluation import calibration, chance, groups, metrics, provenance, sources, videos
from trainer.evaluation import predictions as predictions_lib
from trainer.evaluation.predict_split import SplitPredictions
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.request import EvaluateFlags
from trainer.evaluation.training_curves import Curves, read_curves
from trainer.reports import charts, console, evaluation_sections, gallery, html, metric_titles, plots, thresholds
from trainer.reports import training as training_report
from trainer.serving import exported_model

_FROM_EXPORT = ("step", "epoch", "monitor", "precision", "image_size", "created", "validation")


@dataclasses.dataclass(frozen=True)
class PageContext:
    """What the page shows besides metrics.

    Attributes:
        images: those of the galleries.
        curves: the training curves, if they are known.
        details: the metadata of the export.
        counts: number of images by split and class.
        made: by title, how the model and the evaluation were made.
    """

    images: gallery.Gallery
    curves: Curves | None
    details: Mapping[str, Any]
    counts: Mapping[str, Mapping[str, int]]
    made: Mapping[str, str]


def render(figures: Mapping[str, Any], predictions: Predictions, context: PageContext) -> str:
    """Return the page.

    Args:
        figures: the contents of ``metrics.json``.
        predictions: those that the figures were computed from.
        context: everything else that the page shows.
    """
    positive = predictions.class_names[predictions.positive]
    others = [name for name in predictions.class_names if name != positive]
    rest = others[0] if len(others) == 1 else "the rest"
    counts = plots.class_counts(context.counts)
    page = html.templates().get_template("evaluation.html")
    return page.render(
        figures=figures,
        warning=console.no_use(figures),
        positive=positive,
        rest=rest,
        tiles=_tiles(figures),
        sentences=[
            *_sentences(figures, positive, rest),
            *evaluation_sections.weakest(figures),
            *evaluation_sections.videos(figures),
            *evaluation_sections.doubts(figures),
        ],
        matrix=_matrix(figures),
        drawings=evaluation_sections.drawings(figures, predictions),
        thresholds=thresholds.of_predictions(predictions),
        scripts=[charts.script_of(name) for name in ("tables.js", "lightbox.js", "gallery.js", "thresholds.js")],
        style=charts.style_of("charts.css", "gallery.css"),
        no_ranking=figures["undefined"].get("auc", ""),
        images=context.images,
        mistakes_text=_mistakes_text(predictions, context.images),
        training=training_report.drawings(context.curves) if context.curves else [],
        rows=_rows(figures, positive, rest),
        interval_text=metric_titles.intervals(figures),
        by_class=_by_class(figures),
        groups=evaluation_sections.groups(figures),
        robustness=evaluation_sections.robustness(figures),
        threshold_text=" ".join(evaluation_sections.threshold(figures, positive)),
        about={name: _plain(context.details[name]) for name in _FROM_EXPORT if name in context.details},
        settings=context.details.get("config") or {},
        audit=evaluation_sections.audit(figures.get("audit"), figures["split"], figures["auc"]),
        data=[html.draw(counts, training_report.spoken(context.counts), "Images that were found and could be read.")],
        made=context.made,
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
    """Return the main figures as sentences."""
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
    """Return a value of the export's metadata as text."""
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


def _mistakes_text(predictions: Predictions, images: gallery.Gallery) -> str:
    wrong = int((predictions.predicted != predictions.labels).sum())
    text = f"{wrong:,} of {len(predictions.labels):,} images were misclassified."
    if images.unlisted:
        text += (
            f" The {images.unlisted:,} that are least wrong do not fit into this page and are in predictions.csv alone."
        )
    return text


def _by_class(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of the table by class; the last is the plain average."""
    average = ("average", {**figures["macro"], "n": figures["n"]})
    rows = []
    for name, values in [*figures["per_class"].items(), average]:
        shown = [html.number(values[figure], share=True) for figure in ("precision", "recall", "f1")]
        rows.append({"name": name, "shown": [*shown, f"{values['n']:,}"]})
    return rows


_EXPORT_IDENTITY = ("step", "epoch", "created")


def write(
    export: exported_model.ExportedModel,
    split_predictions: SplitPredictions,
    request: EvaluateFlags,
    image_sources: sources.Sources,
    columns: sources.Columns,
    audit: dict[str, Any] | None,
) -> dict[str, Any]:
    """Compute all results and write the three files; return the contents of ``metrics.json``.

    Args:
        export: the model.
        split_predictions: its probabilities for the split.
        request: settings.
        image_sources: the unit of resampling, for the scored images.
        columns: of the table of groups, for the scored images.
        audit: findings of an audit of the data (``digest.py``); None without one.
    """
    split = split_predictions.split
    predictions = Predictions.of(
        split.labels, split_predictions.probabilities, export.class_names, export.positive, export.threshold
    )
    figures = _figures(export, split_predictions, predictions, request, image_sources)
    figures |= {"audit": audit} if audit else {}
    if export.details.get("temperature", 1.0) != 1.0:
        figures["calibration"] = calibration.effect(predictions, export.details["temperature"])
    figures |= _of_parts(predictions, split, request, image_sources, columns)
    if request.robustness:
        figures["robustness"] = _robustness(export, split_predictions, request, image_sources)
    text = json.dumps(figures, indent=1, allow_nan=False)
    files.write_text(files.join(request.out, "metrics.json"), text + "\n")
    files.write_text(files.join(request.out, "predictions.csv"), predictions_lib.to_csv(predictions, split.names))
    _write_page(export, predictions, split, figures, request, columns)
    return figures


def _figures(
    export: exported_model.ExportedModel,
    split_predictions: SplitPredictions,
    predictions: Predictions,
    request: EvaluateFlags,
    image_sources: sources.Sources,
) -> dict[str, Any]:
    """Return the figures of all images together."""
    figures = {
        **_about(export, split_predictions, request),
        "drawn": image_sources.describe(len(split_predictions.split)),
        **metrics.measure(predictions, resamples=request.bootstrap, seed=request.seed, sources=image_sources.numbers),
        "threshold_choice": export.details.get("threshold_choice"),
    }
    return figures | learned(figures, predictions)


def _of_parts(
    predictions: Predictions,
    split: Split,
    request: EvaluateFlags,
    image_sources: sources.Sources,
    columns: sources.Columns,
) -> dict[str, Any]:
    """Return the figures of groups, and of whole videos, as far as it is known which images are of one."""
    chance_of = {"resamples": request.bootstrap, "seed": request.seed}
    figures: dict[str, Any] = {}
    if columns:
        figures["groups"] = groups.measure(predictions, columns, image_sources, **chance_of)
    videos_of = videos.numbers(split, image_sources)
    if videos_of is not None:
        figures["videos"] = videos.measure(predictions, videos_of, columns, image_sources, **chance_of)
    return figures


def _robustness(
    export: exported_model.ExportedModel,
    split_predictions: SplitPredictions,
    request: EvaluateFlags,
    image_sources: sources.Sources,
) -> dict[str, Any]:
    from trainer.evaluation import robustness  # Loads TensorFlow.

    return robustness.measure(
        export, split_predictions.split, split_predictions.numbers, image_sources,
        limit=request.robustness_images, resamples=request.bootstrap, seed=request.seed,
    )  # fmt: skip


def learned(figures: Mapping[str, Any], predictions: Predictions) -> dict[str, Any]:
    """Return the entries that say whether the model tells this split's classes apart better than by guessing.

    ``learned`` is None, as nothing is known, where the images are of one class.
    """
    positives = int(predictions.is_positive.sum())
    negatives = len(predictions.labels) - positives
    # The bootstrap's interval, which knows of sources; without resamples that of the numbers of images.
    interval = figures["ci95"]["auc"] or chance.interval(figures["auc"], positives, negatives)
    spread = float(np.ptp(predictions.probabilities, axis=0).max()) if len(predictions.labels) > 1 else None
    if not positives or not negatives:
        return {"learned": None, "learned_because": "the images are of one class"}
    assessment = chance.assess(chance.Evidence(figures["auc"], interval, spread=spread), figures["split"])
    return {"learned": assessment.learned, "learned_because": assessment.because}


def _about(
    export: exported_model.ExportedModel, split_predictions: SplitPredictions, request: EvaluateFlags
) -> dict[str, Any]:
    """Return the entries that identify model, data and settings."""
    return {
        "split": request.split,
        "data_dir": request.data_dir,
        "class_names": list(export.class_names),
        "positive_class": export.positive_class,
        "skipped": len(split_predictions.skipped),
        "model": {"path": export.path, **{name: export.details.get(name) for name in _EXPORT_IDENTITY}},
        "bootstrap": request.bootstrap,
        "seed": request.seed,
    }


def _write_page(
    export: exported_model.ExportedModel,
    predictions: Predictions,
    split: Split,
    figures: dict[str, Any],
    request: EvaluateFlags,
    columns: sources.Columns,
) -> None:
    job_dir, page = provenance.job_of(export.path), files.join(request.out, "report.html")
    context = PageContext(
        images=gallery.build(export, split, predictions, columns, page),
        curves=read_curves(job_dir),
        details=export.details,
        counts=provenance.counts(job_dir, figures),
        made={**provenance.scored("trainer.evaluate", request), **provenance.trained(job_dir, export.details)},
    )
    files.write_text(page, render(figures, predictions, context))
