"""Files on a disk of this machine, or on a file system that is mounted here.  Imports no TensorFlow."""

import contextlib
import fcntl
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from trainer.core.storage import listing
from trainer.core.storage.base import Storage, held_by
from trainer.core.storage.transient import retry


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
        """Write to a temporary name, flush to disk, then rename."""
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        temporary = f"{path}.tmp-{os.getpid()}"
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def append(self, path: str, content: bytes) -> None:
        """Append to a file; a write that fails halfway is cut off again."""
        with open(path, "ab", buffering=0) as file:
            size = file.tell()
            try:
                while content:
                    content = content[file.write(content) :]
            except OSError:  # A full disk may have accepted half of it.
                file.truncate(size)
                raise

    def make_dirs(self, path: str) -> None:
        """Create a folder and its parents."""
        os.makedirs(path, exist_ok=True)

    def rename(self, source: str, target: str) -> None:
        """Rename a file or folder."""
        os.replace(source, target)

    def remove(self, path: str) -> None:
        """Remove a file."""
        Path(path).unlink(missing_ok=True)

    def remove_tree(self, path: str) -> None:
        """Remove a folder with everything in it."""
        shutil.rmtree(path, ignore_errors=True)

    @contextlib.contextmanager
    def hold(self, path: str, *, protects: str) -> Iterator[None]:
        """Hold a lock of the operating system, which drops it when the process dies; the file itself stays."""
        with open(path, "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise held_by(file.read().strip() or "unknown", protects) from error
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield
