"""Which layout a data_dir has, and how its images are read.

Imports no TensorFlow.
"""

import functools
from collections.abc import Callable, Sequence

from trainer.core.config import LAYOUTS, LayoutConfig
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data.layouts import folders, table_files, tree, words
from trainer.data.layouts.images import Images

AUTO, EXACT, FOLDERS, LIST = "auto", "exact", "folders", "list"

# Lists the images of the named splits; of all splits if none is named.
Read = Callable[[Sequence[str]], Images]


def resolve(data_dir: str, settings: LayoutConfig) -> Read | None:
    """Return what reads data_dir; None if it is ``{Train,Validation,Test}/<class>``, or nothing that is recognised.

    Raises:
        RequestError: if several places or layouts fit, or data_dir is not what ``--layout`` says.
    """
    if settings.layout == EXACT:
        return None
    if table_files.is_list(data_dir) and settings.layout == AUTO:
        return functools.partial(_read_published, LIST, data_dir, settings)
    names = tree.folders(data_dir)
    name = _look(data_dir, names) if settings.layout == AUTO else settings.layout
    if name != FOLDERS:
        return functools.partial(_read_published, name, data_dir, settings)
    if table_files.is_list(data_dir):
        raise RequestError(
            f"--layout={FOLDERS}: expected a folder, received the list {data_dir!r}; use --layout={LIST}"
        )
    place = folders.find(data_dir, settings, names)
    if place is None or (place.is_exact and not place.moved and not settings.labels):
        return None
    return functools.partial(folders.read, place, settings)


def _look(data_dir: str, names: Sequence[str]) -> str:
    """Return the layout that a folder with folders of these names looks like."""
    if any(map(words.split_of, names)):
        return FOLDERS
    return next((one for one in _published() if LAYOUTS.load(one).recognises(data_dir, names)), FOLDERS)


def _published() -> list[str]:
    return [name for name in LAYOUTS if name not in (AUTO, EXACT, FOLDERS)]


def _read_published(name: str, data_dir: str, settings: LayoutConfig, wanted: Sequence[str]) -> Images:
    module = LAYOUTS.load(name)
    names = [] if table_files.is_list(data_dir) else tree.folders(data_dir)  # A web server lists nothing.
    if not module.recognises(data_dir, names):
        raise RequestError(
            f"--layout={name}: expected {module.HELP.rstrip('.')}, received {data_dir!r}; check the path, or leave "
            "--layout out"
        )
    images: Images = module.read(data_dir, settings)
    if not images.names:
        raise RequestError(f"--data_dir: expected images in {images.what}, received none; check the path")
    return images


def hint(data_dir: str) -> str:
    """Return what else could be meant by a data_dir in which nothing is recognised, for a message; empty: nothing."""
    if not files.is_dir(data_dir):
        return ""
    other = folders.hint(data_dir)
    return f"; did you mean --data_dir={other}?" if other else ""
