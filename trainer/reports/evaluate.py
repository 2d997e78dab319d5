"""Evaluate an export on a split: check the request, score the images, write the report.

Owns: the order of work.  Does not own: predictions (``predict_split.py``), what is written (``evaluation.py``).
"""

import dataclasses
from typing import Any

from trainer.core.config import flags
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data.audit import digest
from trainer.data.manifest import Split, read_split
from trainer.evaluation import predict_split, provenance, sources
from trainer.evaluation.request import EvaluateFlags
from trainer.serving import exported_model


def evaluate(request: EvaluateFlags) -> dict[str, Any]:
    """Evaluate an export as requested, write its figures and report to ``--out``, and return the figures.

    Raises:
        RequestError: if flags, model or data are wrong.
    """
    flags.require(request, ("model_dir", "data_dir", "split", "out"))
    if files.is_remote(request.out):  # Leaves nothing behind, and listing a large bucket takes minutes.
        files.require_writable(request.out, "out")
    export = with_threshold(exported_model.find_export(request.model_dir), request.threshold)
    split = read_split(request.data_dir, request.split, export.class_names)
    if not len(split):
        raise RequestError(
            f"expected images in {files.join(request.data_dir, request.split)!r}, received empty folders"
        )
    columns = sources.read_groups(request.groups, split.names, split.name) if request.groups else {}
    drawn = sources.find_sources(request.group_by, split.names, columns)
    audit = find_audit(export, split, request)
    files.require_writable(request.out, "out")
    if request.update_card:
        files.require_writable(export.path, "update_card")
    predictions = predict_split.predict_split(export, split, request)
    columns = {name: [values[i] for i in predictions.numbers] for name, values in columns.items()}
    from trainer.reports import evaluation  # Late: its libraries are slow, and a wrong flag should be answered at once.

    return evaluation.write(export, predictions, request, drawn.select(predictions.numbers), columns, audit)


def find_audit(export: exported_model.ExportedModel, split: Split, request: EvaluateFlags) -> dict[str, Any] | None:
    """Return what there is to tell of an audit of the data, with ``differences`` from what is evaluated here.

    Raises:
        RequestError: if ``--audit`` names none.
    """
    found = digest.find(request.audit, (request.data_dir, provenance.job_of(export.path)))
    if found is None:
        return None
    here, trained = digest.listings(split.names), export.details.get("listings")
    return {**found, "differences": digest.differences(found["listings"], here, trained)}


def with_threshold(export: exported_model.ExportedModel, text: str) -> exported_model.ExportedModel:
    """Return the export with another threshold; an empty text keeps its own.

    Raises:
        RequestError: if the text is no threshold, or a threshold decides nothing.
    """
    if not text:
        return export
    try:
        threshold = float(text)
    except ValueError:
        threshold = -1.0
    if not 0.0 <= threshold <= 1.0:
        raise RequestError(f"--threshold: expected a number from 0 to 1, or nothing, received {text!r}")
    if len(export.class_names) > 2:
        raise RequestError(
            f"--threshold: expected a model of two classes, received one of {len(export.class_names)}, which answers "
            "the likeliest; leave the flag out"
        )
    details = {**export.details, "threshold_choice": {"by": "--threshold", "why": ""}}
    return dataclasses.replace(export, threshold=threshold, details=details)
