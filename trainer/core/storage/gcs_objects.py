"""Requests about single objects of Google Cloud Storage, with generations and bounded retries.

Owns: preconditions, and what a lost answer means.  Does not own: folders (``gcs.py``), the client and its retries
(``gcs_client.py``).  Every function takes ``gs://bucket/name`` and may be called from any thread.

Raises, from every function:
    RequestError: if the bucket does not exist, a permission is missing, or the path is malformed.
    StorageDown: if the storage did not answer during all retries.
"""

import base64
import contextlib
import mimetypes
import uuid
from collections.abc import Callable, Iterator
from typing import Any

from trainer.core.errors import StoppedEarly, StorageDown
from trainer.core.storage.gcs_client import (
    FENCES,
    Changed,
    bucket_of,
    call,
    client,
    explained,
    no_bucket,
    retry_policy,
    split,
    timeout,
)


def read(path: str) -> bytes:
    """Return an object's content after verifying its checksum.

    Raises:
        FileNotFoundError: if there is no such object.
    """
    return _download(path, lambda blob: bytes(blob.download_as_bytes(retry=None, timeout=timeout())))


def read_range(path: str, offset: int, length: int) -> bytes:
    """Return up to ``length`` bytes from ``offset`` on; fewer at the end of the object, none after it.

    Raises:
        FileNotFoundError: if there is no such object.
    """
    from google.api_core import exceptions

    if length <= 0:
        return b""

    def fetch(blob: Any) -> bytes:
        try:
            return bytes(blob.download_as_bytes(start=offset, end=offset + length - 1, retry=None, timeout=timeout()))
        except exceptions.RequestRangeNotSatisfiable:
            return b""

    return _download(path, fetch)


def _download(path: str, fetch: Callable[[Any], bytes]) -> bytes:
    try:
        return call(path, lambda bucket, name: fetch(bucket.blob(name)))
    except FileNotFoundError:
        _require_bucket(path)
        raise


def _require_bucket(path: str) -> None:
    """Distinguish a missing bucket from a missing object, as the error of a download does not always.

    Raises:
        RequestError: if there is no such bucket.
    """
    next(list_objects(path, "", page_size=1), None)


def write(path: str, content: bytes) -> None:
    """Write an object, replacing an older one; it appears only when the upload is complete.

    Raises:
        StoppedEarly: if this process holds a lock, but another one changed the object meanwhile.
    """
    with _answers_may_get_lost(path, lambda: _crc(content)):
        _upload(path, content, _generation_to_change(path))


def _generation_to_change(path: str) -> int | None:
    """Return the generation that a process with a lock may change (0: none); None for one without a lock.

    The fences are asked after this, and before the request.  If the process is suspended in between, and wakes up when
    another one has its lock, then it changes nothing that the other one wrote.
    """
    if not FENCES:
        return None
    blob = stat(path)
    return 0 if blob is None else int(blob.generation)


@contextlib.contextmanager
def _answers_may_get_lost(path: str, checksum: Callable[[], str]) -> Iterator[None]:
    """Tell another process's change from an own one whose answer got lost, which left this checksum.

    Raises:
        StoppedEarly: for another process's change.
    """
    try:
        yield
    except Changed as error:
        after = stat(path)
        if after is None or after.crc32c != checksum():
            raise _changed_by_another(path) from error


def write_if(path: str, content: bytes, generation: int, *, fenced: bool = True) -> int | None:
    """Write an object if its generation is still the given one (0: if there is no such object).

    Returns the new generation, or None if the generation differed.  Even then the object may have this very content,
    because the answer to an earlier attempt can get lost.

    Args:
        path: of the object.
        content: of the new generation.
        generation: that is replaced.
        fenced: whether the locks that this process holds must be confirmed first; False for the locks themselves.
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
    except FileNotFoundError as error:  # An upload can only miss its bucket.
        raise no_bucket(path) from error


def _media_type(name: str) -> str:
    return mimetypes.guess_type(name)[0] or "application/octet-stream"


def read_with_generation(path: str) -> tuple[bytes, int] | None:
    """Return an object's content and its generation; None if there is no object."""
    while True:
        blob = stat(path)
        if blob is None:
            _require_bucket(path)
            return None
        generation = int(blob.generation)

        def fetch(bucket: Any, name: str, generation: int = generation) -> bytes:
            return bytes(bucket.blob(name, generation=generation).download_as_bytes(retry=None, timeout=timeout()))

        try:
            return call(path, fetch), generation
        except FileNotFoundError:  # Replaced since the first request.
            continue


class ObjectRecord:
    """A lease's record in an object, see ``lease.Record``; locks themselves need no lock."""

    def __init__(self, path: str) -> None:
        """Use the object of this name."""
        self._path = path

    def read(self) -> tuple[bytes, int] | None:
        """See ``read_with_generation``."""
        return read_with_generation(self._path)

    def take(self, content: bytes, generation: int) -> int | None:
        """See ``write_if``."""
        return write_if(self._path, content, generation, fenced=False)

    renew = take

    def release(self, generation: int) -> None:
        """Remove the object if it has still that generation."""
        remove(self._path, generation=generation, fenced=False)


