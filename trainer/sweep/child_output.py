"""The output of a child process: passed on to standard error, and its last lines kept for the reason of its end.

A child whose parent writes to a terminal gets a terminal of its own, so that it shows bars as the parent would.
Does not own: the process (``trial.py``).  Imports no TensorFlow.
"""

import codecs
import collections
import contextlib
import fcntl
import os
import sys
import termios
import threading
import tty
from collections.abc import Iterator

_KEPT_LINES = 400
_CHUNK_BYTES = 65536
LAST_WORDS = ("error: ", "failed: ", "stopped: ")  # With which a command's last line begins, see ``core/cli.py``.

Lines = collections.deque[str]


@contextlib.contextmanager
def passed_on() -> Iterator[tuple[int, Lines]]:
    """Yield a descriptor for a child to write to and its last lines, which are complete after the block."""
    lines = Lines(maxlen=_KEPT_LINES)
    ends = _terminal() if sys.stderr.isatty() else None
    read, write = ends or os.pipe()
    reader = threading.Thread(target=_forward_terminal if ends else _forward, args=(read, lines), daemon=True)
    reader.start()
    try:
        yield write, lines
    finally:
        os.close(write)
    reader.join()


def _terminal() -> tuple[int, int] | None:
    """Return both ends of a new terminal, which changes nothing of what is written to it; None if there is none."""
    try:
        read, write = os.openpty()
    except OSError:  # A container without /dev/pts, or too many.
        return None
    tty.setraw(write)
    _resize(read)
    return read, write


def _resize(terminal: int) -> None:
    """Give it the size of the one behind standard error."""
    with contextlib.suppress(OSError, ValueError):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, fcntl.ioctl(sys.stderr.fileno(), termios.TIOCGWINSZ, bytes(8)))


def _forward(source: int, lines: Lines) -> None:
    with open(source, encoding="utf-8", errors="replace") as stream:
        for line in stream:
            lines.append(line.rstrip())
            print(line.rstrip("\n"), file=sys.stderr, flush=True)


def _forward_terminal(source: int, lines: Lines) -> None:
    """Pass on what comes, bars included, of which there are no lines."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    row = ""
    for data in iter(lambda: _read(source), b""):
        _resize(source)
        text = decoder.decode(data)
        sys.stderr.write(text)
        sys.stderr.flush()
        *whole, row = (row + text).split("\n")
        for line in whole:
            _keep(line.rpartition("\r")[2].rstrip(), lines)
        row = row.rpartition("\r")[2]
    os.close(source)
    if row.strip():  # The child was killed behind a bar.
        print(file=sys.stderr, flush=True)


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, _CHUNK_BYTES)
    except OSError:  # Nobody can write to it any more.
        return b""


def _keep(line: str, lines: Lines) -> None:
    """Keep a line; the last words were broken to fit into the terminal, and are one line again."""
    if line.startswith("  ") and lines and lines[-1].startswith(LAST_WORDS):
        lines[-1] += f" {line.strip()}"
    else:
        lines.append(line)
