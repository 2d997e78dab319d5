"""Requests to Google Cloud Storage: the client, its credentials, retries, and errors in the user's words.

Does not own: which requests there are (``gcs_objects.py``).
"""

import contextlib
import errno
import http
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from trainer.core import environment, errors
from trainer.core.errors import AccessDenied, RequestError, StorageDown
from trainer.core.storage.fences import Fences

log = logging.getLogger(__name__)

T = TypeVar("T")

RETRY_SECONDS = 90.0  # DEEPDETECT_GCS_RETRY_SECONDS, if set, replaces it.
_FIRST_DELAY, _LONGEST_DELAY = 0.5, 16.0  # Seconds; each delay is drawn from [0, limit], and the limit doubles.
_REQUEST_SECONDS = 60.0  # Without any byte of an answer; then the request is retried.
_WARNING_SECONDS = 10.0  # Between two warnings about failed attempts.
_CONNECTIONS = 64  # Kept open; further threads wait for one.
_BUSY = (408, 429, 500, 502, 503, 504)  # https://cloud.google.com/storage/docs/retry-strategy
BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")  # https://cloud.google.com/storage/docs/buckets#naming

FORM = "gs://BUCKET/PATH (bucket names are lower case)"

# Asked before each attempt to change an object.
FENCES = Fences()


class Changed(Exception):
    """An object has another generation than expected."""


def split(path: str) -> tuple[str, str]:
    """Return bucket and object name of a gs:// path.

    Raises:
        RequestError: if the path is malformed.
    """
    scheme, _, rest = path.partition("://")
    bucket, _, name = rest.partition("/")
    if scheme != "gs" or not BUCKET_NAME.fullmatch(bucket):
        raise RequestError(f"expected a local path or {FORM}, received {path!r}; check the spelling")
    return bucket, name


# One client for each process, as a fork must not share connections, and for each address of the service.
_clients: dict[tuple[int, str], Any] = {}
_PAYER = "DEEPDETECT_GCS_USER_PROJECT"
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
        # An AuthorizedSession would try to refresh anonymous credentials, fail, and hide Google's answer.
        session = requests.Session()
        session.is_mtls = False  # type: ignore[attr-defined]  # The client reads this attribute of AuthorizedSession.
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
        log.warning("no Google credentials found: gs:// is accessed anonymously, as public buckets allow; see "
                    "'gcloud auth application-default login' or GOOGLE_APPLICATION_CREDENTIALS")  # fmt: skip
        return anonymous


def _patience() -> float:
    return environment.seconds("DEEPDETECT_GCS_RETRY_SECONDS", RETRY_SECONDS)


def timeout() -> float:
    """Return how many seconds a request may wait for a byte of its answer."""
    return min(_REQUEST_SECONDS, _patience())


def retry_policy() -> Any:
    """Return the retry policy of all requests: exponential backoff with full jitter, up to a total time."""
    from google.api_core import retry

    return retry.Retry(_is_transient, initial=_FIRST_DELAY, maximum=_LONGEST_DELAY, timeout=_patience(), on_error=_warn)


def _is_transient(error: Exception) -> bool:
    """Return whether a request that failed may succeed when it is sent again."""
    import google.auth.exceptions
    import requests.exceptions
    import urllib3.exceptions
    from google.api_core import exceptions

    if isinstance(error, exceptions.GoogleAPICallError):
        limited = any("ateLimitExceeded" in str(each) for each in error.errors or ())
        return error.code in _BUSY or limited
    if isinstance(error, google.auth.exceptions.GoogleAuthError):
        return isinstance(error, google.auth.exceptions.TransportError) or bool(error.retryable)
    connection_errors = (
        requests.exceptions.ConnectionError,
        requests.exceptions.Timeout,
        requests.exceptions.ChunkedEncodingError,
        requests.exceptions.ContentDecodingError,
        urllib3.exceptions.HTTPError,
        ConnectionError,
        TimeoutError,
    )
    return isinstance(error, connection_errors) or _is_damaged_download(error)


def _is_damaged_download(error: Exception) -> bool:
    """Return whether a download was cut off or its checksum is wrong."""
    from google.cloud.storage import exceptions

    return isinstance(error, (exceptions.DataCorruption, exceptions.InvalidResponse))


