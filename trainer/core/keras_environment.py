"""What Keras and TensorFlow find while they are imported: ``keras.json``, ``KERAS_BACKEND``, and optional packages.

Owns: the values that this program computes with.  Does not own: setting them in a process that has loaded Keras
(``models/keras_settings.py``).  Imports neither.
"""

import contextlib
import importlib.abc
import inspect
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

BACKEND = "tensorflow"
FLOATX = "float32"
EPSILON = 1e-7
DATA_FORMAT = "channels_last"

# Keras imports them if they are installed, for wrappers and drawings that no command uses: nearly half of the time that
# TensorFlow's import takes.
_OPTIONAL = ("sklearn", "matplotlib")


@contextlib.contextmanager
def lean() -> Iterator[None]:
    """Let Keras, and nobody else, miss its optional packages in the block; for processes of a command only.

    A notebook may want Keras's wrappers for scikit-learn.
    """
    finder = _NotForKeras()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _NotForKeras(importlib.abc.MetaPathFinder):
    """Finds nothing, and says so at once if Keras asks for a package of ``_OPTIONAL``."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> "ModuleSpec | None":
        if name in _OPTIONAL and _importer().startswith("keras."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return None


def _importer() -> str:
    """Return the name of the module that imports: the first frame outside the import system."""
    frame = inspect.currentframe()
    while frame and frame.f_globals.get("__name__", "").startswith((__name__, "importlib")):
        frame = frame.f_back
    return str(frame.f_globals.get("__name__", "")) if frame else ""


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
