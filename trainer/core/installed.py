"""Folders of the checkout that an installed package carries as well: Kubernetes manifests and recipes.

``setup.py`` copies them into the wheel.  Imports no TensorFlow.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
CHECKOUT = _PACKAGE.parent
RECIPES = "recipes"


def folder(name: str) -> Path:
    """Return a folder of the installed package, or else of the checkout."""
    own = _PACKAGE / "_files" / name
    return own if own.is_dir() else CHECKOUT / name


def recipe(path: str) -> str:
    """Return the installed recipe for ``recipes/NAME.yaml`` where there is no such file, else the path itself."""
    given = Path(path)
    own = folder(RECIPES) / given.name
    return str(own) if given.parent == Path(RECIPES) and not given.exists() and own.is_file() else path
