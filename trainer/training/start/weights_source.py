"""Weights that ``--weights`` may name: a file, a job (its best checkpoint), an export, or a file of a Python package.

Does not own: formats of files (``models/weights/source.py``), what a new job does with them (``initial_weights.py``).
Imports no TensorFlow.
"""

import logging

from trainer.core import result as result_lib
from trainer.core.arrays import MODEL_PREFIX
from trainer.core.errors import RequestError
from trainer.core.job_dir import MODEL_FILE, JobPaths
from trainer.core.storage import files
from trainer.data.manifest import TRAIN
from trainer.models.weights import published, source
from trainer.models.weights.source import Source
from trainer.serving import exported_model, exported_weights
from trainer.training.checkpoints import judged
from trainer.training.checkpoints.checkpoint import (
    Checkpoint,
    CheckpointStore,
    DamagedCheckpoint,
    digest_of_arrays,
)

log = logging.getLogger(__name__)


def read(weights: str) -> Source:
    """Return the weights that a value of ``--weights`` means.

    Raises:
        RequestError: if there are none, or they cannot be read.
    """
    path = path_of(weights)
    if not files.is_dir(path):
        return source.read_file(path)
    if not files.exists(files.join(path, MODEL_FILE)) and has_checkpoint(JobPaths(path)):
        return _read_job(JobPaths(path))
    best = JobPaths(path).exports("best")
    return _read_export(best if files.is_dir(best) else path)


def path_of(weights: str) -> str:
    """Return the path that a value of ``--weights`` means."""
    return (
        published.packaged(weights.removeprefix(published.PACKAGE))
        if weights.startswith(published.PACKAGE)
        else weights
    )


def has_checkpoint(paths: JobPaths) -> bool:
    """Return whether the job has a state of its own."""
    return bool(CheckpointStore(paths.checkpoints, keep=1).steps())


def _read_job(paths: JobPaths) -> Source:
    """Return the weights of a job's best checkpoint, or of its newest if the best one is not there."""
    store = CheckpointStore(paths.checkpoints, keep=1)
    checkpoint = _best_checkpoint(store)
    named = sorted(checkpoint.arrays.items())
    arrays = {name.removeprefix(MODEL_PREFIX): array for name, array in named if name.startswith(MODEL_PREFIX)}
    finished = result_lib.read(paths.result)
    class_names = tuple(finished.images.get(TRAIN, ())) if finished else ()
    return Source("job", store.path(checkpoint.step), digest_of_arrays(arrays), arrays, class_names)


def _best_checkpoint(store: CheckpointStore) -> Checkpoint:
    best = judged.best_step(store)
    if best in store.steps():
        try:
            return judged.read(store, best)
        except DamagedCheckpoint as damage:
            log.warning("checkpoint %s is damaged (%s): the newest is used", store.path(best), damage)
    newest = store.newest()
    assert newest is not None, "a job without a checkpoint"
    return judged.of(newest)


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
