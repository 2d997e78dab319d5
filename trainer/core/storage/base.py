"""What a storage must do, so that jobs can keep their files on it.

Owns: the contract that ``files.py`` relies on; tests/core/test_storage.py checks every storage against it.
Imports no TensorFlow.
"""

import contextlib
from collections.abc import Iterator
from typing import Protocol

from trainer.core.errors import StoppedEarly


class Storage(Protocol):
    """Files below a path form, such as local paths or gs://.  All methods may be called from any thread.

    A folder is a common start of names; a storage without folders, such as a bucket, reports one wherever there are
    files below it.  Paths use "/" and may end with it.

    Attributes:
        form: how its paths are written, for messages: "gs://BUCKET/PATH".
        shared: whether every machine can reach its files under the same path.
        tensorflow_reads: whether TensorFlow's own file system reads its paths, as data service workers do.
        renames_atomically: whether ``rename`` of a folder is one step that no reader sees halfway.
        read_only: whether it refuses whatever would write.
        append_seconds: how long appended lines may be buffered; 0 where an append costs nearly nothing.
    """

    form: str
    shared: bool
    tensorflow_reads: bool
    renames_atomically: bool
    read_only: bool = False
    append_seconds: float

    def check(self, path: str) -> None:
        """Check the form of a path without touching the storage.

        Raises:
            RequestError: if the path is malformed.
        """

    def exists(self, path: str) -> bool:
        """Return whether there is a file or folder of this name."""

    def is_dir(self, path: str) -> bool:
        """Return whether there is a folder of this name."""

    def list_names(self, path: str) -> list[str]:
        """Return the sorted names inside a folder, without those in its subfolders; empty if there is no folder."""

    def list_below(self, path: str, *, hidden: bool) -> Iterator[str]:
        """Yield the names of all files below a folder, relative to it, in any order.

        Without ``hidden``, folders whose name begins with a dot need not be listed; the caller filters names anyway.
        A name that ends with "/" is an empty object that stands for a folder.
        """

    def read(self, path: str) -> bytes:
        """Return the content of a file.

        Raises:
            FileNotFoundError: if there is no such file.
        """

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``offset`` on; fewer at the end of the file, none after it.

        Raises:
            FileNotFoundError: if there is no such file.
        """

    def write(self, path: str, content: bytes) -> None:
        """Write a file, with its parent folders, so that readers see either the old content or all of the new."""

    def append(self, path: str, content: bytes) -> None:
        """Append to a file, creating it if needed; after an error the file is unchanged."""

    def sync(self, path: str) -> None:
        """Make sure that a file's content survives a power cut, if ``append`` does not; nothing if there is no file."""
        return  # Most storages have stored what ``append`` returned for.

    def make_dirs(self, path: str) -> None:
        """Create a folder and its parents; does nothing if it exists or the storage has no folders."""

    def rename(self, source: str, target: str) -> None:
        """Rename a file or folder."""

    def remove(self, path: str) -> None:
        """Remove a file; does nothing if it does not exist."""

    def remove_tree(self, path: str) -> None:
        """Remove a folder with everything in it; does nothing if it does not exist."""

    def hold(self, path: str, *, protects: str) -> contextlib.AbstractContextManager[None]:
        """Hold the lock file ``path`` while the block runs; it is free again once its holder is dead.

        A storage whose lock can be lost while its holder lives must refuse further writes of that process.

        Args:
            path: of the lock file.
            protects: the folder that the lock is for, for messages.

        Raises:
            StoppedEarly: if another live process holds it, see ``held_by``.
        """


def held_by(owner: str, protects: str) -> StoppedEarly:
    """Return the error for a lock that another live job holds."""
    return StoppedEarly(
        f"expected {protects!r} to be free, found a live job in it ({owner}); stop that one, wait for it, or use "
        "another --job_dir"
    )
