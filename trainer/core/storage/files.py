"""Files of this machine and objects of gs:// behind one door; the latter are ``gcs.py``'s, loaded on use.

Owns: that a written file is whole or absent.  Does not own: names inside job_dir (``job_dir.py``).
Imports no TensorFlow.
"""

import contextlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trainer.core.errors import RequestError, StoppedEarly
from trainer.core.storage import gcs, gcs_client

log = logging.getLogger(__name__)

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_REMOTE_APPEND_SECONDS = 10.0  # Appending to an object takes three requests, some tenths of a second.
_THREADS = 16
_PART_BYTES = 16 * 2**20  # Of a large object that is fetched in parts.


def is_remote(path: str) -> bool:
    """Tell whether a path has a scheme: gs://, or another one that every use will refuse."""
    return bool(_SCHEME.match(path))


def require_form(path: str, flag: str) -> None:
    """Refuse what is neither a local path nor a gs:// path, before anything is asked of it.

    Raises:
        RequestError: naming the flag.
    """
    if is_remote(path):
        with _about(flag):
            gcs_client.split(path)


@contextlib.contextmanager
def _about(flag: str) -> Iterator[None]:
    try:
        yield
    except RequestError as error:
        raise RequestError(f"--{flag}: {error}") from error


def join(path: str, *names: str) -> str:
    """Join with "/", for local and remote paths alike."""
    return "/".join([path.rstrip("/"), *names]) if names else path


def printable(path: str) -> str:
    """Return a path fit for a UTF-8 file: bytes of a name that are not UTF-8 become U+FFFD."""
    return path.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def exists(path: str) -> bool:
    """Tell whether a file or folder is there."""
    return gcs.exists(path) if is_remote(path) else os.path.exists(path)


def is_dir(path: str) -> bool:
    """Tell whether a folder is there; on gs://, whether there are objects below."""
    return gcs.is_dir(path) if is_remote(path) else os.path.isdir(path)


def list_names(path: str) -> list[str]:
    """Return the sorted names inside a folder; empty if there is no such folder."""
    if is_remote(path):
        return gcs.list_names(path)
    return sorted(os.listdir(path)) if os.path.isdir(path) else []


def list_below(path: str, *, hidden: bool = False) -> Iterator[str]:
    """Yield the names of all files below a folder, relative to it, in any order.

    Names with a part that begins with a dot are left out unless ``hidden``; linked folders are not entered.  On gs://
    a name that ends with "/" is the mark of a folder.
    """
    names = gcs.list_below(path) if is_remote(path) else _list_local(path, hidden)
    return (name for name in names if hidden or not any(part.startswith(".") for part in name.split("/")))


def _list_local(path: str, hidden: bool) -> Iterator[str]:
    for parent, folders, names in os.walk(path):
        if not hidden:
            folders[:] = [name for name in folders if not name.startswith(".")]
        relative = os.path.relpath(parent, path)
        prefix = "" if relative == "." else relative + "/"
        yield from (prefix + name for name in names)


def read_bytes(path: str) -> bytes:
    """Return a file's content; safe to call from many threads."""
    return gcs.read(path) if is_remote(path) else Path(path).read_bytes()


def read_range(path: str, offset: int, length: int) -> bytes:
    """Return up to ``length`` bytes from ``offset`` (bytes) on, fewer where the file ends; safe from many threads."""
    if is_remote(path):
        return gcs.read_range(path, offset, length)
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def read_text(path: str) -> str:
    """Return a file's content as UTF-8."""
    return read_bytes(path).decode("utf-8")


