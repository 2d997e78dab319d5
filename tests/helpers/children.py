"""Commands in processes of their own, forked from one that has imported TensorFlow and not started it.

The import takes longer than a small job.  What happens during it, tests show that start Python itself.
"""

import atexit
import contextlib
import ctypes
import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import IO

from tests.helpers.jobs import without_report

_PRELOADED = ["tests.helpers.children", "trainer.training.start.build"]
_PR_SET_PDEATHSIG = 1  # prctl(2)
_context = multiprocessing.get_context("forkserver")


class Child:
    """A command that runs, with the part of ``subprocess.Popen`` that tests use; its outputs are files."""

    def __init__(
        self, module: str, words: Sequence[object], environment: Mapping[str, str] | None = None, *,
        report: bool = False,
    ) -> None:  # fmt: skip
        """Start ``python -m module words`` in this process's environment and some variables more.

        Without ``report`` jobs draw none, which takes seconds.
        """
        _context.set_forkserver_preload(_PRELOADED)
        self._outputs = [tempfile.TemporaryFile("w+", errors="replace") for _ in range(2)]  # noqa: SIM115
        paths = [f"/proc/{os.getpid()}/fd/{output.fileno()}" for output in self._outputs]
        variables = {**os.environ, **(environment or {})}
        self._process = _context.Process(
            target=_run, args=(module, [str(word) for word in words], variables, paths, report)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Its number."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, or the negative number of the signal that ended it; None while it runs."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """Return the exit code; None while it runs."""
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a crash would."""
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float = 300.0) -> int:
        """Return the exit code.

        Raises:
            TimeoutError: if it runs for longer.
        """
        self._process.join(timeout)
        if self.returncode is None:
            raise TimeoutError(f"process {self.pid} still runs after {timeout:g} s")
        return self.returncode

    def communicate(self, timeout: float = 300.0) -> tuple[str, str]:
        """Wait, and return what it wrote to stdout and stderr."""
        self.wait(timeout)
        return self._text(self._outputs[0]), self._text(self._outputs[1])

    @staticmethod
    def _text(output: IO[str]) -> str:
        output.seek(0)
        return output.read()


def _run(
    module: str, words: Sequence[str], variables: Mapping[str, str], outputs: Sequence[str], report: bool
) -> None:  # fmt: skip
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.clear()
    os.environ.update(variables)
    for number, path in enumerate(outputs, 1):
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv = [module, *words]
    try:
        with contextlib.nullcontext() if report else without_report():
            importlib.import_module(module).console()
    finally:
        atexit._run_exitfuncs()  # As at the end of Python, which a forked process does not see.
