"""DEEPDETECT_LOGICAL_GPUS=N divides each GPU into N logical devices, so that one card can try what several do.

Without a GPU nothing is divided.  For tests: N devices on a card are no faster than one.  NCCL refuses two ranks on one
card, so gradients are added up on one of the devices instead.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

import tensorflow as tf

from trainer.core.errors import RequestError
from trainer.distributed import accelerators

VARIABLE = "DEEPDETECT_LOGICAL_GPUS"
_SHARE = 0.9  # Of the free memory: each device also loads kernels of its own, outside of its limit.
_MOST = 16
_MIB = 2**20


def logical_gpus(environment: Mapping[str, str] = os.environ) -> int:
    """Return the number of logical devices that each GPU is divided into; 1: undivided.

    Raises:
        RequestError: if the variable holds anything else.
    """
    text = environment.get(VARIABLE, "") or "1"
    if not re.fullmatch(r"[0-9]{1,2}", text) or not 1 <= int(text) <= _MOST:
        raise RequestError(f"{VARIABLE}: expected a number from 1 to {_MOST}, received {text!r}; correct or unset it")
    return int(text)


def prepare(gpus: Sequence[tf.config.PhysicalDevice]) -> int:
    """Set the memory of all GPUs, and divide them if the environment asks for it; return the logical devices of all.

    Raises:
        RequestError: if TensorFlow has already started with another number of them.
    """
    count = logical_gpus()
    if count == 1:
        for gpu in gpus:  # Allocate memory as needed, so that an evaluation can share the card.
            tf.config.experimental.set_memory_growth(gpu, True)
        return len(gpus)
    for gpu in gpus:
        if len(tf.config.get_logical_device_configuration(gpu) or ()) != count:
            _divide(gpu, count)
    return len(gpus) * count


def _divide(gpu: tf.config.PhysicalDevice, count: int) -> None:
    limit = int(_free_memory(gpu) * _SHARE / count) // _MIB
    try:
        tf.config.set_logical_device_configuration(
            gpu, [tf.config.LogicalDeviceConfiguration(memory_limit=limit)] * count
        )
    except RuntimeError as error:
        raise RequestError(
            f"{VARIABLE}: expected to divide {gpu.name} before TensorFlow starts, but this process has started it; run "
            "the job in a process of its own"
        ) from error


def _free_memory(gpu: tf.config.PhysicalDevice) -> int:
    """Return the free memory of the fullest GPU in bytes, or, where nvidia-smi is missing, the size of this card."""
    lines = query("memory.free")
    if lines:
        return min(int(line) for line in lines) * _MIB
    name = str(tf.config.experimental.get_device_details(gpu).get("device_name", ""))
    card = accelerators.find(name)
    if card is None:
        raise RequestError(f"{VARIABLE}: expected nvidia-smi, which knows the memory of {name}, received none")
    return int(card.memory_gib * 2**30)


def query(fields: str) -> list[str]:
    """Return what nvidia-smi says of each GPU, numbers in MiB without unit; nothing if it is missing or fails."""
    tool = shutil.which("nvidia-smi")
    if not tool:
        return []
    words = [tool, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []


def cross_device_ops() -> tf.distribute.CrossDeviceOps | None:
    """Return how MirroredStrategy adds up gradients; None: TensorFlow's choice, which is NCCL on GPUs."""
    return tf.distribute.ReductionToOneDevice() if logical_gpus() > 1 else None
