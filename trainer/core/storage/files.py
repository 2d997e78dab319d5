"""Functions on files, wherever they are kept; each path's scheme decides the storage.

Owns: that a published folder is whole or absent, local copies, checks of paths in flags.  Does not own: how a storage
does it (``base.Storage``), names inside job_dir (``job_dir.py``).
Imports no TensorFlow.
"""

import contextlib
import logging
import os
import re
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from trainer.core import progress, storage
from trainer.core.errors import RequestError, StoppedEarly, StorageDown
from trainer.core.storage import for_path, is_remote
from trainer.core.storage.transient import may_pass, reason

log = logging.getLogger(__name__)

__all__ = [
    "absolute", "append_bytes", "append_text", "exists", "expand_home", "is_dir", "is_literal", "is_remote", "join",
    "list_below", "list_names", "local_copy", "local_file", "make_dirs", "printable", "publish", "read_bytes",
    "read_range", "read_text", "remove", "remove_leftovers", "remove_tree", "rename", "require_form",
    "require_writable", "sync", "unprintable", "write_bytes", "write_text",
]  # fmt: skip

_THREADS = 16
_PATTERN = re.compile(r"[*?\[\\\udc80-\udcff]")  # What TensorFlow's loader takes as a pattern, or cannot encode.
_LIKE_ESCAPE = re.compile(r"\\(?=x[0-9a-f]{2})")
_ESCAPE = re.compile(r"\\x(5c|[89a-f][0-9a-f])")  # Of a byte that is no ASCII, or of a backslash.
_NO_PATH = re.compile(r"^/|(^|/)\.{1,2}(/|$)")  # Names of objects that are no paths relative to a folder.
_PART_BYTES = 16 * 2**20  # Of a large object that is downloaded in parts.

STAGING = ".tmp"  # Ending of a folder that is being published.

# What a killed process leaves: files that are being written, parts of an object that grows, and probes.
_LEFTOVER = re.compile(r"(?!\.write-probe).*\.(tmp|part)-[0-9a-f]+|\.write-probe-[0-9a-f]+")


def require_form(path: str, flag: str) -> None:
    """Check the form of a flag's path before any request about it.

    Raises:
        RequestError: naming the flag, if the scheme is unknown or the path is malformed.
    """
    with _about(flag):
        storage.check(path)


@contextlib.contextmanager
def _about(flag: str) -> Iterator[None]:
    try:
        yield
    except RequestError as error:
        raise RequestError(f"--{flag}: {error}") from error


def join(path: str, *names: str) -> str:
    """Join with "/", for local and remote paths alike."""
    return "/".join([path.rstrip("/"), *names]) if names else path


def absolute(path: str) -> str:
    """Return a path that means the same in every process: a local one from the root on."""
    return path if is_remote(path) else os.path.abspath(path)


def expand_home(path: str) -> str:
    """Return a path with ``~`` or ``~user`` at its start replaced by that user's home folder, as a shell does it.

    Shells leave it alone in the middle of a word such as ``--out=~/x``.  Of an unknown user it stays.
    """
    return os.path.expanduser(path) if path.startswith("~") else path


def is_literal(path: str) -> bool:
    """Return whether TensorFlow takes a path as it is: as a pattern, and as UTF-8, it stands for itself alone."""
    return not _PATTERN.search(path)


def printable(path: str) -> str:
    r"""Return a path fit for a UTF-8 file, a different one for each path.

    Bytes of a name that are not UTF-8 become ``\xe9``, and a backslash in front of such letters becomes ``\x5c``.
    """
    escaped = _LIKE_ESCAPE.sub(r"\\x5c", path)
    return re.sub("[\udc80-\udcff]", lambda byte: f"\\x{ord(byte[0]) - 0xDC00:02x}", escaped)


def unprintable(path: str) -> str:
    """Return the path that ``printable`` got."""
    return _ESCAPE.sub(lambda match: "\\" if match[1] == "5c" else chr(0xDC00 + int(match[1], 16)), path)


def exists(path: str) -> bool:
    """Return whether there is a file or folder of this name."""
    return for_path(path).exists(path)


