"""The GPUs that TensorFlow finds, and their memory."""

import tensorflow as tf

from trainer.distributed import shared_card
from trainer.training.selftest.outcome import Failed

_MIB, _GIB = 2**20, 2**30
_SHARE = 0.8  # Of the free memory that is tried; the checks before hold some.
_CPU_CHUNK = 4 * _MIB


def gpus(expected: int) -> str:
    """Compare the number of GPUs with the expected one, and name them."""
    found = tf.config.list_physical_devices("GPU")
    if len(found) != expected:
        raise Failed(
            f"expected {expected}, TensorFlow found {len(found)}; if its log says that it cannot dlopen libraries, "
            "install tensorflow[and-cuda] (the extra gpu); otherwise give the pod nvidia.com/gpu, or check nvidia-smi "
            "and CUDA_VISIBLE_DEVICES"
        )
    details = [tf.config.experimental.get_device_details(gpu) for gpu in found]
    names = [f"{one.get('device_name')} {'.'.join(map(str, one.get('compute_capability', ())))}" for one in details]
    return ", ".join(names) or "none, as expected"


def names() -> list[str]:
    """Return the devices to check: the GPUs, or the CPU's."""
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in devices]


def are_gpus() -> bool:
    """Return whether they are GPUs."""
    return "GPU" in names()[0]


def kind() -> str:
    """Return what they are called in the plural."""
    return "GPUs" if are_gpus() else "CPU devices"


def short(device: str) -> str:
    """Return a device's name without the job and the task."""
    return device.rsplit("device:", 1)[-1]


def card(device: str) -> str:
    """Return the card that a GPU is, as TensorFlow calls it; empty for a CPU."""
    if not are_gpus():
        return ""
    number = int(device.rsplit(":", 1)[-1]) // shared_card.logical_gpus()
    details = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[number])
    return str(details.get("device_name", ""))


def memory() -> str:
    """Fill most of each GPU's free memory, and read it again."""
    free = [line.split(", ") for line in shared_card.query("memory.free,memory.total")] if are_gpus() else []
    smallest = min((int(each) for each, _ in free), default=0) * _MIB
    size = int(smallest * _SHARE / shared_card.logical_gpus()) if free else 2 * _CPU_CHUNK
    for device in names():
        fill(device, size, _GIB if free else _CPU_CHUNK)
    sizes = [f"{int(each) / 1024:.1f} of {int(total) / 1024:.1f} GiB free" for each, total in free]
    return f"{', '.join([*sizes, f'{size / _GIB:.2f} GiB'])} written and read on each of {len(names())} {kind()}"


def fill(device: str, size: int, chunk: int) -> None:
    """Write a number of its own into each chunk of a device's memory, then read all.

    Raises:
        Failed: if the memory cannot be allocated, or holds another number.
    """
    try:
        with tf.device(device):
            parts = [tf.fill([chunk // 4], float(number)) for number in range(1, size // chunk + 1)]
            ends = [(float(tf.reduce_min(part)), float(tf.reduce_max(part))) for part in parts]
    except tf.errors.ResourceExhaustedError as error:
        raise Failed(f"{short(device)} cannot allocate {size / _GIB:.1f} free GiB") from error
    for number, both in enumerate(ends, start=1):
        if both != (number, number):
            raise Failed(f"{short(device)} reads {both} where {number} was written; take the node out of service")
