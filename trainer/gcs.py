"""Objects of Google Cloud Storage, by google-cloud-storage: whole-object operations with bounded retries.

Owns: the client, its credentials, what is tried again, and what a refusal means to a user.  Does not own: local
paths (``files.py`` is the door to both).  Every function takes ``gs://bucket/name`` and may be called from any thread.

Raises, from every function:
    RequestError: if the bucket is not there, a permission is missing, or the path is no gs:// path.
    StorageDown: if the storage did not answer for so long that trying on is no use.
"""

import base64
import contextlib
import errno
import logging
import mimetypes
import os
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from trainer.errors import RequestError, StoppedEarly, StorageDown

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_SECONDS = 90.0  # DEEPDETECT_GCS_RETRY_SECONDS, if set, replaces it.
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 16.0  # Seconds; each delay is drawn from [0, limit], and the limit doubles.
_REQUEST_SECONDS = 60.0  # Without a byte, then the request is tried again.
_CONNECTIONS = 64  # Kept open; more threads than that wait for each other.
_THREADS = 16  # For operations on many objects.
_BUSY = (408, 429, 500, 502, 503, 504)  # https://cloud.google.com/storage/docs/retry-strategy
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")  # https://cloud.google.com/storage/docs/buckets#naming

# Called before each attempt to change an object: raises if this process may not write any more (``lease.py``).
before_write: Callable[[], None] | None = None


class Changed(Exception):
    """Say that an object has another generation than the one expected."""


def split(path: str) -> tuple[str, str]:
    """Return bucket and object name of a gs:// path.

    Raises:
        RequestError: if it is none.
    """
    scheme, _, rest = path.partition("://")
    bucket, _, name = rest.partition("/")
    if scheme != "gs" or not BUCKET_NAME.fullmatch(bucket):
        raise RequestError(
            f"expected a local path or gs://BUCKET/PATH (bucket names are lower case), received {path!r}; write it so"
        )
    return bucket, name


# One client a process: a fork must not share connections.
_clients: dict[int, Any] = {}
_making = threading.Lock()


def _client() -> Any:
    with _making:
        if os.getpid() not in _clients:
            _clients[os.getpid()] = _new_client()
        return _clients[os.getpid()]


def _new_client() -> Any:
    import google.auth.credentials
    import google.auth.transport.requests
    import requests.adapters
    from google.cloud import storage

    credentials = _credentials(storage.Client.SCOPE)
    if isinstance(credentials, google.auth.credentials.AnonymousCredentials):
        session = requests.Session()  # The other one fails to refresh what is none, and hides Google's answer.
    else:
        session = google.auth.transport.requests.AuthorizedSession(credentials)  # type: ignore[no-untyped-call]
    for scheme in ("https://", "http://"):
        session.mount(scheme, requests.adapters.HTTPAdapter(pool_maxsize=_CONNECTIONS))
    return storage.Client(project=None, credentials=credentials, _http=session)


def _credentials(scopes: tuple[str, ...]) -> Any:
    import google.auth
    import google.auth.credentials
    import google.auth.exceptions

    anonymous = google.auth.credentials.AnonymousCredentials()  # type: ignore[no-untyped-call]
    if os.environ.get("STORAGE_EMULATOR_HOST"):
        return anonymous
    try:
        return google.auth.default(scopes=scopes)[0]
    except google.auth.exceptions.DefaultCredentialsError:
        log.warning("no Google credentials found: gs:// is used anonymously, which public buckets allow; see "
                    "'gcloud auth application-default login' or GOOGLE_APPLICATION_CREDENTIALS")  # fmt: skip
        return anonymous


def _patience() -> float:
    return float(os.environ.get("DEEPDETECT_GCS_RETRY_SECONDS", RETRY_SECONDS))


def _timeout() -> float:
    return min(_REQUEST_SECONDS, _patience())


def _retry() -> Any:
    """Return the policy of all requests: exponential backoff with full jitter, up to a total time."""
    from google.api_core import retry

    return retry.Retry(_is_passing, initial=_FIRST_DELAY, maximum=_LONGEST_DELAY, timeout=_patience(), on_error=_say)


def _is_passing(error: Exception) -> bool:
    """Tell whether a request may succeed when it is sent again."""
    import google.auth.exceptions
    import requests.exceptions
    import urllib3.exceptions
    from google.api_core import exceptions

    if isinstance(error, exceptions.GoogleAPICallError):
        limited = any("ateLimitExceeded" in str(each) for each in error.errors or ())
        return error.code in _BUSY or limited
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        return isinstance(error, google.auth.exceptions.TransportError) or bool(error.retryable)
    broken = (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
        urllib3.exceptions.HTTPError,
        ConnectionError,
        TimeoutError,
    )
    return isinstance(error, broken) or _is_damaged_download(error)


def _is_damaged_download(error: Exception) -> bool:
    """Tell whether a download was cut or its checksum is wrong."""
    from google.cloud.storage import exceptions

    return isinstance(error, (exceptions.DataCorruption, exceptions.InvalidResponse))


_said = -60.0


def _say(error: Exception) -> None:
    """Report a failed attempt, at most one in ten seconds."""
    global _said
    if time.monotonic() - _said > 10.0:
        _said = time.monotonic()
        log.warning("gs:// %s; trying again for up to %.0f s", _reason(error), _patience())


def _call(path: str, action: Callable[[Any, str], T], *, writes: bool = False) -> T:
    """Run ``action(bucket, name)`` until it succeeds, time is up, or trying again cannot help."""
    bucket, name = split(path)

    def attempt() -> T:
        if writes and before_write is not None:
            before_write()
        return action(_client().bucket(bucket), name)

    with _explained(path):
        return _retry()(attempt)()  # type: ignore[no-any-return]


