"""A storage that keeps files in a dictionary: all that it takes to add one."""

import contextlib
import threading
from collections.abc import Iterator

from trainer.core.errors import RequestError
from trainer.core.storage.base import Storage, held_by


class MemoryStorage(Storage):
    """Paths of the form mem://name, for one process."""

    form = "mem://PATH"
    shared = False
    tensorflow_reads = False
    renames_atomically = False
    append_seconds = 0.0

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self._lock = threading.RLock()

    def check(self, path: str) -> None:
        if not path.startswith("mem://") or not path.removeprefix("mem://").strip("/"):
            raise RequestError(f"expected {self.form}, received {path!r}; give a path")

    def exists(self, path: str) -> bool:
        return path in self.contents or self.is_dir(path)

    def is_dir(self, path: str) -> bool:
        return any(True for _ in self.list_below(path, hidden=True))

    def list_names(self, path: str) -> list[str]:
        return sorted({name.split("/")[0] for name in self.list_below(path, hidden=True)})

    def list_below(self, path: str, *, hidden: bool) -> Iterator[str]:
        self.check(path)
        prefix = path.rstrip("/") + "/"
        return (name.removeprefix(prefix) for name in list(self.contents) if name.startswith(prefix))

    def read(self, path: str) -> bytes:
        if path not in self.contents:
            raise FileNotFoundError(path)
        return self.contents[path]

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        return self.read(path)[offset : offset + length]

    def write(self, path: str, content: bytes) -> None:
        self.check(path)
        self.contents[path] = content

    def append(self, path: str, content: bytes) -> None:
        with self._lock:
            self.contents[path] = self.contents.get(path, b"") + content

    def make_dirs(self, path: str) -> None:
        self.check(path)

    def rename(self, source: str, target: str) -> None:
        with self._lock:
            for name in [name for name in self.contents if name == source or name.startswith(source + "/")]:
                self.contents[target + name.removeprefix(source)] = self.contents.pop(name)

    def remove(self, path: str) -> None:
        self.contents.pop(path, None)

    def remove_tree(self, path: str) -> None:
        for name in [path, *(f"{path.rstrip('/')}/{below}" for below in self.list_below(path, hidden=True))]:
            self.remove(name)

    @contextlib.contextmanager
    def hold(self, path: str, *, protects: str) -> Iterator[None]:
        with self._lock:
            if path in self.contents:
                raise held_by(self.contents[path].decode(), protects)
            self.contents[path] = b"this process"
        try:
            yield
        finally:
            self.remove(path)
