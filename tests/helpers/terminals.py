"""Commands in a pseudo-terminal, and what a person sees of their output."""

import os
import pty
import re
import struct
import subprocess
import sys
import termios
from fcntl import ioctl


def screen_of(text: str, columns: int) -> tuple[list[str], list[str]]:
    """Return the rows that a terminal of so many columns shows, and all that it has shown before."""
    rows, row, column = [""], 0, 0
    seen: list[str] = []
    for part in re.findall(r"\x1b\[A|\r|\n|[^\r\n\x1b]", text):
        if part == "\x1b[A":
            row -= 1
        elif part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            rows += [""] * (row + 1 - len(rows))
        else:
            assert column < columns, f"wrapped: {rows[row]!r}"
            rows[row] = rows[row][:column].ljust(column) + part + rows[row][column + 1 :]
            column += 1
            seen.append(rows[row])
    return [line.rstrip() for line in rows if line.strip()], seen


def run_in_terminal(*words: str, columns: int = 80, code: int = 0) -> str:
    """Run Python with these words in a terminal of so many columns until it exits with a code; return the text."""
    master, slave = pty.openpty()
    ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen([sys.executable, *words], stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    chunks: list[bytes] = []
    while True:
        try:
            chunk = os.read(master, 65536)
        except OSError:  # The process has closed its end.
            break
        if not chunk:
            break
        chunks.append(chunk)
    os.close(master)
    assert process.wait() == code
    return b"".join(chunks).decode()
