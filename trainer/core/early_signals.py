"""Stop requests in the first seconds of a command, before ``signals.py`` handles them.

Process 1 of a container has no default action for signals: what it does not handle is lost.  While a command is still
being imported nothing has been written, so the first signal ends it, with the code that says "start me again".
Owns: signals from the import of this package until the command runs.  Imports almost nothing, to be early.
"""

import os
import signal
import sys
from types import FrameType

from trainer.core.errors import EXIT_STOPPED

ORDERS = (signal.SIGTERM, signal.SIGINT)
# These announce the end: of the terminal, of the time (Slurm's --signal) or of the CPU time, for which Linux repeats
# SIGXCPU every second.  So a repetition is no order to end at once.
WARNINGS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
MODULES = frozenset({
    "trainer", "trainer.train", "trainer.evaluate", "trainer.predict", "trainer.export", "trainer.tune",
    "trainer.serve", "trainer.data_service", "trainer.prepare_data",
})  # fmt: skip
_BY_DEFAULT = (signal.SIG_DFL, signal.default_int_handler)


def install() -> None:
    """End this process at a signal if it is a command; one that only imports the package keeps its own ways."""
    if not is_command(sys.orig_argv):
        return
    for number in (*ORDERS, *WARNINGS):
        if signal.getsignal(number) in _BY_DEFAULT:
            signal.signal(number, end)


def is_command(words: list[str]) -> bool:
    """Return whether a process that was started by these words is one of this package's commands."""
    rest = iter(words[1:])
    for word in rest:
        if word in ("-X", "-W"):
            next(rest, "")
        elif word == "-m":
            return next(rest, "") in MODULES
        elif word.startswith("-m"):
            return word[2:] in MODULES
        elif not word.startswith("-") or word == "-c":
            return os.path.basename(word).partition("-")[0] == "deepdetect"
    return False


def end(number: int, _: FrameType | None) -> None:
    """End the process: the handler of the first seconds."""
    line = f"stopped: {signal.Signals(number).name} before anything was begun; rerun the same command\n"
    try:
        os.write(2, line.encode())
    finally:
        os._exit(EXIT_STOPPED)
