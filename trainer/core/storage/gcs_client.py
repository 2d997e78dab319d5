"""Requests to Google Cloud Storage: the client, its credentials, what is tried again, what a refusal means to a user.

Does not own: which operations there are (``gcs.py``).
"""

import contextlib
import errno
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from trainer.core.errors import RequestError, StorageDown

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_SECONDS = 90.0  # DEEPDETECT_GCS_RETRY_SECONDS, if set, replaces it.
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 16.0  # Seconds; each delay is drawn from [0, limit], and the limit doubles.
_REQUEST_SECONDS = 60.0  # Without a byte, then the request is tried again.
_CONNECTIONS = 64  # Kept open; more threads than that wait for each other.
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


# One client a process, as a fork must not share connections, and service: Google's, or the one that the variable names.
_clients: dict[tuple[int, str], Any] = {}
_SERVICE = "STORAGE_EMULATOR_HOST"
_making = threading.Lock()


def client() -> Any:
    """Return the storage client of this process."""
    with _making:
        key = os.getpid(), os.environ.get(_SERVICE, "")
        if key not in _clients:
            _clients[key] = _new_client()
        return _clients[key]


def _new_client() -> Any:
    import google.auth.credentials
    import google.auth.transport.requests
    import requests.adapters
    from google.cloud import storage

    credentials = _credentials(storage.Client.SCOPE)
    if isinstance(credentials, google.auth.credentials.AnonymousCredentials):
        session = requests.Session()  # The other one fails to refresh what is none, and hides Google's answer.
        session.is_mtls = False  # type: ignore[attr-defined]  # The client asks the other one for it.
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
    if os.environ.get(_SERVICE):
        return anonymous
    try:
        return google.auth.default(scopes=scopes)[0]
    except google.auth.exceptions.DefaultCredentialsError:
        log.warning("no Google credentials found: gs:// is used anonymously, which public buckets allow; see "
                    "'gcloud auth application-default login' or GOOGLE_APPLICATION_CREDENTIALS")  # fmt: skip
        return anonymous


def _patience() -> float:
    return float(os.environ.get("DEEPDETECT_GCS_RETRY_SECONDS", RETRY_SECONDS))


def timeout() -> float:
    """Return how many seconds a request may be silent."""
    return min(_REQUEST_SECONDS, _patience())


def retry_policy() -> Any:
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


def call(path: str, action: Callable[[Any, str], T], *, writes: bool = False) -> T:
    """Run ``action(bucket, name)`` until it succeeds, time is up, or trying again cannot help."""
    bucket, name = split(path)

    def attempt() -> T:
        if writes and before_write is not None:
            before_write()
        return action(client().bucket(bucket), name)

    with explained(path):
        return retry_policy()(attempt)()  # type: ignore[no-any-return]


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn the client's errors into those of this module."""
    import google.auth.exceptions
    from google.api_core import exceptions

    try:
        yield
    except exceptions.PreconditionFailed as error:
        raise Changed(path) from error
    except exceptions.NotFound as error:
        if "bucket" in _reason(error):
            raise no_bucket(path) from error
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


def no_bucket(path: str) -> RequestError:
    """Return the error that names a missing bucket."""
    return RequestError(
        f"expected the bucket {split(path)[0]!r} to exist, received {path!r} whose bucket does not; check the name, or "
        "make it with 'gcloud storage buckets create'"
    )


def _no_permission(path: str, error: BaseException) -> RequestError:
    reason = _reason(error)
    permission = re.search(r"storage\.[a-zA-Z]+\.[a-zA-Z]+", reason)
    account = re.search(r"\S+@\S+|Anonymous caller", reason)
    known = getattr(client()._credentials, "service_account_email", None)
    who = account[0] if account else known or "this account"
    return RequestError(
        f"expected {who} to have {permission[0] if permission else 'access'} on the bucket {split(path)[0]!r}, "
        f"received a refusal for {path!r} ({reason}); grant a role that has it, such as roles/storage.objectUser"
    )