@contextlib.contextmanager
def _explained(path: str) -> Iterator[None]:
    """Turn the client's errors into those of this module."""
    import google.auth.exceptions
    from google.api_core import exceptions

    try:
        yield
    except exceptions.PreconditionFailed as error:
        raise Changed(path) from error
    except exceptions.NotFound as error:
        if "bucket" in _reason(error):
            raise _no_bucket(path) from error
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
    except (exceptions.Forbidden, exceptions.Unauthorized) as error:
        raise _no_permission(path, error) from error
    except exceptions.BadRequest as error:
        raise RequestError(f"expected a request that Google takes, received for {path!r}: {_reason(error)}") from error
    except exceptions.RetryError as error:
        cause = error.cause or error
        raise StorageDown(
            f"gs://{split(path)[0]} did not answer for {_patience():.0f} s ({_reason(cause)}); what was saved before "
            "is whole: start the same command again later"
        ) from error
    except google.auth.exceptions.GoogleAuthError as error:
        raise RequestError(
            f"expected Google credentials that are valid, received for {path!r}: {_reason(error)}; run 'gcloud auth "
            "application-default login' or set GOOGLE_APPLICATION_CREDENTIALS"
        ) from error


def _reason(error: BaseException) -> str:
    """Return Google's own words in one line."""
    response = getattr(error, "response", None)
    try:
        text = str(response.json()["error"]["message"])  # type: ignore[union-attr]
    except (AttributeError, KeyError, TypeError, ValueError):
        text = getattr(response, "text", "") or str(error) or type(error).__name__
    words = " ".join(text.split())[:300]
    code = getattr(error, "code", None)
    return f"{int(code)}: {words}" if isinstance(code, int) else words


def _no_bucket(path: str) -> RequestError:
    return RequestError(
        f"expected the bucket {split(path)[0]!r} to exist, received {path!r} whose bucket does not; check the name, or "
        "make it with 'gcloud storage buckets create'"
    )


def _no_permission(path: str, error: BaseException) -> RequestError:
    reason = _reason(error)
    permission = re.search(r"storage\.[a-zA-Z]+\.[a-zA-Z]+", reason)
    account = re.search(r"\S+@\S+|Anonymous caller", reason)
    known = getattr(_client()._credentials, "service_account_email", None)
    who = account[0] if account else known or "this account"
    return RequestError(
        f"expected {who} to have {permission[0] if permission else 'access'} on the bucket {split(path)[0]!r}, "
        f"received a refusal for {path!r} ({reason}); grant a role that has it, such as roles/storage.objectUser"
    )


def read(path: str) -> bytes:
    """Return an object's content, checksum verified.

    Raises:
        FileNotFoundError: if there is none.
    """
    return _reading(path, lambda blob: bytes(blob.download_as_bytes(retry=None, timeout=_timeout())))


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
            return bytes(blob.download_as_bytes(start=offset, end=offset + length - 1, retry=None, timeout=_timeout()))
        except exceptions.RequestRangeNotSatisfiable:
            return b""

    return _reading(path, ask)


def _reading(path: str, ask: Callable[[Any], bytes]) -> bytes:
    try:
        return _call(path, lambda bucket, name: ask(bucket.blob(name)))
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
            content, content_type=_media_type(name), if_generation_match=generation, retry=None, timeout=_timeout()
        )
        return int(blob.generation)

    try:
        return _call(path, send, writes=fenced)
    except FileNotFoundError as error:  # Nothing else can be missing for an upload.
        raise _no_bucket(path) from error


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
            return bytes(bucket.blob(name, generation=generation).download_as_bytes(retry=None, timeout=_timeout()))

        try:
            return _call(path, fetch), generation
        except FileNotFoundError:  # Replaced in between.
            continue


def _stat(path: str) -> Any:
    return _call(path, lambda bucket, name: bucket.get_blob(name, retry=None, timeout=_timeout()) if name else None)


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
        whole.compose(sources, if_generation_match=int(before.generation), retry=None, timeout=_timeout())

    try:
        _call(path, compose, writes=True)
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
        with _explained(path):
            found = _client().list_blobs(
                split(path)[0], prefix=prefix or None, delimiter=delimiter, fields=fields, page_size=page_size,
                retry=_retry(), timeout=_timeout(),
            )  # fmt: skip
            for blob in found:
                yield blob.name[len(prefix) :]
            yield from (folder[len(prefix) :].rstrip("/") for folder in found.prefixes)
    except FileNotFoundError as error:  # A prefix without objects is an empty list, so it is the bucket.
        raise _no_bucket(path) from error


def remove(path: str, *, generation: int | None = None, fenced: bool = True) -> None:
    """Remove an object; nothing happens if it is not there or has another generation than the given one."""

    def delete(bucket: Any, name: str) -> None:
        bucket.blob(name).delete(if_generation_match=generation, retry=None, timeout=_timeout())

    with contextlib.suppress(FileNotFoundError, Changed):
        _call(path, delete, writes=fenced)


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
        original, token = _client().bucket(split(source)[0]).blob(split(source)[1]), None
        while True:
            token, _, _ = bucket.blob(name).rewrite(original, token=token, retry=None, timeout=_timeout())
            if token is None:
                return

    _call(target, rewrite, writes=True)


def _each(action: Callable[[str], None], names: list[str]) -> None:
    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(action, names))
