"""``--weights``: the weights that a new job starts from.

They become part of the first state, so a job with a checkpoint never needs them again.
Does not own: where they come from (``weights_source.py``), the record of what was taken (``weights_record.py``), which
array is for which variable (``models/weights/match.py``).  Imports no TensorFlow.
"""

import functools
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from trainer.core.arrays import Arrays
from trainer.core.config import Config
from trainer.core.errors import RequestError, StoppedEarly
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files
from trainer.distributed import consistency
from trainer.distributed.process_group import SingleProcess
from trainer.models.weights import match, published
from trainer.models.weights.match import Match
from trainer.models.weights.published import NONE
from trainer.models.weights.source import Source
from trainer.training.start import weights_record, weights_source

log = logging.getLogger(__name__)

_SHOWN = 3  # Names in a message; weights.json has all.


def require(config: Config, paths: JobPaths, *, starts_over: bool) -> None:
    """Check that the weights of a job that begins are there, before TensorFlow is loaded.

    Args:
        config: of the job.
        paths: of the job.
        starts_over: whether what job_dir holds is about to be moved aside.

    Raises:
        RequestError: if there is no such file or folder, naming where to get one.
        StoppedEarly: if they were there when this job started before, and it has no checkpoint yet.
    """
    weights = config.model.weights
    if weights == NONE or (weights_source.has_checkpoint(paths) and not starts_over):
        return
    path = weights_source.path_of(weights)
    files.require_form(path, "weights")
    if files.exists(path):
        return
    if weights_record.is_begun(paths) and not starts_over:
        raise StoppedEarly(f"--weights: {path!r} is missing, with which {paths.job_dir!r} was started, and there is no "
                           "checkpoint yet; mount or restore it, then rerun the same command")  # fmt: skip
    raise RequestError(_missing(weights, config.model.model))


def _missing(weights: str, model: str) -> str:
    """Return the message for a path that does not exist."""
    advice = published.advice(model)
    remedy = f"nothing is downloaded: for --model={model} {advice}" if advice else "check the path"
    return (
        f"--weights: expected a file, a job_dir, an export or {NONE}, received {weights!r}, which does not exist; "
        f"{remedy} (docs/weights.md)"
    )


def prepare(
    config: Config, class_names: Sequence[str], group: SingleProcess
) -> Callable[[Any], Collection[str]] | None:
    """Read the weights that a job begins with; all processes call this.

    Returns:
        What puts them into a fresh model, see ``apply``; None if the job has a checkpoint, or begins at random.

    Raises:
        RequestError: if they cannot be read, differ between the processes, or are others than this job began with.
    """
    if config.model.weights == NONE:
        return None
    paths = JobPaths(config.loop.job_dir)
    is_chief = group.index == 0
    if group.broadcast(weights_source.has_checkpoint(paths) if is_chief else None):
        if is_chief:
            weights_record.report_kept(config.model.weights, paths)
        return None
    initial = weights_source.read(config.model.weights)
    consistency.require_same(group, {"initial weights": initial.sha256}, "give all processes the same --weights")
    if is_chief:
        weights_record.refuse_others(initial, paths)
    return functools.partial(
        apply, initial=initial, config=config, class_names=class_names, record=paths.weights if is_chief else ""
    )


def apply(
    model: Any, *, initial: Source, config: Config, class_names: Sequence[str], record: str
) -> Collection[str]:  # fmt: skip
    """Put weights into a model, log what was taken, and write the record.

    Args:
        model: Keras model; variables without a counterpart keep their values.
        initial: the weights.
        config: of the job, for messages.
        class_names: of the job; the classifier of other classes is left out.
        record: path of ``weights.json``; empty: it is not written.

    Returns:
        Paths of the variables that have got values.

    Raises:
        RequestError: if none of them fits, or one is NaN or infinite.
    """
    arrays = _of_same_classes(initial, class_names)
    outcome = match.match({variable.path: tuple(variable.shape) for variable in model.variables}, arrays)
    outcome.unused.extend(name for name in initial.arrays if name not in arrays)
    if not outcome.values:
        raise RequestError(_nothing_fits(outcome, config))
    _refuse_non_finite(outcome.values, config)
    for variable in model.variables:
        if variable.path in outcome.values:
            variable.assign(outcome.values[variable.path])
    if record:
        weights_record.write(record, initial, config.model.weights, outcome, len(model.variables))
    level = logging.WARNING if outcome.missing_besides_classifier else logging.INFO
    log.log(level, "%s", _summary(outcome, initial, len(model.variables)))
    return outcome.values.keys()


def _of_same_classes(initial: Source, class_names: Sequence[str]) -> Arrays:
    """Return the arrays, without a classifier that is known to be for other classes."""
    if not initial.class_names or initial.class_names == tuple(class_names):
        return initial.arrays
    return {name: array for name, array in initial.arrays.items() if match.parse(name).layer != match.CLASSIFIER}


def _refuse_non_finite(values: Arrays, config: Config) -> None:
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise RequestError(f"--weights={config.model.weights}: expected finite numbers, received NaN or infinity "
                               f"for {name}; use another file")  # fmt: skip


def _nothing_fits(outcome: Match, config: Config) -> str:
    model, held = _first(outcome.missing), _first(outcome.unused)
    shapes = f"; other shapes: {_first(map(str, outcome.differing))}" if outcome.differing else ""
    return (
        f"--weights={config.model.weights}: expected weights of --model={config.model.model}, such as {model}; "
        f"received {held}, of which none fits by name and shape{shapes}; use weights of this network"
    )


def _summary(outcome: Match, initial: Source, variables: int) -> str:
    """Return the one line about what was taken."""
    parts = [
        f"initial weights: {len(outcome.values)} of {variables} variables from {initial.path} ({initial.kind}, "
        f"SHA-256 {initial.sha256[:12]}...)"
    ]
    if outcome.differing:
        parts.append(f"other shapes: {_first(map(str, outcome.differing))}")
    if outcome.missing:
        parts.append(f"random as before: {_first(outcome.missing)}")
    if outcome.unused:
        parts.append(f"unused in the source: {_first(outcome.unused)}")
    return "; ".join([*parts, "all names are in weights.json"])


def _first(names: Iterable[str]) -> str:
    """Return the first names, and how many there are if these are not all."""
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
