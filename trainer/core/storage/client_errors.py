"""Errors of the clients behind fsspec, told apart: what may pass, what is the file's own, and what is the request's.

The clients (aiohttp, botocore, httpx and others) share no base class, so an answer's HTTP status decides where there is
one, else the built-in type, else the package that the error comes from.  Imports none of them, nor TensorFlow.
"""

import errno
import http
import os
from collections.abc import Iterator

from trainer.core.errors import AccessDenied, RequestError
from trainer.core.storage.transient import is_transient

# Whose errors without a status are trouble of the network: connections, broken answers, time limits.
_CLIENTS = ("aiohttp", "aiobotocore", "botocore", "fsspec", "httpcore", "httpcore2", "httpx", "httpx2", "requests",
            "urllib3", "azure")  # fmt: skip
_NOT_NOW = (http.HTTPStatus.REQUEST_TIMEOUT, http.HTTPStatus.TOO_EARLY, http.HTTPStatus.TOO_MANY_REQUESTS)
_ABSENT = (http.HTTPStatus.NOT_FOUND, http.HTTPStatus.GONE)
_NO_CONTAINER = ("NoSuchBucket", "RepositoryNotFoundError", "RevisionNotFoundError", "BucketNotFoundError",
                 "ContainerNotFound")  # fmt: skip
# Names of errors that come without a status, and would come again.
_WRONG = ("ParamValidationError", "ProfileNotFound", "NoRegionError", "InvalidRegionError", "InvalidURL",
          "InvalidUrlClientError", "NonHttpUrlClientError")  # fmt: skip
_OF_THE_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)

CREDENTIALS = "see docs/data.md, Other storages, for where credentials come from"


def translated(error: Exception, path: str) -> Exception:
    """Return the error that stands for a client's: a transient OSError, one of the file, or a RequestError.

    An error that comes from no client is returned itself.
    """
    status = status_of(error)
    if _may_pass(error, status):
        return OSError(errno.EIO, reason(error), path)
    if any(_word(one) in _NO_CONTAINER for one in _chain(error)):
        return no_container(path, reason(error))
    if status in _ABSENT or isinstance(error, _OF_THE_FILE):
        kind = type(error) if isinstance(error, _OF_THE_FILE) else FileNotFoundError
        return kind(errno.ENOENT, os.strerror(errno.ENOENT), path)
    if status == http.HTTPStatus.UNAUTHORIZED or _lacks_credentials(error):
        return RequestError(f"expected credentials for {path!r}, received none that count ({reason(error)}); "
                            f"{CREDENTIALS}")  # fmt: skip
    if status == http.HTTPStatus.FORBIDDEN or isinstance(error, PermissionError):
        return AccessDenied(f"expected permission to read {path!r}, received a refusal ({reason(error)}); grant it, or "
                            f"{CREDENTIALS}")  # fmt: skip
    if status is not None or _is_wrong(error):
        return RequestError(f"expected a path that its storage accepts, received {path!r} ({reason(error)}); "
                            "check the spelling")  # fmt: skip
    return error


def no_container(path: str, why: str) -> RequestError:
    """Return the error for a bucket, repository or container that does not exist."""
    return RequestError(f"expected an existing place, received {path!r} ({why}); check the name of the bucket or "
                        "repository")  # fmt: skip


def reason(error: BaseException) -> str:
    """Return what went wrong, in one line of the client's words, with the status if there is one."""
    words = " ".join(str(error).split())[:300] or type(error).__name__
    status = status_of(error)
    return words if status is None or str(status) in words else f"{status}: {words}"


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status of the answer that an error, or its cause, reports."""
    for one in _chain(error):
        response = getattr(one, "response", None)
        metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        for status in (getattr(one, "status", None), getattr(one, "status_code", None),
                       getattr(response, "status_code", None), metadata.get("HTTPStatusCode")):  # fmt: skip
            if isinstance(status, int) and status >= http.HTTPStatus.MULTIPLE_CHOICES:
                return status
    return None


def _may_pass(error: Exception, status: int | None) -> bool:
    if isinstance(error, TimeoutError | ConnectionError) or getattr(error, "errno", None) == errno.EBUSY:
        return True
    if status is not None:
        return status in _NOT_NOW or status >= http.HTTPStatus.INTERNAL_SERVER_ERROR
    if isinstance(error, (*_OF_THE_FILE, PermissionError)) or _lacks_credentials(error) or _is_wrong(error):
        return False
    return is_transient(error) or any(type(one).__module__.split(".")[0] in _CLIENTS for one in _chain(error))


def _is_wrong(error: Exception) -> bool:
    return isinstance(error, ValueError | NotImplementedError) or any(_word(one) in _WRONG for one in _chain(error))


def _lacks_credentials(error: BaseException) -> bool:
    return any("Credential" in type(one).__name__ for one in _chain(error))


def _word(error: BaseException) -> str:
    """Return the code of S3's answer, else the name of the error's type."""
    response = getattr(error, "response", None)
    code = response.get("Error", {}).get("Code") if isinstance(response, dict) else None
    return str(code or type(error).__name__)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what caused it."""
    while error is not None:
        yield error
        error = error.__cause__