_last_warning = -60.0  # Seconds, on the monotonic clock.


def _warn(error: Exception) -> None:
    """Report a failed attempt, at most one in ten seconds."""
    global _last_warning
    if time.monotonic() - _last_warning > _WARNING_SECONDS:
        _last_warning = time.monotonic()
        log.warning("gs:// %s; trying again for up to %.0f s", _reason(error), _patience())


def bucket_of(path: str) -> Any:
    """Return a path's bucket; requests about it are billed to the project in DEEPDETECT_GCS_USER_PROJECT, if it is set.

    No other variable counts, as nobody should pay for a bucket without having said so.
    """
    return client().bucket(split(path)[0], user_project=os.environ.get(_PAYER) or None)


def call(path: str, action: Callable[[Any, str], T], *, writes: bool = False) -> T:
    """Run ``action(bucket, name)`` until it succeeds, time is up, or a retry cannot help.

    Args:
        path: gs://bucket/name.
        action: one attempt.
        writes: whether it changes the object, so that the fences are called first.
    """
    _, name = split(path)

    def attempt() -> T:
        if writes:
            FENCES.check()
        return action(bucket_of(path), name)

    with explained(path):
        return retry_policy()(attempt)()  # type: ignore[no-any-return]


@contextlib.contextmanager
def explained(path: str) -> Iterator[None]:
    """Translate the client's errors into built-in ones and those of ``errors.py``."""
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
        if "requester pays" in _reason(error).lower():
            raise RequestError(
                f"expected in {_PAYER} the project that pays for requests about {split(path)[0]!r}, received "
                f"{os.environ.get(_PAYER) or 'none'!r} ({_reason(error)}); set it to a Google Cloud project of yours"
            ) from error
        raise RequestError(
            f"expected a request that Google accepts, received for {path!r}: {_reason(error)}"
        ) from error
    except exceptions.RetryError as error:
        cause = error.cause or error
        raise StorageDown(
            f"gs://{split(path)[0]} did not answer for {_patience():.0f} s ({_reason(cause)}); everything "
            "saved before is intact: rerun the same command later"
        ) from error
    except google.auth.exceptions.GoogleAuthError as error:
        raise RequestError(
            f"expected valid Google credentials, received for {path!r}: {_reason(error)}; run 'gcloud auth "
            "application-default login' or set GOOGLE_APPLICATION_CREDENTIALS"
        ) from error


def _reason(error: BaseException) -> str:
    """Return Google's own message in one line."""
    response = getattr(error, "response", None)
    try:
        text = str(response.json()["error"]["message"])  # type: ignore[union-attr]
    except (AttributeError, KeyError, TypeError, ValueError):
        text = getattr(response, "text", "") or errors.of_connection(error)
    words = " ".join(text.split())[:300]
    code = getattr(error, "code", None)
    return f"{int(code)}: {words}" if isinstance(code, int) else words


def no_bucket(path: str) -> RequestError:
    """Return the error that names a missing bucket."""
    return RequestError(
        f"expected the bucket {split(path)[0]!r} to exist, received {path!r} whose bucket does not; check the name, or "
        "create it with 'gcloud storage buckets create'"
    )


def _no_permission(path: str, error: BaseException) -> RequestError:
    reason = _reason(error)
    if "serviceusage." in reason:  # About the project, whatever the object.
        return RequestError(
            f"expected a project that may pay in {_PAYER}, received {os.environ.get(_PAYER)!r} ({reason}); use another "
            "project, or grant roles/serviceusage.serviceUsageConsumer on it"
        )
    permission = re.search(r"storage\.[a-zA-Z]+\.[a-zA-Z]+", reason)
    account = re.search(r"\S+@\S+|Anonymous caller", reason)
    own_account = getattr(client()._credentials, "service_account_email", None)
    who = account[0] if account else own_account or "this account"
    # Credentials that nobody accepts (401) are no matter of one object.
    kind = AccessDenied if getattr(error, "code", None) == http.HTTPStatus.FORBIDDEN else RequestError
    return kind(
        f"expected {who} to have {permission[0] if permission else 'access'} on the bucket {split(path)[0]!r}, "
        f"received a refusal for {path!r} ({reason}); grant a role that has it, such as roles/storage.objectUser"
    )
