"""``--weights``: the weights that a new job starts from, and ``weights.json``, the record of what was taken.

They become part of the first state, so a job with a checkpoint never needs them again.
Owns: finding the source, jobs and exports as sources, the record.  Does not own: files (``models/weights/source.py``),
which array is for which variable (``models/weights/match.py``).  Imports no TensorFlow.
"""

import functools
import json
import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import numpy as np

from trainer.core import checked_json
from trainer.core import result as result_lib
from trainer.core.arrays import MODEL_PREFIX, Arrays
from trainer.core.checked_json import COUNT, OBJECT, TEXT
from trainer.core.config import Config
from trainer.core.errors import RequestError, StoppedEarly
from trainer.core.job_dir import MODEL_FILE, JobPaths
from trainer.core.storage import files
from trainer.data.manifest import TRAIN
from trainer.distributed import consistency
from trainer.distributed.process_group import SingleProcess
from trainer.models.weights import match, published, source
from trainer.models.weights.match import Match
from trainer.models.weights.published import NONE
from trainer.models.weights.source import Source
from trainer.serving import exported_model, exported_weights
from trainer.training.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointStore,
    DamagedCheckpoint,
    digest_of_arrays,
    exported,
)

log = logging.getLogger(__name__)

_SHOWN = 3  # Names in a message; weights.json has all.
_FIELDS = {"weights": TEXT, "kind": TEXT, "path": TEXT, "sha256": TEXT, "variables": COUNT, "taken": OBJECT}


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
    if weights == NONE or (has_checkpoint(paths) and not starts_over):
        return
    path = _path(weights)
    files.require_form(path, "weights")
    if files.exists(path):
        return
    if _is_begun(paths) and not starts_over:
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
    if group.broadcast(has_checkpoint(paths) if is_chief else None):
        if is_chief:
            _report_kept(config.model.weights, paths)
        return None
    initial = read(config.model.weights)
    consistency.require_same(group, {"initial weights": initial.sha256}, "give all processes the same --weights")
    if is_chief:
        _refuse_others(initial, paths)
    return functools.partial(
        apply, initial=initial, config=config, class_names=class_names, record=paths.weights if is_chief else ""
    )


def has_checkpoint(paths: JobPaths) -> bool:
    """Return whether the job has a state of its own."""
    return bool(CheckpointStore(paths.checkpoints, keep=1).steps())


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
    facts = {"weights": config.model.weights, "kind": initial.kind, "path": initial.path, "sha256": initial.sha256}
    content = {
        **facts,
        "variables": len(model.variables),
        "taken": outcome.taken,
        "other_shape": [str(each) for each in outcome.differing],
        "missing": outcome.missing,
        "unused": outcome.unused,
    }
    if record:
        files.write_text(record, json.dumps(content, indent=1) + "\n")
    level = logging.WARNING if outcome.missing_besides_classifier else logging.INFO
    log.log(level, "%s", _summary(outcome, initial, len(model.variables)))
    return outcome.values.keys()


def describe(paths: JobPaths) -> str:
    """Return a job's initial weights for people: path, checksum and count; empty if it began at random."""
    kept = _record(paths)
    if kept is None:
        return ""
    return (
        f"{kept['path']} ({kept['kind']}), SHA-256 {kept['sha256']}, {len(kept['taken'])} of {kept['variables']} "
        "variables"
    )


def read(weights: str) -> Source:
    """Return the weights that a value of ``--weights`` means.

    Raises:
        RequestError: if there are none, or they cannot be read.
    """
    path = _path(weights)
    if not files.is_dir(path):
        return source.read_file(path)
    if not files.exists(files.join(path, MODEL_FILE)) and has_checkpoint(JobPaths(path)):
        return _read_job(JobPaths(path))
    best = JobPaths(path).exports("best")
    return _read_export(best if files.is_dir(best) else path)


def _path(weights: str) -> str:
    return published.packaged(weights.removeprefix(published.PACKAGE)) if _is_package(weights) else weights


def _is_package(weights: str) -> bool:
    return weights.startswith(published.PACKAGE)


def _read_job(paths: JobPaths) -> Source:
    """Return the weights of a job's best checkpoint, or of its newest if the best one is not there."""
    checkpoint = _best_checkpoint(CheckpointStore(paths.checkpoints, keep=1))
    judged = exported(checkpoint.arrays)  # The averages of the weights, if there are any.
    arrays = {name.removeprefix(MODEL_PREFIX): judged[name] for name in sorted(judged) if name.startswith(MODEL_PREFIX)}
    finished = result_lib.read(paths.result)
    class_names = tuple(finished.images.get(TRAIN, ())) if finished else ()
    folder = CheckpointStore(paths.checkpoints, keep=1).path(checkpoint.step)
    return Source("job", folder, digest_of_arrays(arrays), arrays, class_names)


def _best_checkpoint(store: CheckpointStore) -> Checkpoint:
    newest = store.newest()
    assert newest is not None, "a job without a checkpoint"
    best: int = newest.state["stopping"]["best_step"]
    if best != newest.step and best in store.steps():
        try:
            return store.read(best)
        except DamagedCheckpoint as damage:
            log.warning("checkpoint %s is damaged (%s): step %d is used", store.path(best), damage, newest.step)
    return newest


def _read_export(path: str) -> Source:
    try:
        export = exported_model.find_export(path)
    except RequestError as error:
        raise RequestError(
            f"--weights: expected a job_dir with a checkpoint or an export, received the folder {path!r} without "
            "either; check the path"
        ) from error
    arrays = exported_weights.read_export(export.path)
    return Source("export", export.path, digest_of_arrays(arrays), arrays, export.class_names)


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


def _record(paths: JobPaths) -> dict[str, Any] | None:
    """Return ``weights.json``; None without one."""
    if not files.exists(paths.weights):
        return None
    return checked_json.read(paths.weights, _FIELDS, remedy="restore it, or remove it", what="a job's initial weights")


def _is_begun(paths: JobPaths) -> bool:
    """Return whether an earlier start of this job has used its weights; its settings are written after them."""
    return files.exists(paths.config) and files.exists(paths.weights)


def _refuse_others(initial: Source, paths: JobPaths) -> None:
    """Refuse weights that were replaced between two starts of a job.

    Raises:
        RequestError: if so.
    """
    kept = _record(paths) if _is_begun(paths) else None
    if kept is not None and kept["sha256"] != initial.sha256:
        raise RequestError(
            f"--weights: expected {initial.path!r} as it was when {paths.job_dir!r} was started (SHA-256 "
            f"{kept['sha256'][:12]}...), received another one ({initial.sha256[:12]}...); restore it, use another "
            "--job_dir, or --resume=never to start over"
        )


def _report_kept(weights: str, paths: JobPaths) -> None:
    """Log that the weights are not read again, and whether a local file was replaced since."""
    kept = _record(paths)
    if kept is None:
        return
    log.info("initial weights: %s; not read again", describe(paths))
    if kept["kind"].endswith("file") and _is_replaced(kept):
        log.warning("--weights: %s was replaced since this job began; the job continues with what it began with",
                    weights)  # fmt: skip


def _is_replaced(kept: dict[str, Any]) -> bool:
    """Return whether a local file is there and has another checksum."""
    if files.is_remote(kept["path"]):
        return False
    try:
        return bool(source.sha256_of(kept["path"]) != kept["sha256"])
    except OSError:  # A job with a checkpoint does not need the file.
        return False
