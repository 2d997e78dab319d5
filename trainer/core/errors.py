"""Errors that end a command, and the exit codes of the contract.

Owns: what a process exit code means.  Does not own: printing (``cli.run_command``).  Imports no TensorFlow.
"""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_REQUEST = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: everything is saved, rerun the same command.
EXIT_LOST_PEER = 76  # The same after another process of the job was lost, whose own end decides what a scheduler does.


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
    """Another process of the job died, hangs or cannot be reached; the process exits with code 76.

    A scheduler that restarts a job without limit after 75 must not do so here: the other one may have crashed, and may
    crash again.
    """

    code = EXIT_LOST_PEER


class StorageDown(StoppedEarly):
    """A storage, remote or mounted, did not answer despite retries; a later start can succeed."""


class Diverged(Exception):
    """The loss became NaN or infinite; the message gives the interval of steps."""


class JobFailed(Exception):
    """A well-formed job failed for a reason that its log explains; the process exits with code 1."""
