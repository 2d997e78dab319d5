"""Where an evaluation comes from: command, versions, machines, and number of images by split and class.

Does not own: how it is shown (``reports/evaluation.py``).
"""

import dataclasses
import importlib.metadata
import os
import platform
import shlex
from collections.abc import Mapping
from typing import Any

from trainer import __version__
from trainer.core import result
from trainer.core.errors import RequestError
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files
from trainer.evaluation.training_curves import last_start

_PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn")


def command(module: str, request: Any) -> str:
    """Return the command line of a request (a dataclass of settings): the flags that differ from their defaults."""
    words = []
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        if value != field.default:
            switch = f"--{field.name}" if value else f"--no{field.name}"
            words.append(switch if field.type is bool else f"--{field.name}={value}")
    return shlex.join(["python", "-m", module, *words])


def scored(module: str, request: Any) -> dict[str, str]:
    """Return command, versions and devices of this process, by title.  Loads TensorFlow."""
    import tensorflow as tf

    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    names = [str(gpu.get("device_name", "GPU")) for gpu in gpus]
    devices = f"{len(names)} x {' and '.join(dict.fromkeys(names))}" if names else "CPU"
    versions = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    return {
        "Command": command(module, request),
        "Versions": ", ".join([f"deepdetect {__version__}", *versions, f"Python {platform.python_version()}"]),
        "Scored on": f"{devices}; {os.cpu_count()} cores, {platform.system()} {platform.machine()}",
    }


def trained(job_dir: str, details: Mapping[str, Any]) -> dict[str, str]:
    """Return how the model was trained, by title: versions from the export, the rest from the job if it exists."""
    rows = {}
    versions = details.get("versions") or {}
    if versions:
        rows["Trained with"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    start = last_start(job_dir)
    done = _result(job_dir)
    if start and "device_kind" in start:
        rows["Trained on"] = f"{start['num_devices']} x {start['device_kind']}, precision {start['precision']}"
    if done:
        ends = {"epochs": "the last epoch", "early_stopping": "early stopping"}
        rows["Training ended"] = f"by {ends.get(done.stopped_by, done.stopped_by)}, after epoch {done.epoch}"
        rows["Speed of training"] = f"{done.images_per_second:,.0f} images/s"
    return rows


def _result(job_dir: str) -> result.Result | None:
    """Return the job's result; None if there is none, or this account may not read it."""
    try:
        return result.read(JobPaths(job_dir).result)
    except RequestError:
        return None


def counts(job_dir: str, figures: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return the number of images of each class in the job's splits (if its result exists) and in the evaluated one."""
    done = _result(job_dir)
    here = {name: values["n"] for name, values in figures["per_class"].items()}
    trained_on = done.images if done else {}
    evaluated = figures["split"]
    if evaluated in trained_on and trained_on[evaluated] != here:  # A folder of the same name with other images.
        evaluated = f"{evaluated} (here)"
    return {**trained_on, evaluated: here}


def job_of(version: str) -> str:
    """Return the job_dir that an exported version would belong to: J for ``J/export/best/120``."""
    absolute = version if files.is_remote(version) else os.path.abspath(version)
    return absolute.rstrip("/").rsplit("/", 3)[0]