def is_dir(path: str) -> bool:
    """Return whether there is a folder of this name; in a bucket, whether there are objects below it."""
    return for_path(path).is_dir(path)


def list_names(path: str) -> list[str]:
    """Return the sorted names inside a folder; empty if there is no such folder."""
    return for_path(path).list_names(path)


def list_below(path: str, *, hidden: bool = False) -> Iterator[str]:
    """Yield the names of all files below a folder, relative to it, in any order.

    Names with a part that begins with a dot are left out unless ``hidden``; linked folders are not entered.  In a
    bucket a name that ends with "/" marks a folder, and names that are no relative paths, such as ``a/../b``, are left
    out and counted in a warning.
    """
    names = for_path(path).list_below(path, hidden=hidden)
    if is_remote(path):
        names = _relative(path, names)
    return (name for name in names if hidden or not any(part.startswith(".") for part in name.split("/")))


def _relative(folder: str, names: Iterable[str], others: re.Pattern[str] = _NO_PATH) -> Iterator[str]:
    """Yield the names that are relative paths; of the others, which a bucket may hold, log number and an example."""
    count, example = 0, ""
    for name in names:
        if others.search(name):
            count, example = count + 1, example or name
        else:
            yield name
    if count:
        log.warning("%s: %d objects are left out whose names are no paths, such as %r", folder, count, example)


def read_bytes(path: str) -> bytes:
    """Return a file's content; safe to call from many threads."""
    return for_path(path).read(path)


def read_range(path: str, offset: int, length: int) -> bytes:
    """Return up to ``length`` bytes from ``offset`` on, fewer at the end of the file; callable from many threads."""
    return for_path(path).read_range(path, offset, length)


def read_text(path: str) -> str:
    """Return a file's content as UTF-8."""
    return read_bytes(path).decode("utf-8")


def write_bytes(path: str, content: bytes) -> None:
    """Write a file so that it is whole or absent."""
    for_path(path).write(path, content)


def write_text(path: str, content: str) -> None:
    """Write UTF-8 text so that the file is whole or absent."""
    write_bytes(path, content.encode("utf-8"))


def append_bytes(path: str, content: bytes) -> None:
    """Append to a file, creating it if needed; after an error the file is unchanged."""
    for_path(path).append(path, content)


def append_text(path: str, content: str) -> None:
    """Append UTF-8 text to a file, creating it if needed; after an error the file is unchanged."""
    append_bytes(path, content.encode("utf-8"))


def sync(path: str) -> None:
    """Make sure that appended text survives a power cut; does nothing if there is no such file."""
    for_path(path).sync(path)


def make_dirs(path: str) -> None:
    """Create a folder and its parents; does nothing if it exists, or in a bucket, which has no folders."""
    for_path(path).make_dirs(path)


def rename(source: str, target: str) -> None:
    """Rename a file or folder within a storage."""
    for_path(source).rename(source, target)


def remove(path: str) -> None:
    """Remove a file; does nothing if it does not exist."""
    for_path(path).remove(path)


def remove_tree(path: str) -> None:
    """Remove a folder and everything in it; does nothing if it does not exist."""
    for_path(path).remove_tree(path)


def remove_leftovers(folder: str) -> None:
    """Remove what killed processes left right in a folder; only for who alone writes there.

    The temporary file of another process's probe stays, as that process is about to rename it.
    """
    for name in list_names(folder):
        if _LEFTOVER.fullmatch(name):
            remove(join(folder, name))


def publish(folder: str, target: str, last: str, check: Callable[[str], None] | None = None) -> None:
    """Copy a finished local folder to ``target``, replacing it, so that no reader takes a partial copy for the whole.

    Where folders can be renamed in one step, the copy is renamed into place.  Elsewhere the file ``last``, by which
    readers recognise the folder, is removed first and uploaded last.  A failure leaves no partial copy.

    Args:
        folder: local.
        target: anywhere.
        last: name of a file in the folder.
        check: called with a local folder, raises if it is not fit to be published.  A local copy is checked where it
            lies, next to ``target``.  A remote one is compared with ``folder``, which is checked in its place.
    """
    staging = target + STAGING if for_path(target).renames_atomically else target
    if check and is_remote(target):
        check(folder)
    remove(join(staging, last))
    remove_tree(staging)
    try:
        _copy(folder, staging, last, compare=check is not None and is_remote(target))
        if check and not is_remote(target):
            check(staging)
        if staging != target:
            _replace(staging, target)
    except StorageDown:  # Nothing can be removed either; the next call or start does that.
        raise
    except BaseException:  # A stop request, too, must not leave it behind.
        with contextlib.suppress(OSError, StoppedEarly):
            remove(join(staging, last))
            remove_tree(staging)
        raise


