"""Files on a disk of this machine, or on a file system that is mounted here.  Imports no TensorFlow."""

import contextlib
import errno
import fcntl
import logging
import os
import shutil
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from trainer.core.storage import file_lease, lease, listing
from trainer.core.storage.base import Storage, held_by
from trainer.core.storage.fences import Fences
from trainer.core.storage.transient import retry

log = logging.getLogger(__name__)

# What flock(2) answers on Lustre without ``-o flock``, NFS without a lock service, and some FUSE file systems.
_CANNOT_LOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)

# Asked before each write of this process to a local path; empty unless a lease stands in for a lock.
FENCES = Fences()
# With these a file system says that it cannot flush a folder, or need not.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EBADF, errno.EACCES, errno.EPERM, errno.EISDIR}


class LocalStorage(Storage):
    """Paths without a scheme.  Reads and listings retry what may pass by itself, then raise StorageDown.

    Names whose permission is missing raise RequestError (``listing.py``).
    """

    form = "a local path"
    shared = False
    tensorflow_reads = True
    renames_atomically = True
    append_seconds = 0.0

    def check(self, path: str) -> None:
        """Accept every path; the operating system refuses what it must."""

    def exists(self, path: str) -> bool:
        """Return whether there is a file or folder of this name."""
        return listing.status(path) is not None

    def is_dir(self, path: str) -> bool:
        """Return whether there is a folder of this name."""
        return listing.is_folder(path)

    def list_names(self, path: str) -> list[str]:
        """Return the sorted names inside a folder."""
        return [entry.name for entry in listing.entries(path)]

    def list_below(self, path: str, *, hidden: bool) -> Iterator[str]:
        """Yield the names of all regular files below a folder; symbolic links to folders are not followed."""
        # Hidden folders are not entered, as one such as .git can be large.
        below = listing.walk(path, follow_links=False, enters=lambda name: hidden or not listing.is_hidden(name))
        return (name for name, kind in below if kind is listing.Kind.FILE)

    def read(self, path: str) -> bytes:
        """Return the content of a file."""
        return retry(path, Path(path).read_bytes)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``offset`` on."""

        def attempt() -> bytes:
            with open(path, "rb") as file:
                file.seek(offset)
                return file.read(length)

        return retry(path, attempt)

    def write(self, path: str, content: bytes) -> None:
        """Write to a temporary name, flush to disk, then rename; a failure leaves nothing behind."""
        FENCES.check()
        self.make_dirs(os.path.dirname(path) or ".")
        # Process numbers would not do: in every container the first process is number 1.
        temporary = f"{path}.tmp-{uuid.uuid4().hex[:16]}"
        try:
            with open(temporary, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            FENCES.check()  # Writing took time.
            os.replace(temporary, path)
        except BaseException:  # A stop request, too; a full disk must not get fuller.
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        _sync_parent(path)

    def append(self, path: str, content: bytes) -> None:
        """Append to a file; a write that fails halfway is cut off again."""
        FENCES.check()
        with open(path, "ab", buffering=0) as file:
            size = file.tell()
            try:
                while content:
                    content = content[file.write(content) :]
            except BaseException:  # A full disk may have accepted half of it, and so may a write that a signal ended.
                file.truncate(size)
                raise

    def sync(self, path: str) -> None:
        """Flush a file and its name to disk; does nothing if it does not exist."""
        with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
            os.fsync(file.fileno())
            _sync_parent(path)

    def make_dirs(self, path: str) -> None:
        """Create a folder and its parents, and flush their names to disk."""
        FENCES.check()
        created = []
        above = path
        while above and not os.path.isdir(above):
            created.append(above)
            above = os.path.dirname(above.rstrip("/"))
        os.makedirs(path, exist_ok=True)
        for folder in reversed(created):
            _sync_parent(folder)

    def rename(self, source: str, target: str) -> None:
        """Rename a file or folder."""
        FENCES.check()
        os.replace(source, target)
        _sync_parent(target)

    def remove(self, path: str) -> None:
        """Remove a file."""
        FENCES.check()
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        _sync_parent(path)

    def remove_tree(self, path: str) -> None:
        """Remove a folder with everything in it."""
        FENCES.check()
        shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def hold(self, path: str, *, protects: str) -> Iterator[None]:
        """Hold a lock of the operating system, which drops it when the process dies; the file itself stays.

        Where the file system cannot lock, a lease stands in, as on gs://; also where a lease is held already.
        """
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with open(path, "a+b", buffering=0) as file, contextlib.ExitStack() as stack:
            refusal = _flock(file, protects)
            if refusal:
                log.warning("%s cannot be locked on this file system (%s): a lease in files beside it stands in for "
                            "the lock; after a kill the next start waits until it expires", path, refusal)  # fmt: skip
            if refusal or file_lease.exists(path):
                record = file_lease.FileRecord(path)
                stack.enter_context(lease.held(record, path, protects=protects, fences=FENCES))
            with contextlib.suppress(OSError):  # For people; a full disk must not keep a job from ending.
                file.truncate(0)
                file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            yield


def _flock(file: BinaryIO, protects: str) -> str:
    """Lock a file for this process; return why the file system cannot lock, if it cannot.

    Raises:
        StoppedEarly: if another live process holds the lock.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:  # NFS may answer EACCES for a lock that is held.
        file.seek(0)
        raise held_by(file.read().decode(errors="replace").strip() or "unknown", protects) from error
    except OSError as error:
        if error.errno not in _CANNOT_LOCK:
            raise
        return error.strerror or str(error)
    return ""


def _sync_parent(path: str) -> None:
    """Flush the names in the folder of ``path`` to disk, as after a power cut a new file may lack its name.

    Some file systems refuse that, and a folder may be writable but not readable: then nothing more can be done.
    """
    try:
        descriptor = os.open(os.path.dirname(path.rstrip("/")) or ".", os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(descriptor)
