"""The files and folders of a tree of images, local or remote, hidden names and litter left out.

Imports no TensorFlow.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from trainer.core.litter import LeftOut, is_litter, is_litter_folder
from trainer.core.storage import files, listing

_FILE = re.compile(r"\.[A-Za-z][A-Za-z0-9]{0,6}$")  # The ending of a file's name, which tells it from a folder's.
_NO_IMAGES = (".json", ".txt", ".csv", ".tsv", ".jsonl", ".parquet", ".md", ".pkl", ".npy", ".mp4", ".avi", ".mov")


def folders(path: str) -> list[str]:
    """Return the sorted names of the folders in a folder that are neither hidden nor litter.

    Raises:
        RequestError: if it may not be listed.
    """
    if files.is_remote(path):
        names = [name for name in files.list_names(path) if not _FILE.search(name)]  # One request, not one for each.
    else:
        names = [entry.name for entry in listing.entries(path) if entry.kind is listing.Kind.FOLDER]
    return [name for name in names if not listing.is_hidden(name) and not is_litter_folder(name)]


def walk(root: str) -> tuple[list[str], LeftOut]:
    """Return the names of all files below a folder, relative to it, in any order, and what was left out.

    Raises:
        RequestError: if a folder may not be listed.
    """
    if files.is_remote(root):
        return _remote(root)
    litter: list[str] = []
    special: list[str] = []
    names: list[str] = []

    def enters(path: str) -> bool:
        if is_litter_folder(path):
            litter.append(f"{path}/")
        return not listing.is_hidden(path) and not is_litter_folder(path)

    for name, kind in listing.walk(root, follow_links=True, enters=enters):
        if not listing.is_hidden(name):
            kept = litter if is_litter(name) else special if kind is listing.Kind.SPECIAL else names
            kept.append(name)
    return names, LeftOut(tuple(litter), tuple(special))


def _remote(root: str) -> tuple[list[str], LeftOut]:
    names: list[str] = []
    litter: list[str] = []
    for name in files.list_below(root):
        if not name.endswith("/"):
            (litter if is_litter(name) else names).append(name)
    return names, LeftOut(tuple(litter))


def below(root: str, parts: Sequence[str]) -> tuple[list[str], LeftOut]:
    """Return what ``walk`` returns of some folders below ``root``, relative to ``root``."""
    names: list[str] = []
    left_out = LeftOut()
    for part in parts:
        inside, others = walk(files.join(root, part))
        names += [f"{part}/{name}" for name in inside]
        left_out += others.below(part)
    return names, left_out


def may_be_images(names: Sequence[str]) -> Iterator[str]:
    """Yield the names that are not those of lists, texts and videos, which lie among the images of published sets."""
    return (name for name in names if not name.lower().endswith(_NO_IMAGES))


def any_below(path: str, accepts: Callable[[str], bool]) -> bool:
    """Return whether any folder in a folder has a name that is accepted."""
    return any(accepts(name) for name in folders(path))
