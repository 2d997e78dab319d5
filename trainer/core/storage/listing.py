"""What is in a folder of a local or mounted file system, such that trouble never looks like an empty folder.

``os.path.exists``, ``os.path.isdir`` and ``os.walk`` take every error for "there is nothing".  Here what may pass by
itself is retried (``transient.py``), a lack of permission is the request's fault, and only ENOENT and the like mean
that there is nothing.  Imports no TensorFlow.
"""

import dataclasses
import enum
import errno
import os
import stat
from collections.abc import Callable, Iterator

from trainer.core.errors import RequestError
from trainer.core.storage.transient import is_transient, reason, retry

# A name that cannot exist; reading it raises the error that says so.
_IMPOSSIBLE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL)


class Kind(enum.Enum):
    """What a name stands for, links followed; a broken link is a file, whose reading names the trouble."""

    FILE = "file"
    FOLDER = "folder"
    SPECIAL = "pipe, socket or device"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One name in a folder; ``is_link`` says whether it is a symbolic link."""

    name: str
    kind: Kind
    is_link: bool


def is_hidden(path: str) -> bool:
    """Return whether a name, or the last one of a path, begins with a dot."""
    return path.rpartition("/")[2].startswith(".")


def status(path: str) -> os.stat_result | None:
    """Return the status of a file or folder, links followed; None if there is nothing of this name.

    Raises:
        RequestError: if permission is missing to find out.
        StorageDown: if the file system does not answer.
    """
    try:
        return retry(path, lambda: os.stat(path))
    except ValueError:  # A NUL byte.
        return None
    except OSError as error:
        if error.errno in _IMPOSSIBLE:
            return None
        raise _refused(path, error) from error


def is_folder(path: str) -> bool:
    """Return whether there is a folder of this name; raises as ``status`` does."""
    result = status(path)
    return result is not None and stat.S_ISDIR(result.st_mode)


def entries(folder: str) -> list[Entry]:
    """Return what is in a folder, sorted by name; empty if there is no such folder.

    Raises:
        RequestError: if it may not be listed.
        StorageDown: if the file system does not answer.
    """
    try:
        return retry(folder, lambda: _scan(folder))
    except ValueError:
        return []
    except OSError as error:
        if error.errno in _IMPOSSIBLE:
            return []
        raise _refused(error.filename or folder, error) from error


def walk(
    folder: str, *, follow_links: bool, enters: Callable[[str], bool] = lambda path: True
) -> Iterator[tuple[str, Kind]]:
    """Yield the path relative to ``folder`` and the kind of everything below it but folders.

    A folder's files come first, then its folders, each by name.

    Args:
        folder: an absent one has nothing below it.
        follow_links: whether linked folders are entered; each folder is entered once, so links cannot loop.
        enters: whether to enter a folder, by its path relative to ``folder``.

    Raises:
        RequestError: if a folder may not be listed.
        StorageDown: if the file system does not answer.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        path = os.path.join(folder, prefix) if prefix else folder
        if follow_links and not _is_new(path, seen):
            continue
        members = entries(path)
        yield from ((prefix + one.name, one.kind) for one in members if one.kind is not Kind.FOLDER)
        folders = [one for one in members if one.kind is Kind.FOLDER and (follow_links or not one.is_link)]
        below = [prefix + one.name for one in folders if enters(prefix + one.name)]
        waiting += [f"{path}/" for path in reversed(below)]


def _is_new(path: str, seen: set[tuple[int, int]]) -> bool:
    """Return whether a folder has not been seen before, and remember it."""
    result = status(path)
    if result is None or (result.st_dev, result.st_ino) in seen:
        return False
    seen.add((result.st_dev, result.st_ino))
    return True


def _scan(folder: str) -> list[Entry]:
    with os.scandir(folder) as found:
        return sorted((Entry(one.name, _kind(one), one.is_symlink()) for one in found), key=lambda one: one.name)


def _kind(entry: "os.DirEntry[str]") -> Kind:
    try:
        if entry.is_dir():
            return Kind.FOLDER
        return Kind.FILE if entry.is_file() or _is_broken(entry) else Kind.SPECIAL
    except OSError as error:
        if is_transient(error) or error.errno not in _IMPOSSIBLE:
            raise
        return Kind.FILE  # A link to itself.


def _is_broken(entry: "os.DirEntry[str]") -> bool:
    """Return whether an entry is a link to nothing."""
    try:
        entry.stat()
    except FileNotFoundError:
        return entry.is_symlink()
    return False


def _refused(path: str, error: OSError) -> RequestError:
    return RequestError(
        f"expected a file or folder that this account may list and read, received {path!r} ({reason(error)}); give the "
        "account read and execute permission on it and on the folders above, or move it elsewhere"
    )