def _copy(folder: str, target: str, last: str, *, compare: bool) -> None:
    """Copy all files of a local folder, the one named ``last`` last.

    Raises:
        StorageDown: with ``compare``, if a copy reads otherwise than it was written.
    """
    names = sorted(list_below(folder, hidden=True), key=lambda name: name == last)
    shown = progress.phase(f"uploading {target}", show=is_remote(target))

    def copy(name: str) -> None:
        content = read_bytes(join(folder, name))
        write_bytes(join(target, name), content)
        if compare and read_bytes(join(target, name)) != content:
            raise StorageDown(f"{join(target, name)!r} reads otherwise than it was written; rerun the same command")

    with shown, ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(copy, names[:-1]))
        copy(names[-1])


def _replace(folder: str, target: str) -> None:
    """Rename a folder to ``target``; an older one there is moved aside first, so that the gap is one rename long."""
    older = f"{target}.old{STAGING}"
    remove_tree(older)
    if exists(target):
        rename(target, older)
    try:
        rename(folder, target)
    except BaseException:
        if exists(older) and not exists(target):
            rename(older, target)
        raise
    remove_tree(older)


@contextlib.contextmanager
def local_copy(folder: str) -> Iterator[str]:
    """Yield a local folder with a folder's files, under a path that every library takes literally.

    It is the folder itself, or a link or a copy that lives as long as the block.
    """
    if not is_remote(folder) and is_literal(folder):
        yield folder
        return
    if not is_remote(folder):
        with tempfile.TemporaryDirectory() as scratch:
            os.symlink(os.path.abspath(folder), os.path.join(scratch, "link"))
            yield os.path.join(scratch, "link")
        return
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(_THREADS) as pool:
        below = list_below(folder, hidden=True)
        names = [name for name in _relative(folder, below, re.compile("//")) if name[-1] != "/"]  # No marks of folders.
        contents = pool.map(lambda name: read_bytes(join(folder, name)), names)
        with progress.phase(f"downloading {folder}"):
            for name, content in zip(names, contents, strict=True):
                write_bytes(join(scratch, name), content)
        yield scratch


@contextlib.contextmanager
def local_file(path: str) -> Iterator[str]:
    """Yield a local file with a file's content: the file itself, or a copy that lives as long as the block.

    The copy is downloaded in parts, so that a large object needs disk, not memory.
    """
    if not is_remote(path):
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=os.path.splitext(path)[1]) as copy:
        part = None
        with progress.phase(f"downloading {path}"):
            while part is None or len(part) == _PART_BYTES:  # A shorter one is the last.
                part = read_range(path, copy.tell(), _PART_BYTES)
                copy.write(part)
        copy.flush()
        yield copy.name


def require_writable(path: str, flag: str) -> None:
    """Create a folder and check that a file in it can be written and removed.

    Raises:
        RequestError: naming the flag, if the folder cannot be created or written; also for a missing bucket or
            permission.
        StorageDown: if that may pass by itself, as a full disk does.
    """
    # Several processes may check a folder at once, each the first process of its container.
    probe = join(path, f".write-probe-{uuid.uuid4().hex[:16]}")
    try:
        with _about(flag):
            make_dirs(path)
            write_bytes(probe, b"")
            remove(probe)
    except (OSError, ValueError) as error:
        if isinstance(error, RequestError):
            raise
        if may_pass(error):
            raise StorageDown(
                f"--{flag}: {path!r} cannot be written ({reason(error)}); free space or repair the file system, then "
                "rerun the same command"
            ) from error
        raise RequestError(
            f"--{flag}: expected a folder that can be written, received {path!r}: {reason(error)}"
        ) from error
