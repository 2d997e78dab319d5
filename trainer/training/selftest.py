"""``python -m trainer.train --selftest``: say whether this machine, or this container, is as a training job needs it.

One line a subject, ok or FAILED with what to do; about ten seconds, most of them TensorFlow's start.
"""

import ctypes
import dataclasses
import glob
import os
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainer.core.config import flags, setting
from trainer.core.errors import EXIT_DONE, EXIT_FAILED, RequestError
from trainer.core.storage import files

USAGE = """\
Say whether GPUs, driver, CUDA, cuDNN, NCCL, memory, the bucket and write access are as training needs them.

  python -m trainer.train --selftest [--expect_gpus=N] [--data_dir=D] [--job_dir=J]

Exit codes: 0 all is well; 1 something FAILED; 2 the request is wrong."""

_GIB = 2**30
_LEAST_MEMORY = 2 * _GIB  # TensorFlow's start alone takes one.
_LEAST_SHM = 1 * _GIB  # For NCCL between GPUs; Docker gives 64 MB unless it is told otherwise.
_LEAST_TMP = 1 * _GIB


@dataclasses.dataclass(frozen=True)
class SelfTestFlags:
    """Settings of the self-test."""

    expect_gpus: int = setting(-1, "GPUs that must be there; -1: as many as NVIDIA devices are visible.", minimum=-1)
    data_dir: str = setting("", "Folder or gs:// path that must be readable; empty: not looked at.")
    job_dir: str = setting("", "Folder or gs:// path that must be writable; empty: not looked at.")


class Failed(Exception):
    """Say what is wrong and what to do."""


def main(argv: Sequence[str]) -> int:
    """Print a line for each check and return the exit code."""
    own = flags.parse_request(argv, SelfTestFlags, usage=USAGE)
    checks: dict[str, Callable[[], str]] = {
        "driver": _driver,
        "tensorflow": _tensorflow,
        "GPUs": lambda: _gpus(own.expect_gpus),
        "CUDA": _cuda,
        "cuDNN": _cudnn,
        "convolution": _convolution,
        "all-reduce": _all_reduce,
        "memory": _memory,
        "/dev/shm": _shared_memory,
        "scratch": _scratch,
        "data_dir": lambda: _data_dir(own.data_dir),
        "job_dir": lambda: _job_dir(own.job_dir),
    }
    outcomes = [_report(name, check) for name, check in checks.items()]  # All of them, whatever fails.
    return EXIT_DONE if all(outcomes) else EXIT_FAILED


def _report(name: str, check: Callable[[], str]) -> bool:
    try:
        text, is_well = check(), True
    except Exception as error:  # Whatever breaks here would have broken the training.
        kind = "" if isinstance(error, (Failed, RequestError)) else f"{type(error).__name__}: "
        text, is_well = kind + " ".join(str(error).split()), False
    print(f"{'ok' if is_well else 'FAILED':<7} {name:<12} {text}", flush=True)
    return is_well


def _visible_devices() -> int:
    """Return the NVIDIA devices that the driver shows to this process."""
    return len(glob.glob("/dev/nvidia[0-9]*"))


def _driver() -> str:
    version = Path("/proc/driver/nvidia/version")
    devices = _visible_devices()
    if not devices:
        return "no NVIDIA device is visible: training runs on the CPU"
    if not version.exists():
        raise Failed(f"{devices} devices, but no driver is loaded; install NVIDIA's driver on the node")
    _load("libcuda.so.1", "the driver's libcuda.so.1 is not in the container; run it with NVIDIA's container toolkit")
    return f"{version.read_text().splitlines()[0].removeprefix('NVRM version: ')}; {devices} devices"


def _tensorflow() -> str:
    # Two logical CPUs, so that the all-reduce has something to reduce without a GPU; before the first op.
    import keras
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    if not tf.config.list_physical_devices("GPU") and not tf.config.get_logical_device_configuration(cpu):
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return f"TensorFlow {tf.__version__}, Keras {keras.__version__}"


def _gpus(expected: int) -> str:
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    wanted = _visible_devices() if expected < 0 else expected
    if len(found) != wanted:
        raise Failed(
            f"expected {wanted}, TensorFlow found {len(found)}; if its log says that it cannot dlopen libraries, "
            "install tensorflow[and-cuda] (the extra gpu); else give the pod nvidia.com/gpu, or look at "
            "CUDA_VISIBLE_DEVICES"
        )
    details = [tf.config.experimental.get_device_details(gpu) for gpu in found]
    names = [f"{one.get('device_name')} {'.'.join(map(str, one.get('compute_capability', ())))}" for one in details]
    return ", ".join([*names, *_gpu_memory()]) or "none, as expected"


def _gpu_memory() -> list[str]:
    """Return "free of total" of each GPU as nvidia-smi tells it; nothing if it is not there."""
    tool = shutil.which("nvidia-smi")
    if not tool or not _visible_devices():
        return []
    words = [tool, "--query-gpu=memory.free,memory.total", "--format=csv,noheader"]
    told = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False).stdout.splitlines()
    return [f"memory {line.replace(',', ' free of')}" for line in told]


def _build_info() -> dict[str, Any]:
    import tensorflow as tf

    return dict(tf.sysconfig.get_build_info())


def _cuda() -> str:
    return _same_major("CUDA", "cuda_version", "libcudart.so.12", "cudaRuntimeGetVersion", 1000, 10)


def _cudnn() -> str:
    return _same_major("cuDNN", "cudnn_version", "libcudnn.so.9", "cudnnGetVersion", 10000, 100)


