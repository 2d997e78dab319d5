"""Memory, scratch space and paths of this machine or container.  Imports no TensorFlow."""

import os
import shutil
import tempfile
from pathlib import Path

from trainer.core.storage import files
from trainer.distributed.gpu_promise import nvidia_devices
from trainer.training.selftest.outcome import Failed

_GIB = 2**30
_LEAST_MEMORY = 2 * _GIB  # Loading TensorFlow alone takes one.
_LEAST_SHM = 1 * _GIB  # For NCCL between GPUs; Docker's default is 64 MB.
_LEAST_TMP = 1 * _GIB


def memory() -> str:
    """Require memory for TensorFlow."""
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


def shared_memory() -> str:
    """Require shared memory for NCCL."""
    usage = shutil.disk_usage("/dev/shm")
    text = f"{usage.total / _GIB:.2f} GiB"
    if usage.total < _LEAST_SHM and nvidia_devices() > 1:
        raise Failed(
            f"{text}; NCCL needs at least 1 GiB: mount an emptyDir of medium Memory, or use docker --shm-size=2g"
        )
    return text


def scratch() -> str:
    """Require a temporary folder that can be written."""
    folder = tempfile.gettempdir()
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"x" * 4096)
    free = shutil.disk_usage(folder).free
    if free < _LEAST_TMP:
        raise Failed(f"{folder} has {free / _GIB:.2f} GiB free; expected at least {_LEAST_TMP // _GIB} GiB, set TMPDIR")
    return f"{folder} can be written, {free / _GIB:.1f} GiB free"


def data_dir(path: str) -> str:
    """Require a folder or bucket that can be listed."""
    if not path:
        return "not checked; give --data_dir"
    names = files.list_names(path)
    if not names:
        raise Failed(
            f"{path} does not exist, is empty, or is not readable; give the ServiceAccount roles/storage.objectViewer"
        )
    return f"{path} holds {', '.join(names[:5])}"


def job_dir(path: str) -> str:
    """Require a folder or bucket that can be written."""
    if not path:
        return "not checked; give --job_dir"
    files.require_writable(path, "job_dir")
    return f"{path} can be written"
