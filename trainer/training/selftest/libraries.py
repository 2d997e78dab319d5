"""NVIDIA's driver and libraries, as TensorFlow needs them.  Imports TensorFlow late: a broken one is a finding."""

import ctypes
import glob
import os
import sysconfig
from pathlib import Path
from typing import Any

from trainer.distributed.gpu_promise import nvidia_devices
from trainer.models import keras_settings
from trainer.training.selftest.outcome import Failed


def driver() -> str:
    """Look for the kernel's driver and its library."""
    version = Path("/proc/driver/nvidia/version")
    devices = nvidia_devices()
    if not devices:
        return "no NVIDIA device is visible: training runs on the CPU"
    if not version.exists():
        raise Failed(f"{devices} devices, but no driver is loaded; install NVIDIA's driver on the node")
    _load("libcuda.so.1", "the driver's libcuda.so.1 is not in the container; run it with NVIDIA's container toolkit")
    return f"{version.read_text().splitlines()[0].removeprefix('NVRM version: ')}; {devices} devices"


def tensorflow() -> str:
    """Load TensorFlow, and make the logical devices."""
    keras_settings.load()
    import keras
    import tensorflow as tf

    from trainer.distributed import shared_card

    gpus = tf.config.list_physical_devices("GPU")
    cpu = tf.config.list_physical_devices("CPU")[0]
    if not gpus and not tf.config.get_logical_device_configuration(cpu):
        # Two, so that the all-reduce has something to reduce without a GPU; must precede the first op.
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    shared_card.prepare(gpus)
    return f"TensorFlow {tf.__version__}, Keras {keras.__version__}"


def _build_info() -> dict[str, Any]:
    import tensorflow as tf

    return dict(tf.sysconfig.get_build_info())


def cuda() -> str:
    """Compare CUDA's runtime with what TensorFlow was built for."""
    return _same_major("CUDA", "cuda_version", "libcudart.so.12", "cudaRuntimeGetVersion", 1000, 10)


def cudnn() -> str:
    """Compare cuDNN with what TensorFlow was built for."""
    return _same_major("cuDNN", "cudnn_version", "libcudnn.so.9", "cudnnGetVersion", 10000, 100)


def _same_major(name: str, key: str, library: str, function: str, major: int, minor: int) -> str:
    """Compare the version that TensorFlow was built with to the installed one."""
    info = _build_info()
    if not info.get("is_cuda_build"):
        if nvidia_devices():
            raise Failed(f"this TensorFlow was built without {name}; install tensorflow[and-cuda] (the extra gpu)")
        return "this TensorFlow was built without"
    built = str(info.get(key, "?"))
    if not nvidia_devices():
        return f"built with {built}; not needed without a GPU"
    built_major = built.split(".")[0]
    binding = _load(_installed(library.rsplit(".", 1)[0] + f".{built_major}"),
                    f"{library} is not installed; install tensorflow[and-cuda] (the extra gpu)")  # fmt: skip
    if function == "cudnnGetVersion":
        binding.cudnnGetVersion.restype = ctypes.c_size_t
        number = int(binding.cudnnGetVersion())
    else:
        value = ctypes.c_int()
        binding.cudaRuntimeGetVersion(ctypes.byref(value))
        number = value.value
    version = f"{number // major}.{number % major // minor}"
    if version.split(".")[0] != built_major:
        raise Failed(f"built with {built}, found {version}; reinstall tensorflow[and-cuda] (the extra gpu)")
    return f"built with {built}, found {version}"


def _installed(library: str) -> str:
    """Return the path of a library among NVIDIA's wheels, or its bare name for the system's search."""
    paths = sorted(glob.glob(os.path.join(sysconfig.get_paths()["purelib"], "nvidia", "*", "lib", library)))
    return paths[0] if paths else library


def _load(library: str, remedy: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(library)
    except OSError as error:
        raise Failed(f"{remedy} ({error})") from error
