"""Objects of Google Cloud Storage, by google-cloud-storage: whole-object operations with bounded retries.

Does not own: local paths (``files.py`` is the door to both), the client and its retries (``gcs_client.py``).  Every
function takes ``gs://bucket/name`` and may be called from any thread.

Raises, from every function:
    RequestError: if the bucket is not there, a permission is missing, or the path is no gs:// path.
    StorageDown: if the storage did not answer for so long that trying on is no use.
"""

import base64
import contextlib
import mimetypes
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trainer.core.errors import StoppedEarly
from trainer.core.storage.gcs_client import Changed, call, client, explained, no_bucket, retry_policy, split, timeout

_THREADS = 16  # For operations on many objects.


def read(path: str) -> bytes:
    """Return an object's content, checksum verified.

    Raises:
        FileNotFoundError: if there is none.
    """
    return _reading(path, lambda blob: bytes(blob.download_as_bytes(retry=None, timeout=timeout())))


def read_range(path: str, offset: int, length: int) -> bytes:
    """Return up to ``length`` bytes from ``offset`` (bytes) on; fewer at the end of the object, none behind it.

    Raises:
        FileNotFoundError: if there is no such object.
    """
    from google.api_core import exceptions

    if length <= 0:
        return b""

    def ask(blob: Any) -> bytes:
        try:
            return bytes(blob.download_as_bytes(start=offset, end=offset + length - 1, retry=None, timeout=timeout()))
        except exceptions.RequestRangeNotSatisfiable:
            return b""

    return _reading(path, ask)


def _reading(path: str, ask: Callable[[Any], bytes]) -> bytes:
    try:
        return call(path, lambda bucket, name: ask(bucket.blob(name)))
    except FileNotFoundError:
        _require_bucket(path)
        raise


def _require_bucket(path: str) -> None:
    """Tell a missing object from a missing bucket, which a download does not always do.

    Raises:
        RequestError: if there is no such bucket.
    """
    next(_list(path, "", page_size=1), None)


def write(path: str, content: bytes) -> None:
    """Write an object: whole or not at all, replacing an older one."""
    _upload(path, content, None)


def write_if(path: str, content: bytes, generation: int, *, fenced: bool = True) -> int | None:
    """Write an object if its generation is still the given one (0: if there is no such object).

    Returns the new generation, None if there was another one; then the object may still be this very content, as the
    answer to an earlier attempt can get lost.
    """
    try:
        return _upload(path, content, generation, fenced=fenced)
    except Changed:
        return None


def _upload(path: str, content: bytes, generation: int | None, *, fenced: bool = True) -> int:
    def send(bucket: Any, name: str) -> int:
        blob = bucket.blob(name)
        blob.upload_from_string(
            content, content_type=_media_type(name), if_generation_match=generation, retry=None, timeout=timeout()
        )
        return int(blob.generation)

    try:
        return call(path, send, writes=fenced)
    except FileNotFoundError as error:  # Nothing else can be missing for an upload.
        raise no_bucket(path) from error


def _media_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def read_with_generation(path: str) -> tuple[bytes, int] | None:
    """Return an object's content and the generation that has it; None if there is no object."""
    while True:
        found = _stat(path)
        if found is None:
            _require_bucket(path)
            return None
        generation = int(found.generation)

        def fetch(bucket: Any, name: str, generation: int = generation) -> bytes:
            return bytes(bucket.blob(name, generation=generation).download_as_bytes(retry=None, timeout=timeout()))

        try:
            return call(path, fetch), generation
        except FileNotFoundError:  # Replaced in between.
            continue


def _stat(path: str) -> Any:
    return call(path, lambda bucket, name: bucket.get_blob(name, retry=None, timeout=timeout()) if name else None)


