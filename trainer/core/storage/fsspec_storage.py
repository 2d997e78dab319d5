"""Storages that fsspec reads, such as ``s3://`` and ``hf://``, as a read-only ``Storage``.

Owns: one client for each process and scheme, its options, retries.  Does not own: what an error means
(``client_errors.py``), http (``http_storage.py``).  Imports no TensorFlow, and fsspec when a path is first used.
"""

import contextlib
import http
import importlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from trainer.core import environment
from trainer.core.errors import RequestError, StoppedEarly
from trainer.core.storage import client_errors
from trainer.core.storage.read_only import ReadOnlyStorage
from trainer.core.storage.transient import RETRY_SECONDS, retry

T = TypeVar("T")

_REQUEST_SECONDS = 60.0  # Without any byte of an answer; then the request is retried.
_CONNECTIONS = 64
_REMEDY = "rerun the same command later"

# One client for each process, as a fork must not share connections, and scheme.
_clients: dict[tuple[int, str], Any] = {}
_making = threading.Lock()


def request_seconds() -> float:
    """Return how many seconds a request may wait for a byte of its answer."""
    return min(_REQUEST_SECONDS, environment.seconds("DEEPDETECT_FILE_RETRY_SECONDS", RETRY_SECONDS)) or 1.0


def s3_options() -> dict[str, Any]:
    """Return the options of the S3 client: time limits, no retries of its own, no cache of listings."""
    seconds = request_seconds()
    limits = {"connect_timeout": seconds, "read_timeout": seconds, "retries": {"total_max_attempts": 1}}
    return {"config_kwargs": {**limits, "max_pool_connections": _CONNECTIONS}, "use_listings_cache": False}


class FsspecStorage(ReadOnlyStorage):
    """Paths of a scheme that fsspec knows.

    Trouble that may pass is retried, then StorageDown; a missing bucket or permission is a RequestError.
    """

    shared = False  # The machines of a cluster would need the extra and credentials, which ``submit`` cannot give them.
    tensorflow_reads = False

    def __init__(
        self, scheme: str, place: str, package: str, options: Callable[[], dict[str, Any]] = dict,
        read_options: dict[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Describe a storage, without loading anything.

        Args:
            scheme: of its paths.
            place: what follows the scheme, for messages.
            package: that its paths need beside fsspec.
            options: returns those of fsspec's file system.
            read_options: those of ``cat_file``.
        """
        self.form = f"{scheme}://{place}"
        self._scheme = scheme
        self._package = package
        self._options = options
        self._read_options = read_options or {}

    def check(self, path: str) -> None:
        """Check that the path names a place."""
        start = f"{self._scheme}://"
        if not path.startswith(start) or not path.removeprefix(start).strip("/"):
            raise RequestError(f"expected {self.form}, received {path!r}; check the spelling")

    def exists(self, path: str) -> bool:
        """Return whether there is a file of this name, or any below it."""
        return self._info(path) is not None

    def is_dir(self, path: str) -> bool:
        """Return whether there are files below this name."""
        info = self._info(path)
        return info is not None and info["type"] == "directory"

    def _info(self, path: str) -> dict[str, Any] | None:
        with contextlib.suppress(FileNotFoundError):
            return dict(self._call(path, lambda client, name: client.info(name)))
        return None

    def list_names(self, path: str) -> list[str]:
        """Return the sorted names right below."""
        with contextlib.suppress(FileNotFoundError):
            return sorted({name.rstrip("/") for name in self._listed(path, "ls")})
        return []

    def list_below(self, path: str, *, hidden: bool) -> Iterator[str]:
        """Yield the names of all files below, which the client lists in one pass."""
        with contextlib.suppress(FileNotFoundError):
            yield from self._listed(path, "find")

    def _listed(self, path: str, how: str) -> list[str]:
        """Return what the client's ``how`` lists below a folder, relative to it."""

        def attempt(client: Any, name: str) -> list[str]:
            start = name.rstrip("/") + "/"
            names = getattr(client, how)(name.rstrip("/"), detail=False)
            return [one[len(start) :] for one in names if one.startswith(start) and len(one) > len(start)]

        names = self._call(path, attempt)
        if not names:
            self._require_container(path)
        return names

    def _require_container(self, path: str) -> None:
        """Refuse a path whose bucket does not exist, which a listing shows as an empty one."""
        scheme, _, rest = path.partition("://")
        bucket = f"{scheme}://{rest.split('/')[0]}"
        if self._scheme == "s3" and self._info(bucket) is None:
            raise client_errors.no_container(path, "no such bucket")

    def read(self, path: str) -> bytes:
        """Return a file's content."""
        return self._read(path)

    def read_range(self, path: str, offset: int, length: int) -> bytes:
        """Return up to ``length`` bytes from ``offset`` on."""
        if length <= 0:
            self._require(path)
            return b""
        return self._read(path, start=offset, end=offset + length)

    def _require(self, path: str) -> None:
        if not self.exists(path):
            raise FileNotFoundError(path)

    def _read(self, path: str, **limits: int) -> bytes:
        def attempt(client: Any, name: str) -> bytes:
            try:
                return bytes(client.cat_file(name, **limits, **self._read_options))
            except OSError as error:
                if limits and client_errors.status_of(error) == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
                    return b""  # After the end of the file.
                raise

        return self._call(path, attempt)

    def _call(self, path: str, action: Callable[[Any, str], T]) -> T:
        """Run ``action(client, name)`` until it succeeds, time is up, or a retry cannot help."""
        self.check(path)
        client = self._client(path)
        place = importlib.import_module("fsspec.core").url_to_fs(path)[1]  # As the client names it.

        def attempt() -> T:
            try:
                return action(client, place)
            except StoppedEarly:
                raise
            except RequestError:
                raise
            except Exception as error:
                meaning = client_errors.translated(error, path)
                if meaning is not error:
                    raise meaning from error
                raise

        return retry(path, attempt, _REMEDY)

    def _client(self, path: str) -> Any:
        with _making:
            key = os.getpid(), self._scheme
            if key not in _clients:
                _clients[key] = self._new_client(path)
            return _clients[key]

    def _new_client(self, path: str) -> Any:
        try:
            fsspec = importlib.import_module("fsspec")
            client = fsspec.filesystem(self._scheme, skip_instance_cache=True, **self._options())
        except ImportError as error:
            extra = self._package if self._package == "adlfs" else "'deepdetect[storage]'"
            raise RequestError(
                f"expected fsspec and {self._package}, which read {path!r}, received none "
                f"({client_errors.reason(error)}); pip install {extra}"
            ) from error
        if hasattr(client, "retries"):  # Of s3fs, which would retry inside each attempt.
            client.retries = 1
        return client