def stat(path: str) -> Any:
    """Return an object's metadata, or None if there is no object."""
    return call(path, lambda bucket, name: bucket.get_blob(name, retry=None, timeout=timeout()) if name else None)


def append(path: str, content: bytes) -> None:
    """Append to an object, creating it if needed; after an error it is unchanged.

    Objects cannot grow, but the storage can concatenate two of them (compose), so the cost does not depend on the size
    of the object.  A generation precondition keeps a retried attempt from appending twice; the checksum shows whether
    an attempt whose answer got lost has succeeded.

    Raises:
        StoppedEarly: if another process changes the object at the same time.
    """
    before = stat(path)
    if before is None:
        if write_if(path, content, 0) is None and read(path) != content:
            raise _changed_by_another(path)
        return
    # The new bytes become an object of their own, which the storage then joins to the old one.
    part = f"{path}.part-{uuid.uuid4().hex}"

    def compose(bucket: Any, name: str) -> None:
        whole = bucket.blob(name)
        whole.content_type = _media_type(name)
        sources = [bucket.blob(name), bucket.blob(split(part)[1])]
        whole.compose(sources, if_generation_match=int(before.generation), retry=None, timeout=timeout())

    with _removed_afterwards(part):
        write(part, content)
        try:
            call(path, compose, writes=True)
        except Changed as error:
            # Either another process wrote, or an earlier attempt of ours did and its answer got lost.
            after = stat(path)
            if after is None or after.crc32c != _crc_of_both(before.crc32c, content):
                raise _changed_by_another(path) from error


@contextlib.contextmanager
def _removed_afterwards(part: str) -> Iterator[None]:
    """Remove an object, which only this call knows, after the block, also if a lock was lost meanwhile."""
    try:
        yield
    except StorageDown:  # It cannot be removed either: the job's next start does that.
        raise
    except BaseException:
        with contextlib.suppress(StoppedEarly):
            remove(part, fenced=False)
        raise
    remove(part, fenced=False)


def _crc(content: bytes) -> str:
    return _crc_of_both("AAAAAA==", content)  # CRC32C of nothing is 0.


def _crc_of_both(crc: str, content: bytes) -> str:
    """Return the CRC32C of an object after appending, in base64 as Google reports it."""
    import google_crc32c

    extended = google_crc32c.extend(int.from_bytes(base64.b64decode(crc), "big"), content)
    return base64.b64encode(extended.to_bytes(4, "big")).decode()


def _changed_by_another(path: str) -> StoppedEarly:
    return StoppedEarly(f"expected to be the only writer of {path!r}, but another process changed it; stop that one")


def list_objects(
    path: str, prefix: str, *, delimiter: str | None = None, page_size: int | None = None
) -> Iterator[str]:
    """Yield the names of a bucket's objects that begin with ``prefix``, without it.

    Args:
        path: any path in the bucket.
        prefix: begin of the names.
        delimiter: "/" lists one level only: names without it, then each name up to it once.
        page_size: objects in one answer; None: as many as the storage returns.
    """
    fields = "items(name),prefixes,nextPageToken" if delimiter else "items(name),nextPageToken"
    try:
        with explained(path):
            blobs = client().list_blobs(
                bucket_of(path), prefix=prefix or None, delimiter=delimiter, fields=fields, page_size=page_size,
                retry=retry_policy(), timeout=timeout(),
            )  # fmt: skip
            for blob in blobs:
                yield blob.name[len(prefix) :]
            yield from (folder[len(prefix) :].rstrip("/") for folder in blobs.prefixes)
    except FileNotFoundError as error:  # A prefix without objects gives an empty list, so the bucket is missing.
        raise no_bucket(path) from error


def remove(path: str, *, generation: int | None = None, fenced: bool = True) -> None:
    """Remove an object; does nothing if it does not exist or has another generation than the given one.

    Without one, a process that holds a lock removes what it sees now, and nothing that another one writes meanwhile.
    """
    if generation is None and fenced:
        generation = _generation_to_change(path)
        if generation == 0:
            return

    def delete(bucket: Any, name: str) -> None:
        bucket.blob(name).delete(if_generation_match=generation, retry=None, timeout=timeout())

    with contextlib.suppress(FileNotFoundError, Changed):
        call(path, delete, writes=fenced)


def copy(source: str, target: str) -> None:
    """Copy an object inside the storage.

    Raises:
        StoppedEarly: if this process holds a lock, but another one changed the target meanwhile.
    """
    generation = _generation_to_change(target)

    def rewrite(bucket: Any, name: str) -> None:
        original = bucket_of(source).blob(split(source)[1])
        token = None
        while True:  # A large object is copied in several requests.
            token, _, _ = bucket.blob(name).rewrite(
                original, token=token, if_generation_match=generation, retry=None, timeout=timeout()
            )
            if token is None:
                return

    with _answers_may_get_lost(target, lambda: str(stat(source).crc32c)):
        call(target, rewrite, writes=True)
