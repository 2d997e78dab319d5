"""What Vertex AI says in the environment of a custom training job: where its state, its model and its events belong.

``AIP_CHECKPOINT_DIR``, ``AIP_MODEL_DIR`` and ``AIP_TENSORBOARD_LOG_DIR`` are folders below the job's base output
directory; see https://cloud.google.com/vertex-ai/docs/training/code-requirements.  Without them nothing changes.
Does not own: the machines of a job (``distributed/cluster.py``), the form of the log (``core/cli.py``).  Imports no
TensorFlow.
"""

import logging
import os
import posixpath

from trainer.core import placement
from trainer.core.config import Config
from trainer.core.errors import RequestError, StorageDown
from trainer.core.job_dir import EXPORT_METADATA, MODEL_FILE, JobPaths
from trainer.core.result import Result
from trainer.core.storage import files

log = logging.getLogger(__name__)

CHECKPOINTS, MODEL, EVENTS = "AIP_CHECKPOINT_DIR", "AIP_MODEL_DIR", "AIP_TENSORBOARD_LOG_DIR"

_BESIDE_MODEL = "job"  # Name of a job_dir next to the model's folder.


def defaults() -> dict[str, str]:
    """Return the settings that the environment gives where neither flags nor a file do.

    Raises:
        RequestError: if a variable holds no path.
    """
    checkpoints, model = _folder(CHECKPOINTS), _folder(MODEL)
    if checkpoints:
        return {"job_dir": checkpoints}
    return {"job_dir": files.join(posixpath.dirname(model), _BESIDE_MODEL)} if model else {}


def announce(config: Config) -> None:
    """Check what a job takes from the environment, and log it.

    Raises:
        RequestError: if the model's folder would hide images or the job.
    """
    model, job_dir = _folder(MODEL), config.loop.job_dir
    if model:
        placement.refuse_among_images(MODEL, model, config.data.data_dir)
        if placement.is_within(model, job_dir):
            raise RequestError(f"{MODEL}: expected a folder outside of job_dir, received {model!r} in {job_dir!r}; "
                               "give another --job_dir")  # fmt: skip
    rows = {
        "job_dir": job_dir if job_dir == defaults().get("job_dir") else "",
        "the export goes to": model,
        "TensorBoard's events go to": tensorboard(JobPaths(job_dir)) if _folder(EVENTS) else "",
    }
    if any(rows.values()):
        log.info("from Vertex AI's environment: %s", ", ".join(f"{name} {path}" for name, path in rows.items() if path))


def tensorboard(paths: JobPaths) -> str:
    """Return the folder of a job's TensorBoard events: Vertex AI's, or the job's own.

    Jobs of a sweep and of several seeds get folders of their own in it, which TensorBoard shows as runs.
    """
    folder = _folder(EVENTS)
    if not folder:
        return paths.tensorboard
    is_only = paths.job_dir == defaults().get("job_dir")
    return folder if is_only else files.join(folder, posixpath.basename(paths.job_dir.rstrip("/")))


def deliver(outcome: Result) -> str:
    """Copy a job's export, the best one if there are two, to the model's folder; return it, or "" if none is wanted.

    The file by which readers recognise a model is removed first and written last.  Other files there stay.

    Raises:
        StorageDown: if a copy reads otherwise than it was written.
    """
    target = _folder(MODEL)
    source = outcome.exports.get("best") or outcome.exports.get("last")
    if not target or not source:
        if target:
            log.warning("%s: nothing was exported, so there is nothing to put into %s", MODEL, target)
        return ""
    if _is_there(source, target):
        return target
    files.remove(files.join(target, MODEL_FILE))
    for name in sorted(files.list_below(source, hidden=True), key=lambda name: name == MODEL_FILE):
        content = files.read_bytes(files.join(source, name))
        files.write_bytes(files.join(target, name), content)
        if files.read_bytes(files.join(target, name)) != content:
            raise StorageDown(
                f"{files.join(target, name)!r} reads otherwise than it was written; rerun the same command"
            )
    return target


def _is_there(source: str, target: str) -> bool:
    """Return whether the model's folder has this export already."""
    about = files.join(target, EXPORT_METADATA)
    is_whole = files.exists(files.join(target, MODEL_FILE)) and files.exists(about)
    return is_whole and files.read_bytes(about) == files.read_bytes(files.join(source, EXPORT_METADATA))


def _folder(name: str) -> str:
    """Return the path in a variable, without a slash at its end; empty if it is not set.

    Raises:
        RequestError: if it is not a path.
    """
    path = os.environ.get(name, "").rstrip("/")
    try:
        files.require_form(path or ".", name)
    except RequestError as error:
        raise RequestError(str(error).removeprefix("--")) from error
    return path
