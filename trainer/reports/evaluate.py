"""Evaluate an export on a split: check the request, score the images, write the report.

Owns: the checks and the order of work.  Does not own: scoring (``predict_split.py``), results (``evaluation.py``).
"""

import dataclasses
import logging
import posixpath
from typing import Any

from trainer.core import config, placement, progress
from trainer.core.config import LayoutConfig, flags
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data import split_report
from trainer.data.audit import digest
from trainer.data.manifest import Split, read_split
from trainer.evaluation import predict_split, provenance, sources
from trainer.evaluation.request import EvaluateFlags
from trainer.serving import exported_model

log = logging.getLogger(__name__)


def evaluate(request: EvaluateFlags) -> dict[str, Any]:
    """Evaluate an export as requested, write its figures and report to ``--out``, and return the figures.

    Raises:
        RequestError: if flags, model or data are wrong.
    """
    # Everything that can be wrong with the request is checked before the model is loaded.
    flags.require(request, ("model_dir", "data_dir", "split", "out"))
    placement.refuse_among_images("out", request.out, request.data_dir, (*placement.SPLITS, request.split))
    if files.is_remote(request.out):  # Before a large bucket is listed for minutes; it leaves nothing behind.
        files.require_writable(request.out, "out")
    export = with_threshold(exported_model.find_export(request.model_dir), request.threshold)
    with progress.phase(f"listing {request.data_dir!r}"):
        split = _read_split(export, request)
    columns = sources.columns_of(split)
    columns |= sources.read_groups(request.groups, split.names, split.name) if request.groups else {}
    image_sources = sources.sources_of(request.group_by, split, columns)
    audit = find_audit(export, split, request)
    files.require_writable(request.out, "out")
    if request.update_card:
        files.require_writable(export.path, "update_card")

    log.info("%s", split_report.of_one(split))
    split_predictions = predict_split.predict_split(export, split, request)
    # Bad images were skipped: keep the groups and sources of the others.
    numbers = split_predictions.numbers
    columns = {name: [values[number] for number in numbers] for name, values in columns.items()}
    from trainer.reports import evaluation  # Late: its libraries are slow, and a wrong flag is answered at once.

    with progress.phase("measuring, and writing the report"):
        return evaluation.write(export, split_predictions, request, image_sources.select(numbers), columns, audit)


def _read_split(export: exported_model.ExportedModel, request: EvaluateFlags) -> Split:
    layout, note = _layout(export, request)
    split = read_split(request.data_dir, request.split, export.class_names, layout)
    if note and split.origin is not None:
        split = dataclasses.replace(split, origin=dataclasses.replace(split.origin, notes=(*split.origin.notes, note)))
    if not len(split):
        raise RequestError(
            f"expected images in {files.join(request.data_dir, request.split)!r}, received empty folders"
        )
    return split


def _layout(export: exported_model.ExportedModel, request: EvaluateFlags) -> tuple[LayoutConfig, str]:
    """Return how data_dir is laid out, as in training if it is the same and no flag says otherwise; and a note on that.

    The same is a data_dir with the path or at least the last name of training's.
    """
    fields = {field.name: field for field in dataclasses.fields(LayoutConfig)}
    given = {name: getattr(request, name) for name in fields}
    trained = export.details.get("config") or {}
    same = posixpath.basename(str(trained.get("data_dir", "")).rstrip("/"))
    if not same or same != posixpath.basename(request.data_dir.rstrip("/")):
        return LayoutConfig(**given), ""
    kept = {name: trained[name] for name, field in fields.items() if name != "drop"
            and given[name] == field.default and trained.get(name, field.default) != field.default}  # fmt: skip
    settings = LayoutConfig(**{**given, **{name: config.check(fields[name], value) for name, value in kept.items()}})
    words = ", ".join(f"--{name}={value}" for name, value in kept.items())
    return settings, f"as in training: {words}" if kept else ""


def find_audit(export: exported_model.ExportedModel, split: Split, request: EvaluateFlags) -> dict[str, Any] | None:
    """Return what an audit of the data found, with ``differences`` from the split here; None without an audit.

    Raises:
        RequestError: if ``--audit`` names a file that is not an audit.
    """
    audit = digest.find(request.audit, (request.data_dir, provenance.job_of(export.path)))
    if audit is None:
        return None
    evaluated = digest.listings([split])
    trained = export.details.get("listings")
    return {**audit, "differences": digest.differences(audit["listings"], evaluated, trained)}


def with_threshold(export: exported_model.ExportedModel, text: str) -> exported_model.ExportedModel:
    """Return the export with another threshold; an empty text keeps its own.

    Raises:
        RequestError: if the text is not a threshold, or the model has more than two classes.
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
