"""Standard output and error that cannot fail: a closed pipe, terminal or descriptor, or a full disk, ends no command.

What cannot be written is dropped, as nobody can read it.  A command whose result is what it prints calls
``require_printed`` at its end.
"""

import contextlib
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast

from trainer.core.errors import JobFailed

# A reader, such as ``head``, or a terminal that has gone: nobody waits for the rest.
_NOBODY_READS = (errno.EPIPE, errno.EIO, errno.EBADF)


class _Unbreakable:
    """A text stream that drops what the wrapped one cannot take; everything else is the wrapped one's."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None  # The first one.

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
        except ValueError:
            if not self._stream.closed:
                raise
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        self.write("".join(lines))

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)
        except ValueError:
            if not self._stream.closed:
                raise

    def _lose(self, error: OSError) -> None:
        """Send what is buffered, and all that follows, nowhere: Python would fail for it at the end of the process."""
        self.failure = self.failure or error
        with contextlib.suppress(OSError, ValueError):  # Not a stream of the operating system.
            _open_nowhere(self._stream.fileno())


@contextlib.contextmanager
def unbreakable() -> Iterator[None]:
    """Make the standard streams unbreakable for the block."""
    _open_closed()
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (cast(TextIO, _Unbreakable(stream)) for stream in before)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def require_printed() -> None:
    """Make sure that standard output took everything, or that nobody reads it.

    Raises:
        JobFailed: if something is lost, as on a full disk.
    """
    sys.stdout.flush()
    failure = sys.stdout.failure if isinstance(sys.stdout, _Unbreakable) else None
    if failure is not None and failure.errno not in _NOBODY_READS:
        raise JobFailed(f"the output could not be written ({failure.strerror}); free space, then rerun the command")


def _open_closed() -> None:
    """Open the standard streams that were closed (``>&-``), or the next file would get their number and their text."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            _open_nowhere(number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


def _open_nowhere(number: int) -> None:
    """Make a descriptor lead nowhere."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != number:
        os.dup2(nowhere, number)
        os.close(nowhere)
    os.set_inheritable(number, True)  # As the standard streams of child processes.
