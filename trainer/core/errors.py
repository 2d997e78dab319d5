"""Errors that end a command, and the exit codes of the contract.

Owns: what a process exit code means, and the words for a connection that failed.  Does not own: printing
(``cli.run_command``).  Imports no TensorFlow.
"""

import re

# How urllib3 names a connection.
_CONNECTION = re.compile(r"<?HTTPS?Connection(?:Pool)?\(host='([^']*)', port=(\d+)\)(?: at 0x[0-9a-f]+>)?")

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_REQUEST = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: everything is saved, rerun the same command.
EXIT_LOST_PEER = 76  # In a pod: the same after another process was lost, whose own end decides what Kubernetes does.


class RequestError(ValueError):
    """The request is wrong (flags, config, data), so a retry cannot help.

    The message is one line in the form "expected ..., received ..., do ..."; the process exits with code 2.
    """


class AccessDenied(RequestError):
    """A storage refuses access to one file; a command that reads many can leave it out, as it does a damaged one."""


class StoppedEarly(Exception):
    """The job stopped on purpose with its state saved; the process exits with ``code``."""

    code = EXIT_STOPPED


class LostPeer(StoppedEarly):
    """Another process of the job died, hangs or cannot be reached; see ``of_process`` for the exit code."""

    code = EXIT_LOST_PEER


class StorageDown(StoppedEarly):
    """A storage, remote or mounted, did not answer despite retries; a later start can succeed."""


class Diverged(Exception):
    """The loss became NaN or infinite; the message gives the interval of steps."""


class JobFailed(Exception):
    """A well-formed job failed for a reason that its log explains; the process exits with code 1."""


def of_process(code: int, *, in_pod: bool) -> int:
    """Return the code with which a process exits: a lost peer is 75 everywhere but in a Kubernetes pod.

    Kubernetes restarts a set of pods without limit after 75.  It must not do so because one of them crashed and the
    others stopped: that one may crash again.  Elsewhere 75 says what people and schedulers need: start all again.
    """
    return EXIT_STOPPED if code == EXIT_LOST_PEER and not in_pod else code


def of_connection(error: BaseException) -> str:
    """Return what went wrong with a connection in one line, without what HTTP clients wrap around it."""
    while inner := _inner(error):
        error = inner
    words = _CONNECTION.sub(r"\1:\2", str(error))
    return " ".join(words.split()) or type(error).__name__


def _inner(error: BaseException) -> BaseException | None:
    """Return the error that one of requests or urllib3 is about."""
    candidates = (getattr(error, "reason", None), *error.args)
    return next((each for each in candidates if isinstance(each, BaseException)), None)