def _same_major(name: str, key: str, library: str, function: str, major: int, minor: int) -> str:
    """Compare the version that TensorFlow was built with to the one that is installed."""
    info = _build_info()
    if not info.get("is_cuda_build"):
        if _visible_devices():
            raise Failed(f"this TensorFlow was built without {name}; install tensorflow[and-cuda] (the extra gpu)")
        return "this TensorFlow was built without"
    built = str(info.get(key, "?"))
    if not _visible_devices():
        return f"built with {built}; not needed without a GPU"
    wanted = built.split(".")[0]
    loaded = _load(_installed(library.rsplit(".", 1)[0] + f".{wanted}"),
                   f"{library} is not installed; install tensorflow[and-cuda] (the extra gpu)")  # fmt: skip
    if function == "cudnnGetVersion":
        loaded.cudnnGetVersion.restype = ctypes.c_size_t
        number = int(loaded.cudnnGetVersion())
    else:
        value = ctypes.c_int()
        loaded.cudaRuntimeGetVersion(ctypes.byref(value))
        number = value.value
    found = f"{number // major}.{number % major // minor}"
    if found.split(".")[0] != wanted:
        raise Failed(f"built with {built}, found {found}; install tensorflow[and-cuda] (the extra gpu) afresh")
    return f"built with {built}, found {found}"


def _installed(library: str) -> str:
    """Return the path of a library among NVIDIA's wheels, or its bare name for the system's search."""
    found = sorted(glob.glob(os.path.join(sysconfig.get_paths()["purelib"], "nvidia", "*", "lib", library)))
    return found[0] if found else library


def _load(library: str, remedy: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(library)
    except OSError as error:
        raise Failed(f"{remedy} ({error})") from error


def _devices() -> list[str]:
    import tensorflow as tf

    found = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in found]


def _convolution() -> str:
    """Run a convolution and its gradient on each device: driver, CUDA, cuDNN and memory in one."""
    import tensorflow as tf

    for device in _devices():
        with tf.device(device):
            kernel = tf.Variable(tf.ones([3, 3, 3, 8]) / 27.0)
            with tf.GradientTape() as tape:
                total = tf.reduce_sum(tf.nn.conv2d(tf.ones([2, 32, 32, 3]), kernel, 1, "VALID"))
            gradient = tape.gradient(total, kernel)
        expected = 2 * 30 * 30
        if abs(float(total) - expected * 8) > 1 or abs(float(gradient[0, 0, 0, 0]) - expected) > 1:
            raise Failed(f"{device} computes {float(total):g}, expected {expected * 8}; take the node out of service")
    return f"right, with its gradient, on {len(_devices())} {_kind()}"


def _all_reduce() -> str:
    """Sum a vector over all devices as training does: NCCL between GPUs."""
    import tensorflow as tf

    strategy = tf.distribute.MirroredStrategy(_devices())

    @tf.function
    def reduce() -> Any:
        def one() -> Any:
            context = tf.distribute.get_replica_context()
            mine = tf.cast(context.replica_id_in_sync_group + 1, tf.float32) * tf.ones([1024])
            return context.all_reduce("SUM", mine)

        return strategy.experimental_local_results(strategy.run(one))

    count = strategy.num_replicas_in_sync
    expected = count * (count + 1) / 2
    for vector in reduce():
        if float(tf.reduce_max(tf.abs(vector - expected))) > 0:
            raise Failed(f"the sum over {count} devices is wrong; set NCCL_DEBUG=INFO and look at /dev/shm")
    return f"right over {count} {_kind()}" + (", by NCCL" if _kind() == "GPUs" and count > 1 else "")


def _kind() -> str:
    return "GPUs" if "GPU" in _devices()[0] else "CPU devices"


def _memory() -> str:
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit = _container_limit()
    least = min(free, limit) if limit else free
    text = f"{free / _GIB:.1f} GiB free" + (f", limit of the container {limit / _GIB:.1f} GiB" if limit else "")
    if least < _LEAST_MEMORY:
        raise Failed(f"{text}; expected {_LEAST_MEMORY // _GIB} GiB at least: raise resources.limits.memory")
    return text


def _container_limit() -> int:
    """Return the memory limit of the control group, bytes; 0 for none."""
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if os.path.exists(path):
            text = Path(path).read_text().strip()
            return int(text) if text.isdecimal() and int(text) < 2**60 else 0
    return 0


def _shared_memory() -> str:
    usage = shutil.disk_usage("/dev/shm")
    text = f"{usage.total / _GIB:.2f} GiB"
    if usage.total < _LEAST_SHM and _visible_devices() > 1:
        raise Failed(f"{text}; NCCL needs 1 GiB at least: mount an emptyDir of medium Memory, or docker --shm-size=2g")
    return text


def _scratch() -> str:
    folder = tempfile.gettempdir()
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x" * 4096)
    free = shutil.disk_usage(folder).free
    if free < _LEAST_TMP:
        raise Failed(f"{folder} has {free / _GIB:.2f} GiB free; expected {_LEAST_TMP // _GIB} GiB at least, set TMPDIR")
    return f"{folder} can be written, {free / _GIB:.1f} GiB free"


def _data_dir(path: str) -> str:
    if not path:
        return "not asked for; give --data_dir"
    names = files.list_names(path)
    if not names:
        raise Failed(f"{path} is not there, empty, or not readable; give the ServiceAccount roles/storage.objectViewer")
    return f"{path} holds {', '.join(names[:5])}"


def _job_dir(path: str) -> str:
    if not path:
        return "not asked for; give --job_dir"
    files.require_writable(path, "job_dir")
    return f"{path} can be written"
