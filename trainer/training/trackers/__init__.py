"""Experiment trackers (``--trackers``): one run for each job, which continues over kills.

``tracker.py`` hears the job's events, ``delivery.py`` passes them on from a thread and notes what was sent, and a
module for each service talks to it.  Imports no TensorFlow.
"""

import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence

from trainer import __version__
from trainer.core.config import Config
from trainer.core.errors import RequestError
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files
from trainer.training.trackers.backend import Backend, Run
from trainer.training.trackers.delivery import Delivery
from trainer.training.trackers.tracker import Trackers


def _mlflow() -> Backend:
    from trainer.training.trackers.mlflow_backend import MlflowBackend  # Late: a job without it pays nothing.

    return MlflowBackend()


def _wandb() -> Backend:
    from trainer.training.trackers.wandb_backend import WandbBackend  # Late, as above.

    return WandbBackend()


_BACKENDS: Mapping[str, Callable[[], Backend]] = {"mlflow": _mlflow, "wandb": _wandb}


def require(config: Config) -> None:
    """Check that the packages of ``--trackers`` are installed.

    Raises:
        RequestError: naming the first one that is not.
    """
    for name in config.loop.tracker_names:
        if importlib.util.find_spec(name) is None:
            raise RequestError(
                f"--trackers: expected the package of {name}, received none; pip install -e '.[{name}]', or leave "
                "it out"
            )


def make(config: Config, paths: JobPaths, *, write: bool) -> Trackers:
    """Return the trackers of a job; without ``write``, as in all processes but the chief, they do nothing."""
    names: Sequence[str] = config.loop.tracker_names if write else ()
    run = Run(
        name=os.path.basename(paths.job_dir.rstrip("/")) or "job",
        job_dir=files.absolute(paths.job_dir),
        parent=_parent(paths.job_dir) if names else "",
        settings=config.written(),
        tags={"deepdetect.version": __version__},
    )
    return Trackers([Delivery(name, _BACKENDS[name], run, paths.tracker(name)) for name in names], paths)


def _parent(job_dir: str) -> str:
    """Return the folder of the sweep or of the group of seeds that a job is part of; empty if it stands alone."""
    above = _above(files.absolute(job_dir))
    for folder, file in ((_above(above), "sweep.json"), (above, "seeds.json")):
        if folder and files.exists(files.join(folder, file)):
            return folder
    return ""


def _above(path: str) -> str:
    """Return the folder that a path is in; empty above a bucket."""
    above = path.rstrip("/").rpartition("/")[0]
    return "" if "://" in path and "://" not in above else above


__all__ = ["Run", "Trackers", "make", "require"]
