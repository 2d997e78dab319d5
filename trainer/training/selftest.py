"""``python -m trainer.train --selftest``: check whether this machine or container can run a training job.

Prints one line for each check: ok, or FAILED with what to do.  Takes about ten seconds, mostly to load TensorFlow.
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

from trainer.core.config import PATH, flags, setting
from trainer.core.errors import EXIT_DONE, EXIT_FAILED, RequestError
from trainer.core.storage import files
from trainer.models import keras_settings

USAGE = """\
Check GPUs, driver, CUDA, cuDNN, NCCL, memory, the bucket and write access for a training job.

  python -m trainer.train --selftest [--expect_gpus=N] [--data_dir=D] [--job_dir=J]

Exit codes: 0 all checks passed; 1 a check FAILED; 2 the request is wrong."""

_GIB = 2**30
_LEAST_MEMORY = 2 * _GIB  # Loading TensorFlow alone takes one.
_LEAST_SHM = 1 * _GIB  # For NCCL between GPUs; Docker's default is 64 MB.
_LEAST_TMP = 1 * _GIB


@dataclasses.dataclass(frozen=True)
class SelfTestFlags:
    """Settings of the self-test."""

    expect_gpus: int = setting(
        -1, "Number of GPUs to expect; -1: as many as there are visible NVIDIA devices.", minimum=-1
    )
    data_dir: str = setting("", "Folder or gs:// path that must be readable; empty: not checked.", path=PATH)
    job_dir: str = setting("", "Folder or gs:// path that must be writable; empty: not checked.", path=PATH)


class Failed(Exception):
    """A check failed; the message says what is wrong and what to do."""


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
    outcomes = [_report(name, check) for name, check in checks.items()]  # All of them, even after a failure.
    return EXIT_DONE if all(outcomes) else EXIT_FAILED


def _report(name: str, check: Callable[[], str]) -> bool:
    try:
        text = check()
        passed = True
    except Exception as error:  # Whatever breaks here would have broken the training.
        kind = "" if isinstance(error, (Failed, RequestError)) else f"{type(error).__name__}: "
        text = kind + " ".join(str(error).split())
        passed = False
    print(f"{'ok' if passed else 'FAILED':<7} {name:<12} {text}", flush=True)
    return passed


def _visible_devices() -> int:
    """Return the number of NVIDIA devices that this process can see."""
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
    # Two logical CPUs, so that the all-reduce has something to reduce without a GPU; must precede the first op.
    keras_settings.load()
    import keras
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    if not tf.config.list_physical_devices("GPU") and not tf.config.get_logical_device_configuration(cpu):
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    return f"TensorFlow {tf.__version__}, Keras {keras.__version__}"


def _gpus(expected: int) -> str:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    count = _visible_devices() if expected < 0 else expected
    if len(gpus) != count:
        raise Failed(
            f"expected {count}, TensorFlow found {len(gpus)}; if its log says that it cannot dlopen libraries, "
            "install tensorflow[and-cuda] (the extra gpu); otherwise give the pod nvidia.com/gpu, or check "
            "CUDA_VISIBLE_DEVICES"
        )
    details = [tf.config.experimental.get_device_details(gpu) for gpu in gpus]
    names = [f"{one.get('device_name')} {'.'.join(map(str, one.get('compute_capability', ())))}" for one in details]
    return ", ".join([*names, *_gpu_memory()]) or "none, as expected"


def _gpu_memory() -> list[str]:
    """Return "free of total" memory of each GPU from nvidia-smi; nothing if it is not installed."""
    tool = shutil.which("nvidia-smi")
    if not tool or not _visible_devices():
        return []
    words = [tool, "--query-gpu=memory.free,memory.total", "--format=csv,noheader"]
    lines = subprocess.run(words, capture_output=True, text=True, timeout=10, check=False).stdout.splitlines()
    return [f"memory {line.replace(',', ' free of')}" for line in lines]


def _build_info() -> dict[str, Any]:
    import tensorflow as tf

    return dict(tf.sysconfig.get_build_info())


def _cuda() -> str:
    return _same_major("CUDA", "cuda_version", "libcudart.so.12", "cudaRuntimeGetVersion", 1000, 10)


def _cudnn() -> str:
    return _same_major("cuDNN", "cudnn_version", "libcudnn.so.9", "cudnnGetVersion", 10000, 100)


def _same_major(name: str, key: str, library: str, function: str, major: int, minor: int) -> str:
    """Compare the version that TensorFlow was built with to the installed one."""
    info = _build_info()
    if not info.get("is_cuda_build"):
        if _visible_devices():
            raise Failed(f"this TensorFlow was built without {name}; install tensorflow[and-cuda] (the extra gpu)")
        return "this TensorFlow was built without"
    built = str(info.get(key, "?"))
    if not _visible_devices():
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


def _devices() -> list[str]:
    import tensorflow as tf

    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    return [device.name for device in devices]


def _convolution() -> str:
    """Run a convolution and its gradient on each device, which needs driver, CUDA, cuDNN and memory."""
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
    return f"correct, with its gradient, on {len(_devices())} {_kind()}"


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
            raise Failed(f"the sum over {count} devices is wrong; set NCCL_DEBUG=INFO and check /dev/shm")
    return f"correct over {count} {_kind()}" + (", by NCCL" if _kind() == "GPUs" and count > 1 else "")


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
        raise Failed(f"{text}; expected at least {_LEAST_MEMORY // _GIB} GiB: raise resources.limits.memory")
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
        raise Failed(
            f"{text}; NCCL needs at least 1 GiB: mount an emptyDir of medium Memory, or use docker --shm-size=2g"
        )
    return text


def _scratch() -> str:
    folder = tempfile.gettempdir()
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x" * 4096)
    free = shutil.disk_usage(folder).free
    if free < _LEAST_TMP:
        raise Failed(f"{folder} has {free / _GIB:.2f} GiB free; expected at least {_LEAST_TMP // _GIB} GiB, set TMPDIR")
    return f"{folder} can be written, {free / _GIB:.1f} GiB free"


def _data_dir(path: str) -> str:
    if not path:
        return "not checked; give --data_dir"
    names = files.list_names(path)
    if not names:
        raise Failed(
            f"{path} does not exist, is empty, or is not readable; give the ServiceAccount roles/storage.objectViewer"
        )
    return f"{path} holds {', '.join(names[:5])}"


def _job_dir(path: str) -> str:
    if not path:
        return "not checked; give --job_dir"
    files.require_writable(path, "job_dir")
    return f"{path} can be written"
