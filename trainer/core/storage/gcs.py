"""Google Cloud Storage as a ``Storage``: folders are common beginnings of object names.

Does not own: requests about single objects (``gcs_objects.py``), the lock's protocol (``lease.py``).
Every method raises RequestError and StorageDown as ``gcs_objects.py`` says.  Imports no TensorFlow.
"""

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

from trainer.core.storage import gcs_client, gcs_objects, lease
from trainer.core.storage.base import Storage

_THREADS = 16  # For operations on many objects.
_APPEND_SECONDS = 10.0  # An append takes three requests, some tenths of a second.


class GcsStorage(Storage):
    """Paths of the form gs://bucket/name."""

    form = gcs_client.FORM
    shared = True
    tensorflow_reads = True
    renames_atomically = False
    append_seconds = _APPEND_SECONDS

    def check(self, path: str) -> None:
        """Check that the path names a bucket."""
        gcs_client.split(path)

    def exists(self, path: str) -> bool:
        """Return whether there is an object of this name, or any below it."""
        return gcs_objects.stat(path) is not None or self.is_dir(path)

    def is_dir(self, path: str) -> bool:
        """Return whether there are objects below this name; for a bucket itself, whether it exists."""
        first = next(gcs_objects.list_objects(path, _prefix(path), page_size=1), None)
        return first is not None or not gcs_client.split(path)[1]

    def list_names(self, path: str) -> list[str]:
        """Return the sorted names of objects and folders right below."""
        return sorted({name for name in gcs_objects.list_objects(path, _prefix(path), delimiter="/") if name})

    def list_below(self, path: str, *, hidden: bool) -> Iterator[str]:
        """Yield the names of all objects below, in one pass of pages of 1,000.

        A name that ends with "/" is an empty object by which consoles mark a folder.
        """
        return (name for name in gcs_objects.list_objects(path, _prefix(path)) if name)

    def read(self, path: str) -> bytes:
        """Return an object's content."""
        return gcs_objects.read(path)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``offset`` on."""
        return gcs_objects.read_range(path, offset, length)

    def write(self, path: str, content: bytes) -> None:
        """Write an object in place, as it appears only when its upload is complete."""
        gcs_objects.write(path, content)

    def append(self, path: str, content: bytes) -> None:
        """Append to an object."""
        gcs_objects.append(path, content)

    def make_dirs(self, path: str) -> None:
        """Do nothing: there are no folders."""

    def rename(self, source: str, target: str) -> None:
        """Copy an object, or all below a name, then remove the originals: a kill in between leaves both."""
        source = source.rstrip("/")
        target = target.rstrip("/")
        names = [f"/{name}" for name in self.list_below(source, hidden=True)]
        names += [""] if gcs_objects.stat(source) is not None else []
        _for_each(lambda name: gcs_objects.copy(source + name, target + name), names)
        _for_each(lambda name: gcs_objects.remove(source + name), names)

    def remove(self, path: str) -> None:
        """Remove an object."""
        gcs_objects.remove(path)

    def remove_tree(self, path: str) -> None:
        """Remove the object of this name and all below it."""
        path = path.rstrip("/")
        _for_each(gcs_objects.remove, [path, *(f"{path}/{name}" for name in self.list_below(path, hidden=True))])

    def hold(self, path: str, *, protects: str) -> contextlib.AbstractContextManager[None]:
        """Hold a lease: while the block runs, no object is written unless the lease is still ours."""
        record = gcs_objects.ObjectRecord(path)
        return lease.held(record, path, protects=protects, fences=gcs_client.FENCES)


def _prefix(path: str) -> str:
    name = gcs_client.split(path)[1].rstrip("/")
    return f"{name}/" if name else ""


def _for_each(action: Callable[[str], None], names: list[str]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(action, names))
