"""Trouble of a mounted file system or of this process that may pass by itself: retried, never blamed on a file.

A network file system that loses its server, or a process that runs out of descriptors, fails reads of files that are
perfectly good.  Such an error says nothing about the file, so it must neither mark an image as bad nor end a job with
exit code 2.  Does not own: the retries of a bucket's client (``gcs_client.py``).  Imports no TensorFlow.
"""

import errno
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from trainer.core import environment
from trainer.core.errors import StorageDown

log = logging.getLogger(__name__)

T = TypeVar("T")

# Errors of the way to a file, not of the file.  ENOENT, EACCES, EPERM, EISDIR, ENOTDIR, ELOOP and ENAMETOOLONG are the
# request's own; ENOSPC, EDQUOT and EROFS concern writes, whose callers keep what they have.
TRANSIENT = frozenset({
    errno.EIO, errno.EREMOTEIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.EINTR,
    errno.ENOTCONN, errno.ESHUTDOWN, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EPIPE,
    errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH, errno.ENOLINK,
    errno.ENODEV, errno.ENXIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS,
})  # fmt: skip

FULL = frozenset({errno.ENOSPC, errno.EDQUOT})

RETRY_SECONDS = 90.0  # DEEPDETECT_FILE_RETRY_SECONDS, if set, replaces it.
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 10.0  # Seconds; each delay is drawn from [limit / 2, limit], and the limit doubles.
_WARNING_SECONDS = 10.0  # Between two warnings about failed attempts.

_REMEDY = "repair the file system or free what it lacks, then rerun the same command"

_last_warning = -_WARNING_SECONDS  # Seconds, on the monotonic clock.


def is_transient(error: BaseException) -> bool:
    """Return whether an error may pass by itself and says nothing about the file that it names."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in TRANSIENT)


def may_pass(error: BaseException) -> bool:
    """Return whether what failed may succeed in a later start: a file system may return, or get room again."""
    return isinstance(error, OSError) and error.errno in TRANSIENT | FULL


def retry(path: str, action: Callable[[], T], remedy: str = _REMEDY) -> T:
    """Run ``action`` until it succeeds, time is up, or it fails for a reason that a retry cannot change.

    Args:
        path: what it reads or lists, for messages.
        action: one attempt, which can be repeated.
        remedy: what to do if it never succeeds, for the message.

    Raises:
        StorageDown: if it still fails after ``RETRY_SECONDS``.
    """
    seconds = environment.seconds("DEEPDETECT_FILE_RETRY_SECONDS", RETRY_SECONDS)
    started = time.monotonic()
    longest = _FIRST_DELAY
    while True:
        try:
            return action()
        except (OSError, MemoryError) as error:
            if not is_transient(error):
                raise
            delay = random.uniform(longest / 2, longest)
            if time.monotonic() - started + delay > seconds:
                raise down(path, error, seconds, remedy) from error
            _warn(path, error, seconds)
        time.sleep(delay)
        longest = min(2 * longest, _LONGEST_DELAY)


def down(path: str, error: BaseException, seconds: float, remedy: str = _REMEDY) -> StorageDown:
    """Return the error for trouble that did not pass in ``seconds``."""
    return StorageDown(
        f"{path!r} could not be read for {seconds:.0f} s ({reason(error)}); everything saved before is intact: {remedy}"
    )


def reason(error: BaseException) -> str:
    """Return what went wrong, in the operating system's words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _warn(path: str, error: BaseException, seconds: float) -> None:
    """Report a failed attempt, at most one in ten seconds."""
    global _last_warning
    if time.monotonic() - _last_warning > _WARNING_SECONDS:
        _last_warning = time.monotonic()
        log.warning("%s could not be read (%s); trying again for up to %.0f s", path, reason(error), seconds)
