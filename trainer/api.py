"""The public face for Python: ``train``, ``evaluate`` and ``predict`` with values in place of flags (docs/python.md).

Keyword arguments are the flags of the commands, with the same defaults and checks.  Nothing is printed; the log is that
of ``logging.getLogger("trainer")``.  Errors are those of ``trainer.core.errors``.
Does not own: what the commands do.  Imports TensorFlow only once it is needed.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias

from trainer.core import config as config_lib
from trainer.core import keras_environment
from trainer.core.config import flags
from trainer.core.config.help_page import Fields
from trainer.core.errors import Diverged, JobFailed, RequestError, StoppedEarly, StorageDown
from trainer.core.result import Result
from trainer.core.tables import Row

# Of a flag; several values stand for what the command line separates by commas.
Argument: TypeAlias = config_lib.Value | os.PathLike[str] | Sequence[str]
Path: TypeAlias = str | os.PathLike[str]

__all__ = [
    "Diverged", "JobFailed", "RequestError", "Result", "StorageDown", "StoppedEarly", "evaluate", "predict", "train",
]  # fmt: skip


def train(data_dir: Path, job_dir: Path, *, config: Path = "", **settings: Argument) -> Result:
    """Train a detector, or continue the job in ``job_dir``; return its result, at once if it is done.

    In a notebook, interrupting the kernel saves everything; call it again to continue.

    Args:
        data_dir: images, as for ``--data_dir``.
        job_dir: folder for all state and results.
        config: file of settings, such as a recipe; the keyword arguments override it.
        **settings: flags of ``trainer.train`` (docs/reference/flags.md), such as ``epochs=5``.

    Raises:
        RequestError: if settings or images are wrong; a retry cannot help.
        StoppedEarly: after a signal or at ``max_seconds``, with everything saved; call it again.
        JobFailed: if the loss diverged, or the AUC is below ``require_auc``.
    """
    values = _values(flags.train_fields(), {"data_dir": data_dir, "job_dir": job_dir, "config": config, **settings})
    request = flags.config_of({name: value for name, value in values.items() if name != "config" or value})
    if request.loop.seeds > 1:
        raise RequestError(
            f"seeds: expected 1, received {request.loop.seeds}; call train for each seed with a job_dir of its own, or "
            "use the command"
        )
    with keras_environment.safe():
        from trainer.distributed import cluster  # Late: a wrong request is answered without them.
        from trainer.training import run

        result = run.run(request, cluster.from_environment(strategy=request.runtime.strategy))
    if shortfall := result.shortfall(request.export.require_auc):
        raise JobFailed(shortfall)
    return result


def evaluate(model_dir: Path, data_dir: Path, out: Path, **settings: Argument) -> dict[str, Any]:
    """Measure an exported model on a split, write the report into ``out``, and return the content of ``metrics.json``.

    Args:
        model_dir: a job's ``export/best``, or one version in it.
        data_dir: images, as for ``--data_dir``.
        out: folder for ``report.html``, ``metrics.json`` and ``predictions.csv``.
        **settings: other flags of ``trainer.evaluate``, such as ``split="Validation"``, but ``compare`` and
            ``update_card``.

    Raises:
        RequestError: if settings, model or data are wrong.
        StoppedEarly: after a signal.
    """
    from trainer.evaluation.request import EvaluateFlags  # Late, as above.

    given = {"model_dir": model_dir, "data_dir": data_dir, "out": out, **settings}
    fields = flags.fields_of(EvaluateFlags)
    values = _values({name: fields[name] for name in fields if name not in ("compare", "update_card")}, given)
    with keras_environment.safe():
        from trainer.reports import evaluate as evaluate_lib

        return evaluate_lib.evaluate(EvaluateFlags(**values))  # type: ignore[arg-type]


def predict(model_dir: Path, paths: Path | Iterable[Path], **settings: Argument) -> list[Row]:
    """Score images, or with ``video=True`` videos; return a row for each, with its ``error`` if it has no answer.

    Args:
        model_dir: a job's ``export/best``, or one version in it.
        paths: files, folders and globs, one or several.
        **settings: other flags of ``trainer.predict``, such as ``threshold=0.8``; ``out`` writes the rows as well,
            and ``report`` a page.

    Raises:
        RequestError: if settings, model or paths are wrong.
        StoppedEarly: after a signal; ``out`` then holds the rows so far.
    """
    from trainer.serving import predict_files, predict_request  # Late, as above.
    from trainer.serving.predict_request import PredictFlags
    from trainer.serving.row_writer import RowWriter

    values = _values(flags.fields_of(PredictFlags), {"model_dir": model_dir, **settings})
    request = predict_request.of_values(values)
    words = [os.fspath(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]
    rows: list[Row] = []
    writer = RowWriter(request.out, "out") if request.out else None

    def keep(part: list[Row]) -> None:
        rows.extend(part)
        if writer:
            writer.add(part)

    try:
        with keras_environment.safe():
            scoring = predict_files.run(request, words, (), keep)
    except BaseException:
        if writer:
            writer.finish(is_interrupted=True)
        raise
    if writer:
        writer.finish()
    if request.report:
        from trainer.reports.prediction import page

        page.write(rows, scoring, request)
    return rows


def _values(fields: Fields, arguments: Mapping[str, Argument]) -> dict[str, config_lib.Value]:
    """Return Python values as a command line's would be, checked.

    Raises:
        RequestError: for an unknown name, or a value of the wrong type or range.
    """
    for name in arguments:
        if name not in fields:
            raise RequestError(f"expected a known setting, received {name!r}{config_lib.did_you_mean(name, fields)}")
    return {name: config_lib.check_written(fields[name], _plain(fields[name], value))
            for name, value in arguments.items()}  # fmt: skip


def _plain(field: Any, value: Argument) -> Any:
    """Return a value in the form of flags: paths as text, several values with commas, numbers of a text as text."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, (list, tuple)):
        return ",".join(map(str, value))
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return str(value) if is_number and field.type is str else value
