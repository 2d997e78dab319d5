"""Commands run inside the test's process, as a shell would run them: what they answer, and how they refuse."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from trainer.core import cli, errors

Capture = pytest.CaptureFixture[str]


def answer(capture: Capture, main: Callable[[Sequence[str]], int], *words: str | Path) -> tuple[int, str, str]:
    """Run a command; return its exit code and what it wrote to stdout and stderr."""
    code = cli.run_command(main, [str(word) for word in words])
    out, err = capture.readouterr()
    return code, out, err


def refusal(capture: Capture, main: Callable[[Sequence[str]], int], *words: str | Path) -> str:
    """Run a command that must answer with the exit code of a wrong request, and with one line alone; return it."""
    code, out, err = answer(capture, main, *words)
    assert (code, out, err.count("\n")) == (errors.EXIT_REQUEST, "", 1), (words, err)
    assert err.startswith("error: ")
    return err
