"""How an evaluation came about: the command, versions, machines, and how many images of which split.

Does not own: how it is shown (``page.py``).
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
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files
from trainer.evaluation.training_curves import last_start

_PACKAGES = ("tensorflow", "keras", "numpy", "scikit-learn")


def command(module: str, request: Any) -> str:
    """Return the command line that gives this request (a dataclass of settings): the flags that are not defaults."""
    words = []
    for field in dataclasses.fields(request):
        value = getattr(request, field.name)
        if value != field.default:
            switch = f"--{field.name}" if value else f"--no{field.name}"
            words.append(switch if field.type is bool else f"--{field.name}={value}")
    return shlex.join(["python", "-m", module, *words])


def scored(module: str, request: Any) -> dict[str, str]:
    """Return by title what this process runs: command, versions, devices.  Loads TensorFlow."""
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
    """Return by title how the model was trained: versions from the export, the rest from the job if it is there."""
    found = {}
    versions = details.get("versions") or {}
    if versions:
        found["Trained with"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    start, done = last_start(job_dir), _result(job_dir)
    if start and "device_kind" in start:
        found["Trained on"] = f"{start['num_devices']} x {start['device_kind']}, precision {start['precision']}"
    if done:
        ends = {"epochs": "the last epoch", "early_stopping": "early stopping"}
        found["Training ended"] = f"by {ends.get(done.stopped_by, done.stopped_by)}, after epoch {done.epoch}"
        found["Speed of training"] = f"{done.images_per_second:,.0f} images/s"
    return found


def _result(job_dir: str) -> result.Result | None:
    """Return the job's result; None without one, or if a file of that name is something else."""
    try:
        return result.read(JobPaths(job_dir).result)
    except (ValueError, TypeError, AttributeError):
        return None


def counts(job_dir: str, figures: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Return the images of each class: of the job's splits if its result is there, and of the evaluated one."""
    done = _result(job_dir)
    here = {name: values["n"] for name, values in figures["per_class"].items()}
    trained_on = done.images if done else {}
    evaluated = figures["split"]
    if evaluated in trained_on and trained_on[evaluated] != here:  # A folder of the same name with other images.
        evaluated = f"{evaluated} (here)"
    return {**trained_on, evaluated: here}


def job_of(version: str) -> str:
    """Return where a version folder's job would be: J of ``J/export/best/120``."""
    absolute = version if files.is_remote(version) else os.path.abspath(version)
    return absolute.rstrip("/").rsplit("/", 3)[0]
