"""A folder of this machine that keeps compiled GPU programs and their measurements for the next start.

TensorFlow and XLA read its place from the environment, once, when the first program is compiled.
"""

import logging
import os
import re

import tensorflow as tf

log = logging.getLogger(__name__)

NONE = "none"


def use(folder: str) -> None:
    """Keep compiled GPU programs in a folder; call it before TensorFlow's first op.

    Args:
        folder: value of ``--xla_cache_dir``.
    """
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus or folder == NONE:
        return
    # A key of TensorFlow's holds neither its version nor the card.
    details = tf.config.experimental.get_device_details(gpus[0])
    name = f"tensorflow-{tf.__version__}-{details.get('device_name', 'GPU')}"
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


def place(folder: str) -> str:
    """Return the folder that a value of ``--xla_cache_dir`` means."""
    if folder != "auto":
        return folder
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return os.path.join(base, "deepdetect", "xla")


def variables(path: str) -> dict[str, list[str]]:
    """Return the flags that make TensorFlow keep executables, and XLA what it measured, by environment variable."""
    return {
        # Not those of a CPU: TensorFlow's augmentation is compiled there in less time than it takes to read a file.
        "TF_XLA_FLAGS": [
            f"--tf_xla_persistent_cache_directory={path}", "--tf_xla_persistent_cache_device_types=GPU",
        ],
        "XLA_FLAGS": [f"--xla_gpu_per_fusion_autotune_cache_dir={path}"],
    }  # fmt: skip


def with_flags(existing: str, words: list[str]) -> str:
    """Return the flags with those of ``words`` that they do not set already."""
    return " ".join([existing, *(word for word in words if word.split("=")[0] not in existing)]).strip()
