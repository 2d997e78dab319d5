"""A folder of this machine that keeps compiled GPU programs and their measurements for the next start.

TensorFlow reads its place from the environment when it is imported.  Imports no TensorFlow.
"""

import glob
import importlib.metadata
import logging
import os
import re
from pathlib import Path

from trainer.distributed import gpu_promise

log = logging.getLogger(__name__)

NONE = "none"

_CARDS = "/proc/driver/nvidia/gpus/*/information"
_KIND = "GPU"  # Not CPU: TensorFlow's augmentation is compiled there in less time than it takes to read a file.


def use(folder: str) -> None:
    """Keep compiled GPU programs in a folder; call it before TensorFlow is imported.

    Args:
        folder: value of ``--xla_cache_dir``.
    """
    if folder == NONE or not gpu_promise.nvidia_devices():
        return
    # A key of TensorFlow's holds neither its version nor the card.
    name = f"tensorflow-{importlib.metadata.version('tensorflow')}-{_cards()}"
    path = os.path.join(os.path.abspath(place(folder)), re.sub(r"[^\w.-]+", "-", name))
    try:
        os.makedirs(path, exist_ok=True)
        writable = os.access(path, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        log.log(logging.INFO if folder == "auto" else logging.WARNING, "xla_cache_dir: cannot write to %s; programs "
                "are compiled at every start", path)  # fmt: skip
        return
    for variable, words in variables(path).items():
        os.environ[variable] = with_flags(os.environ.get(variable, ""), words)


def _cards() -> str:
    """Return the kinds of this machine's GPUs, as the driver calls them."""
    texts = [Path(path).read_text() for path in glob.glob(_CARDS)]
    return "-".join(sorted({line.partition(":")[2].strip() for text in texts for line in text.splitlines()
                            if line.startswith("Model:")}))  # fmt: skip


def place(folder: str) -> str:
    """Return the folder that a value of ``--xla_cache_dir`` means."""
    if folder != "auto":
        return folder
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "deepdetect", "xla")


def variables(path: str) -> dict[str, list[str]]:
    """Return the flags that make TensorFlow keep executables, and XLA what it measured, by environment variable."""
    return {
        "TF_XLA_FLAGS": [
            f"--tf_xla_persistent_cache_directory={path}", f"--tf_xla_persistent_cache_device_types={_KIND}",
        ],
        "XLA_FLAGS": [f"--xla_gpu_per_fusion_autotune_cache_dir={path}"],
    }  # fmt: skip


def with_flags(existing: str, words: list[str]) -> str:
    """Return the flags with those of ``words`` that they do not set already."""
    return " ".join([existing, *(word for word in words if word.split("=")[0] not in existing)]).strip()