def write_bytes(path: str, content: bytes) -> None:
    """Write a file so that it is whole or absent: beside its name first, flushed to disk, then renamed.

    A gs:// object appears only when its upload is complete, so it is written in place.
    """
    if is_remote(path):
        gcs.write(path, content)
        return
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    beside = f"{path}.tmp-{os.getpid()}"
    with open(beside, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


def write_text(path: str, content: str) -> None:
    """Write UTF-8 text so that the file is whole or absent."""
    write_bytes(path, content.encode("utf-8"))


def append_bytes(path: str, content: bytes) -> None:
    """Append to a file, making it if needed; after an error the file is as before."""
    if is_remote(path):
        gcs.append(path, content)
        return
    with open(path, "ab", buffering=0) as file:
        before = file.tell()
        try:
            while content:
                content = content[file.write(content) :]
        except OSError:  # A full disk may have taken half of it.
            file.truncate(before)
            raise


def append_text(path: str, content: str) -> None:
    """Append UTF-8 text to a file, making it if needed; after an error the file is as before."""
    append_bytes(path, content.encode("utf-8"))


class Lines:
    """A text file that grows by lines; what a full disk refuses waits for the next ones.

    On gs:// lines wait until ``flush``, or for ten seconds, because an append would hold up the caller.
    """

    def __init__(self, path: str) -> None:
        """Append to a file that need not exist."""
        self._path, self._waiting, self._written = path, list[str](), time.monotonic()

    def add(self, lines: list[str]) -> None:
        """Append lines, given without their ends."""
        self._waiting += [line + "\n" for line in lines]
        if not is_remote(self._path) or time.monotonic() - self._written >= _REMOTE_APPEND_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits."""
        if not self._waiting:
            return
        try:
            append_text(self._path, "".join(self._waiting))
        except OSError as error:
            log.warning("%s cannot be written (%s): %d lines wait", self._path, error, len(self._waiting))
        else:
            self._waiting, self._written = [], time.monotonic()


def make_dirs(path: str) -> None:
    """Make a folder and its parents; nothing happens if it is there, or on gs://, which has no folders."""
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


def rename(source: str, target: str) -> None:
    """Rename a file or folder (on gs://, which has no rename, objects are copied and then removed)."""
    gcs.rename(source, target) if is_remote(source) else os.replace(source, target)


def remove(path: str) -> None:
    """Remove a file; nothing happens if it is not there."""
    if is_remote(path):
        gcs.remove(path)
    else:
        Path(path).unlink(missing_ok=True)


def remove_tree(path: str) -> None:
    """Remove a folder and all in it; nothing happens if it is not there."""
    gcs.remove_tree(path) if is_remote(path) else shutil.rmtree(path, ignore_errors=True)


def publish(folder: str, target: str, last: str) -> None:
    """Copy a finished local folder to ``target``, replacing it, so that no reader takes a half for the whole.

    A local target is renamed into place.  On gs:// the file ``last``, by which readers know the folder, is removed
    first and uploaded last.
    """
    beside = target if is_remote(target) else f"{target}.tmp"
    remove(join(beside, last))
    remove_tree(beside)
    names = sorted(list_below(folder, hidden=True), key=lambda name: name == last)

    def copy(name: str) -> None:
        write_bytes(join(beside, name), read_bytes(join(folder, name)))

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(copy, names[:-1]))
    copy(names[-1])
    if beside != target:
        remove_tree(target)
        rename(beside, target)


@contextlib.contextmanager
def local_copy(folder: str) -> Iterator[str]:
    """Yield a local folder with a folder's files: itself, or while the block runs a copy of what gs:// holds."""
    if not is_remote(folder):
        yield folder
        return
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(_THREADS) as pool:
        # No marks of folders, and nothing that would leave the scratch folder.
        names = [name for name in list_below(folder, hidden=True) if name[-1] != "/" and ".." not in name.split("/")]
        contents = pool.map(lambda name: read_bytes(join(folder, name)), names)
        for name, content in zip(names, contents, strict=True):
            write_bytes(join(scratch, name), content)
        yield scratch


@contextlib.contextmanager
def local_file(path: str) -> Iterator[str]:
    """Yield a local file with a file's content: itself, or while the block runs a copy of what gs:// holds.

    The copy is fetched in parts, so that a large object needs disk, not memory.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=os.path.splitext(path)[1]) as copy:
        while part := read_range(path, copy.tell(), _PART_BYTES):
            copy.write(part)
        copy.flush()
        yield copy.name


def require_writable(path: str, flag: str) -> None:
    """Make a folder and prove that it takes a file and lets go of it.

    Raises:
        RequestError: naming the flag, if it cannot be made or written; on gs:// also the bucket or the permission.
    """
    probe = join(path, f".write-probe-{os.getpid()}")
    try:
        with _about(flag):
            make_dirs(path)
            write_bytes(probe, b"")
            remove(probe)
    except (RequestError, StoppedEarly):
        raise
    except Exception as error:  # Libraries and the operating system raise unrelated types for the same refusal.
        reason = getattr(error, "strerror", None) or error
        raise RequestError(f"--{flag}: expected a folder that can be written, received {path!r}: {reason}") from error
