"""Files on web servers, ``http://`` and ``https://``: read by name and in ranges; there are no listings.

Servers have no common way to list a folder, so a packed set or a list file names what there is.
Does not own: retries and the client (``fsspec_storage.py``).  Imports no TensorFlow.
"""

import http
import importlib
from collections.abc import Iterator
from typing import Any, NoReturn

from trainer.core.errors import RequestError
from trainer.core.storage.fsspec_storage import FsspecStorage, request_seconds

_AS_IT_IS = {"Accept-Encoding": "identity"}  # A range of compressed bytes could not be decompressed.


class _Status(Exception):
    """An answer that is no success; ``client_errors`` reads its status."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(f"{status} {reason}")
        self.status = status


def http_options() -> dict[str, Any]:
    """Return the options of fsspec's file system: proxies are those of the environment."""
    settings = importlib.import_module("fsspec").config.conf
    client = {**settings.get("http", {}).get("client_kwargs", {}), **settings.get("https", {}).get("client_kwargs", {})}
    return {"client_kwargs": {"trust_env": True, **client}}


class HttpStorage(FsspecStorage):
    """URLs without query."""

    def __init__(self, scheme: str) -> None:
        """Describe the storage, without loading anything."""
        super().__init__(scheme, "SERVER/PATH", "aiohttp", http_options)

    def exists(self, path: str) -> bool:
        """Return whether the server has a file of this name."""
        try:
            self._call(path, lambda client, name: _get(client, name, {"Range": "bytes=0-0"}, whole=False))
        except FileNotFoundError:
            return False
        return True

    def is_dir(self, path: str) -> bool:
        """Return False: a server does not tell."""
        return False

    def list_names(self, path: str) -> list[str]:
        """Refuse to list."""
        _refuse_listing(path)

    def list_below(self, path: str, *, hidden: bool) -> Iterator[str]:
        """Refuse to list."""
        _refuse_listing(path)

    def _read(self, path: str, **limits: int) -> bytes:
        return self._call(path, lambda client, name: _read(client, name, **limits))


def _read(client: Any, url: str, start: int = 0, end: int = 0) -> bytes:
    """Return a file, or its bytes from ``start`` to ``end`` if that is not 0."""
    status, content = _get(client, url, {"Range": f"bytes={start}-{end - 1}"} if end else {}, whole=not start)
    if not end or status == http.HTTPStatus.PARTIAL_CONTENT:
        return content
    if status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
        return b""  # After the end of the file.
    if start or len(content) > end:
        raise RequestError(
            f"expected a server that answers requests for a range of bytes, received the whole file for {url!r}; use "
            "another server, or copy the files"
        )
    return content


def _get(client: Any, url: str, headers: dict[str, str], *, whole: bool) -> tuple[int, bytes]:
    """Return status and body of an answer; without ``whole``, of one that ignores the range no body."""
    return importlib.import_module("fsspec.asyn").sync(client.loop, _request, client, url, headers, whole)  # type: ignore[no-any-return]


async def _request(client: Any, url: str, headers: dict[str, str], whole: bool) -> tuple[int, bytes]:
    aiohttp = importlib.import_module("aiohttp")
    seconds = request_seconds()
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
    settings = {**client.kwargs, "headers": {**client.kwargs.get("headers", {}), **_AS_IT_IS, **headers}}
    session = await client.set_session()
    async with session.get(client.encode_url(url), timeout=timeout, **settings) as response:
        refused = response.status >= http.HTTPStatus.BAD_REQUEST
        if refused and not (headers and response.status == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE):
            raise _Status(response.status, response.reason or "")
        reads = whole or response.status == http.HTTPStatus.PARTIAL_CONTENT
        return response.status, await response.read() if reads else b""


def _refuse_listing(path: str) -> NoReturn:
    raise RequestError(
        f"expected a packed set (with pack.json) or a list file (such as list.csv) over http, received {path!r}; web "
        "servers have no listings: name such a set, or pack the images first"
    )
