"""Measure an exported model on a split: figures, scores of every image, and a page to read.

The export says all that is needed; no training settings are.
Owns: the command, from its flags to what it prints.  Does not own: answers (``split_scores.py``), what is written
(``evaluation.py``).
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any

from trainer.core import cli
from trainer.core.config import flags
from trainer.core.errors import EXIT_DONE, RequestError
from trainer.core.storage import files
from trainer.data.audit import digest
from trainer.data.manifest import Split, read_split
from trainer.evaluation import predict_split, provenance, sources
from trainer.evaluation.request import USAGE, EvaluateFlags
from trainer.reports import console as console_lib
from trainer.serving import exported_model


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        RequestError: if flags, model or data are wrong.
    """
    request = flags.parse_request(argv, EvaluateFlags, usage=USAGE)
    if request.compare:
        return _compare(request)
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
    from trainer.reports import (
        evaluation as evaluation_report,  # Late: its libraries are slow, and a wrong flag should be answered at once.
    )

    figures = evaluation_report.write(export, predictions, request, drawn.take(predictions.numbers), columns, audit)
    print(console_lib.summary(figures, request.out))
    if request.update_card:
        from trainer.reports import model_card  # Late, as above.

        print(f"  {'card':<10}{model_card.add_evaluation(export.path, export.details, figures)}")
    return EXIT_DONE


def _compare(request: EvaluateFlags) -> int:
    flags.require(request, ("out",))
    if request.model_dir or request.data_dir:
        raise RequestError("--compare: expected no --model_dir and no --data_dir, as nothing is scored; leave them out")
    from trainer.reports import compare as compare_report  # Late, as above.

    found = compare_report.write(
        request.compare, request.out, group_by=request.group_by, groups=request.groups,
        resamples=request.bootstrap, seed=request.seed,
    )  # fmt: skip
    print(found)
    return EXIT_DONE


def find_audit(export: exported_model.Export, split: Split, request: EvaluateFlags) -> dict[str, Any] | None:
    """Return what there is to tell of an audit of the data, with ``differences`` from what is evaluated here.

    Raises:
        RequestError: if ``--audit`` names none.
    """
    found = digest.find(request.audit, (request.data_dir, provenance.job_of(export.path)))
    if found is None:
        return None
    here, trained = digest.listings(split.names), export.details.get("listings")
    return {**found, "differences": digest.differences(found["listings"], here, trained)}


def with_threshold(export: exported_model.Export, text: str) -> exported_model.Export:
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


def console() -> None:
    """Serve as the console script."""
    sys.exit(cli.run_command(main))


if __name__ == "__main__":
    console()
