"""What the demo's commands print goes to a file; the terminal shows that they run, and the newest line of that file.

A demo is read by those who do not know yet what the many lines of three trainings say.
"""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from trainer.core import progress, terminal

_TAIL_BYTES = 2000


@contextlib.contextmanager
def running(title: str, path: Path) -> Iterator[None]:
    """Show that the block runs; what it and its child processes print is appended to a file."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(path.open("a", encoding="utf-8", errors="surrogateescape", buffering=1))
        screen = stack.enter_context(os.fdopen(os.dup(2), "w", encoding="utf-8"))
        stack.enter_context(progress.phase(title, stream=screen, newest=lambda: _last_line(path)))
        stack.enter_context(contextlib.redirect_stdout(file))
        stack.enter_context(contextlib.redirect_stderr(file))
        for number in (1, 2):
            stack.enter_context(_leading_to(number, file.fileno()))
        yield


@contextlib.contextmanager
def _leading_to(number: int, target: int) -> Iterator[None]:
    """Let a descriptor, which child processes inherit, lead elsewhere for the block."""
    saved = os.dup(number)
    os.dup2(target, number)
    try:
        yield
    finally:
        os.dup2(saved, number)
        os.close(saved)


def _last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(os.path.getsize(path) - _TAIL_BYTES, 0))
        lines = file.read().decode(errors="replace").splitlines()
    return terminal.in_line(next((line for line in reversed(lines) if line.strip()), ""))
