"""How many GPUs this process was promised, and the end of a job that finds fewer: none trains on the CPU in silence.

Promises are DEEPDETECT_GPUS (``trainer.submit`` writes it into the pods), ``--num_devices`` and ``--require_gpu``.
Does not own: which GPUs TensorFlow finds (``strategy.py``).  Imports no TensorFlow.
"""

import glob
import itertools
import os
import re
from collections.abc import Mapping

from trainer.core import environment
from trainer.core.config import RuntimeConfig
from trainer.core.errors import RequestError, StoppedEarly

VARIABLE = "DEEPDETECT_GPUS"  # GPUs of this machine or pod; 0: none, and --num_devices counts logical CPU devices.
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_NAME = re.compile("[0-9]|GPU-|MIG-")  # The beginning of a GPU's name there.
_SCHEDULERS = (environment.POD, "SLURM_JOB_ID")  # Each is set in every process that the scheduler starts.

Environment = Mapping[str, str]


class MissingGpus(StoppedEarly):
    """Promised GPUs are missing where a scheduler can start the job elsewhere."""


def from_environment(environment: Environment = os.environ) -> int | None:
    """Return the number in DEEPDETECT_GPUS; None if it is not set.

    Raises:
        RequestError: if it is no number.
    """
    text = environment.get(VARIABLE, "")
    if text and not re.fullmatch(r"[0-9]{1,4}", text):
        raise RequestError(f"{VARIABLE}: expected a number of GPUs, received {text!r}; correct or unset it")
    return int(text) if text else None


def nvidia_devices() -> int:
    """Return the number of NVIDIA devices that this process can see, whatever TensorFlow makes of them."""
    return len(glob.glob("/dev/nvidia[0-9]*"))


def expected(environment: Environment = os.environ) -> int:
    """Return the number of GPUs that this process should find, by what it was promised or can see.

    Raises:
        RequestError: if DEEPDETECT_GPUS is no number.
    """
    promised = from_environment(environment)
    if promised is not None:
        return promised
    if _VISIBLE in environment:
        names = [name.strip() for name in environment[_VISIBLE].split(",")]
        return len(list(itertools.takewhile(_NAME.match, names)))  # CUDA ignores what follows an invalid one.
    return nvidia_devices()


def shortfall(config: RuntimeConfig, received: int, environment: Environment = os.environ) -> str:
    """Return what is wrong if there are fewer GPUs than promised; else an empty text.

    Args:
        config: settings of devices.
        received: GPUs that TensorFlow finds.
        environment: of the process.

    Raises:
        RequestError: if DEEPDETECT_GPUS is no number.
    """
    promises = _promises(config, received, environment)
    source = max(promises, key=lambda name: promises[name], default="")
    if not source or promises[source] <= received:
        return ""
    visible = f", which is {environment[_VISIBLE]!r} here," if _VISIBLE in environment else ""
    return (
        f"expected {promises[source]} GPUs ({source}), received {received}; a job does not train without GPUs that it "
        f"was promised: check the driver (nvidia-smi), the container toolkit (docker run --gpus all; nvidia.com/gpu of "
        f"the pod) and {_VISIBLE}{visible} with python -m trainer.train --selftest --expect_gpus={promises[source]}"
    )


def _promises(config: RuntimeConfig, received: int, environment: Environment) -> dict[str, int]:
    """Return the promised numbers of GPUs by who promised them.

    ``--num_devices`` counts GPUs where there is any sign of them, and logical CPU devices elsewhere.
    """
    in_environment = from_environment(environment)
    promises = {VARIABLE: in_environment or 0, "--require_gpu": int(config.require_gpu)}
    if in_environment or config.require_gpu or received or (in_environment is None and _has_signs(environment)):
        promises["--num_devices"] = config.num_devices
    return promises


def _has_signs(environment: Environment) -> bool:
    """Return whether this process is meant to see GPUs; CUDA_VISIBLE_DEVICES can hide those of the machine."""
    visible = environment.get(_VISIBLE)
    return nvidia_devices() > 0 if visible is None else not _hides_all(visible)


def _hides_all(visible: str) -> bool:
    """Return whether a value of CUDA_VISIBLE_DEVICES names no GPU."""
    return not _NAME.match(visible.strip())


def unused(received: int, environment: Environment = os.environ) -> str:
    """Return a warning if this machine has GPUs that nobody hides and TensorFlow finds none; else an empty text."""
    if received or from_environment(environment) == 0 or _hides_all(environment.get(_VISIBLE, "0")):
        return ""
    if not nvidia_devices():
        return ""
    return (
        f"this machine shows {nvidia_devices()} NVIDIA devices, but TensorFlow finds no GPU and trains on the CPU; "
        "python -m trainer.train --selftest says why, --require_gpu refuses to train so"
    )


def broken(text: str, *, in_cluster: bool, environment: Environment = os.environ) -> Exception:
    """Return the error of a broken promise.

    A scheduler can start the job elsewhere, so there the exit code is 75; at a desk somebody reads the message.

    Args:
        text: what is wrong.
        in_cluster: whether the process is one of several.
        environment: of the process.
    """
    if in_cluster or from_environment(environment) or any(name in environment for name in _SCHEDULERS):
        return MissingGpus(f"{text}; nothing was lost: start the job again, on another machine if this one stays so")
    return RequestError(text)
