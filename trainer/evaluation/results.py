"""The results of an evaluation, from a model's answers: ``metrics.json``, ``predictions.csv`` and ``report.html``.

Does not own: answers (``split_scores.py``), figures (``metrics.py``), what the page says (``page.py``).
"""

import json
from typing import Any

from trainer import files, metrics, serving
from trainer.curves import read_curves
from trainer.data.manifest import Split
from trainer.evaluation import calibration, gallery, groups, page, predictions_csv, provenance, sources
from trainer.evaluation.request import EvaluateFlags
from trainer.evaluation.scored import Scored
from trainer.evaluation.split_scores import Predictions

_MISTAKES_SHOWN = 36
_SAMPLES_OF_A_CLASS = 6
_FROM_EXPORT = ("step", "epoch", "created")


def write(
    export: serving.Export,
    predictions: Predictions,
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
        audit: of the data, see ``audit/digest.py``; None without one.
    """
    split = predictions.split
    scored = Scored.of(split.labels, predictions.probabilities, export.class_names, export.positive, export.threshold)
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
    files.write_text(files.join(request.out, "predictions.csv"), predictions_csv.to_csv(scored, split.names))
    _write_page(export, scored, split, figures, request)
    return figures


def _about(export: serving.Export, predictions: Predictions, request: EvaluateFlags) -> dict[str, Any]:
    """Return what was evaluated, and how."""
    return {
        "split": request.split,
        "data_dir": request.data_dir,
        "class_names": list(export.class_names),
        "positive_class": export.positive_class,
        "skipped": len(predictions.skipped),
        "model": {"path": export.path, **{name: export.details.get(name) for name in _FROM_EXPORT}},
        "bootstrap": request.bootstrap,
        "seed": request.seed,
    }


def _write_page(
    export: serving.Export, scored: Scored, split: Split, figures: dict[str, Any], request: EvaluateFlags
) -> None:
    job_dir, worst = provenance.job_of(export.path), gallery.worst_mistakes(scored)[:_MISTAKES_SHOWN]
    maps = gallery.explain(export, split, worst.tolist())
    beside = page.Beside(
        mistakes=gallery.pictures(split, scored, worst, maps),
        no_heat_maps=maps.why_not,
        samples=gallery.pictures(split, scored, gallery.spread_samples(scored, _SAMPLES_OF_A_CLASS)),
        curves=read_curves(job_dir),
        details=export.details,
        counts=provenance.counts(job_dir, figures),
        made={**provenance.scored("trainer.evaluate", request), **provenance.trained(job_dir, export.details)},
    )
    files.write_text(files.join(request.out, "report.html"), page.render(figures, scored, beside))
