"""Errors that end a command, and the exit codes of the contract.

Owns: what a process exit code means.  Does not own: printing (``entry.run_command`` does that once for all commands).
"""

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_REQUEST = 2
EXIT_STOPPED = 75  # EX_TEMPFAIL of sysexits.h: everything is saved, start the same command again.


class RequestError(ValueError):
    """Say that the request is wrong (flags, config, data), so that a retry cannot help.

    The message is one line in the form "expected ..., received ..., do ..."; the process exits with code 2.
    """


class StoppedEarly(Exception):
    """Say that the job stopped on purpose with its state saved; the process exits with code 75."""


class StorageDown(StoppedEarly):
    """Say that gs:// did not answer although it was asked again and again; a later start can succeed."""


class Diverged(Exception):
    """Say that the loss is no longer a number, and between which steps that happened."""


class JobFailed(Exception):
    """Say that a well-formed job came to a bad end that its log explains; the process exits with code 1."""
