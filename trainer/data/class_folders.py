"""The files below each class folder of a split, local or remote, by one rule for every command.

Left out are hidden names, litter (``core/litter.py``), pipes, sockets and devices, and files beside the class folders.
Does not own: labels and order (``manifest.py``).  Imports no TensorFlow.
"""

import dataclasses

from trainer.core.litter import FILES, FOLDERS, LeftOut, is_litter, is_litter_folder
from trainer.core.storage import files, listing
from trainer.data import tfrecord


@dataclasses.dataclass(frozen=True)
class Listing:
    """The names below each class folder, relative to it, in any order; and what was left out, relative to the root."""

    classes: dict[str, list[str]]
    left_out: LeftOut


def read(root: str, *, keep_litter: bool = False) -> Listing | None:
    """Return the listing of a split's folder; None if there is no such folder.

    Args:
        root: the folder, such as ``faces/Train``.
        keep_litter: whether litter counts as images and classes, as it did in older versions.

    Raises:
        RequestError: if a folder may not be listed.
    """
    return (_read_remote if files.is_remote(root) else _read_local)(root, keep_litter)


def _read_local(root: str, keep_litter: bool) -> Listing | None:
    if not listing.is_folder(root):
        return None
    classes: dict[str, list[str]] = {}
    left_out = LeftOut()
    for entry in listing.entries(root):
        if listing.is_hidden(entry.name):
            continue
        if entry.kind is not listing.Kind.FOLDER:
            left_out += LeftOut(loose=(entry.name,))
        elif is_litter_folder(entry.name) and not keep_litter:
            left_out += LeftOut(litter=(f"{entry.name}/",))
        else:
            classes[entry.name], others = _read_class(root, entry.name, keep_litter)
            left_out += others
    return Listing(classes, left_out)


def _read_class(root: str, class_name: str, keep_litter: bool) -> tuple[list[str], LeftOut]:
    names: list[str] = []
    litter: list[str] = []
    special: list[str] = []

    def enters(path: str) -> bool:
        if listing.is_hidden(path):
            return False
        if is_litter_folder(path) and not keep_litter:
            litter.append(f"{class_name}/{path}/")
            return False
        return True

    # Linked folders are followed, as sets of links to other sets are common.
    for name, kind in listing.walk(files.join(root, class_name), follow_links=True, enters=enters):
        if listing.is_hidden(name):
            continue
        if is_litter(name) and not keep_litter:
            litter.append(f"{class_name}/{name}")
        elif kind is listing.Kind.SPECIAL:
            special.append(f"{class_name}/{name}")
        else:
            names.append(name)
    return names, LeftOut(tuple(litter), tuple(special))


def _read_remote(root: str, keep_litter: bool) -> Listing | None:
    """List a bucket in one pass over all objects; the mark of an empty folder counts as an empty class."""
    classes: dict[str, list[str]] = {}
    litter: list[str] = []
    loose: list[str] = []
    empty = True
    for path in files.list_below(root):
        empty = False
        class_name, slash, name = path.partition("/")
        if not slash:
            loose.append(path)
        elif is_litter(path) and not keep_litter:
            litter.append(path)
        else:
            members = classes.setdefault(class_name, [])
            if name and not name.endswith("/"):
                members.append(name)
    return None if empty else Listing(classes, LeftOut(tuple(litter), (), tuple(loose)))


def litter_among(names: tfrecord.Names) -> list[int]:
    """Return the positions of litter in a packed set, such as an older version wrote."""
    if not names.have_any_of((*FILES, *FOLDERS)):  # In a block, as a million names take a second one by one.
        return []
    return [number for number, name in enumerate(names) if is_litter(name)]
