"""What Keras and TensorFlow read of the user's while they are imported: ``keras.json`` and ``KERAS_BACKEND``.

Owns: the values that this program computes with.  Does not own: setting them in a process that has loaded Keras
(``models/keras_settings.py``).  Imports neither.
"""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator

BACKEND = "tensorflow"
FLOATX = "float32"
EPSILON = 1e-7
DATA_FORMAT = "channels_last"


@contextlib.contextmanager
def safe() -> Iterator[None]:
    """Make sure that both can be imported in the block, and that Keras gets TensorFlow as its backend.

    Other settings in a ``keras.json`` that can be read are set back later; one that cannot be read is hidden.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_environment("KERAS_BACKEND", BACKEND))
        if not _is_readable(_settings_file()):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            stack.enter_context(_environment("KERAS_HOME", folder))
        yield


def _settings_file() -> str:
    """Return the path from which Keras reads its settings."""
    home = os.path.expanduser("~")
    folder = os.path.join(home if os.access(home, os.W_OK) else "/tmp", ".keras")
    return os.path.expanduser(os.path.join(os.environ.get("KERAS_HOME", folder), "keras.json"))


def _is_readable(path: str) -> bool:
    if not os.path.exists(path):
        return True
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError):
        return False
    if not isinstance(content, dict):
        return False
    floatx, data_format = content.get("floatx", FLOATX), content.get("image_data_format", DATA_FORMAT)
    return (
        floatx in ("float16", "float32", "float64")
        and data_format in ("channels_last", "channels_first")
        and isinstance(content.get("epsilon", EPSILON), float)
    )


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Set an environment variable for the block."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
