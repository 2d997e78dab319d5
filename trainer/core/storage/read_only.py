"""What a storage refuses that is only read.  Imports no TensorFlow."""

import contextlib

from trainer.core.errors import RequestError
from trainer.core.storage.base import Storage


class ReadOnlyStorage(Storage):
    """Refuses whatever would write, in one line that says why."""

    read_only = True
    renames_atomically = False
    append_seconds = 0.0

    def write(self, path: str, content: bytes) -> None:
        """Refuse."""
        raise _refusal(path)

    def append(self, path: str, content: bytes) -> None:
        """Refuse."""
        raise _refusal(path)

    def make_dirs(self, path: str) -> None:
        """Refuse."""
        raise _refusal(path)

    def rename(self, source: str, target: str) -> None:
        """Refuse."""
        raise _refusal(target)

    def remove(self, path: str) -> None:
        """Refuse."""
        raise _refusal(path)

    def remove_tree(self, path: str) -> None:
        """Refuse."""
        raise _refusal(path)

    def hold(self, path: str, *, protects: str) -> contextlib.AbstractContextManager[None]:
        """Refuse."""
        raise _refusal(protects)


def _refusal(path: str) -> RequestError:
    return RequestError(
        f"expected a local path or gs:// to write to, received {path!r}; {path.partition(':')[0]}:// is only read, as "
        "locks and appends need preconditions on an object's generation, which fsspec does not offer: use another place"
    )