def append(path: str, content: bytes) -> None:
    """Append to an object, making it if needed; after an error it is as before.

    Objects cannot grow, but the storage can put two together (compose), so this costs the same however large the
    object is.  A generation precondition makes an attempt whose answer got lost harmless: its checksum tells.

    Raises:
        StoppedEarly: if another process changes the object at the same time.
    """
    before = _stat(path)
    if before is None:
        if write_if(path, content, 0) is None and read(path) != content:
            raise _changed_by_another(path)
        return
    part = f"{path}.part-{uuid.uuid4().hex}"
    write(part, content)

    def compose(bucket: Any, name: str) -> None:
        whole = bucket.blob(name)
        whole.content_type = _media_type(name)
        sources = [bucket.blob(name), bucket.blob(split(part)[1])]
        whole.compose(sources, if_generation_match=int(before.generation), retry=None, timeout=timeout())

    try:
        call(path, compose, writes=True)
    except Changed as error:
        after = _stat(path)
        if after is None or after.crc32c != _crc_of_both(before.crc32c, content):
            raise _changed_by_another(path) from error
    finally:
        remove(part)


def _crc_of_both(crc: str, content: bytes) -> str:
    """Return the CRC32C of an object after appending, in Google's base64 form."""
    import google_crc32c

    extended = google_crc32c.extend(int.from_bytes(base64.b64decode(crc), "big"), content)
    return base64.b64encode(extended.to_bytes(4, "big")).decode()


def _changed_by_another(path: str) -> StoppedEarly:
    return StoppedEarly(f"expected to be the only writer of {path!r}, but another process changed it; stop that one")


def exists(path: str) -> bool:
    """Tell whether there is an object of this name, or any below it."""
    return _stat(path) is not None or is_dir(path)


def is_dir(path: str) -> bool:
    """Tell whether there are objects below this name; of a bucket alone, whether it exists."""
    found = next(_list(path, _prefix(path), page_size=1), None) is not None
    return found or not split(path)[1]


def _prefix(path: str) -> str:
    name = split(path)[1].rstrip("/")
    return f"{name}/" if name else ""


def list_names(path: str) -> list[str]:
    """Return the sorted names of objects and folders right below."""
    prefix = _prefix(path)
    return sorted({name for name in _list(path, prefix, delimiter="/") if name})


def list_below(path: str) -> Iterator[str]:
    """Yield the names of all objects below, relative to ``path``, in one pass of pages of 1,000.

    A name that ends with "/" is the mark of a folder, as consoles make them.
    """
    return (name for name in _list(path, _prefix(path)) if name)


def _list(path: str, prefix: str, *, delimiter: str | None = None, page_size: int | None = None) -> Iterator[str]:
    fields = "items(name),prefixes,nextPageToken" if delimiter else "items(name),nextPageToken"
    try:
        with explained(path):
            found = client().list_blobs(
                split(path)[0], prefix=prefix or None, delimiter=delimiter, fields=fields, page_size=page_size,
                retry=retry_policy(), timeout=timeout(),
            )  # fmt: skip
            for blob in found:
                yield blob.name[len(prefix) :]
            yield from (folder[len(prefix) :].rstrip("/") for folder in found.prefixes)
    except FileNotFoundError as error:  # A prefix without objects is an empty list, so it is the bucket.
        raise no_bucket(path) from error


def remove(path: str, *, generation: int | None = None, fenced: bool = True) -> None:
    """Remove an object; nothing happens if it is not there or has another generation than the given one."""

    def delete(bucket: Any, name: str) -> None:
        bucket.blob(name).delete(if_generation_match=generation, retry=None, timeout=timeout())

    with contextlib.suppress(FileNotFoundError, Changed):
        call(path, delete, writes=fenced)


def remove_tree(path: str) -> None:
    """Remove the object of this name and all below it."""
    path = path.rstrip("/")
    _each(remove, [path, *(f"{path}/{name}" for name in list_below(path))])


def rename(source: str, target: str) -> None:
    """Copy an object, or all below a name, then remove the originals: a kill in between leaves both."""
    source, target = source.rstrip("/"), target.rstrip("/")
    names = [f"/{name}" for name in list_below(source)] + ([""] if _stat(source) is not None else [])
    _each(lambda name: _copy(source + name, target + name), names)
    _each(lambda name: remove(source + name), names)


def _copy(source: str, target: str) -> None:
    def rewrite(bucket: Any, name: str) -> None:
        original, token = client().bucket(split(source)[0]).blob(split(source)[1]), None
        while True:
            token, _, _ = bucket.blob(name).rewrite(original, token=token, retry=None, timeout=timeout())
            if token is None:
                return

    call(target, rewrite, writes=True)


def _each(action: Callable[[str], None], names: list[str]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(action, names))
