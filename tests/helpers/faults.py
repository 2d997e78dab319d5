"""Faults at the n-th system call of a command, in this process or in a child.

Python reports its own system calls to audit hooks (https://docs.python.org/3/library/audit_events.html): ``open``,
``os.listdir``, ``os.scandir``, ``os.rename``, ``os.remove``, ``os.mkdir``, ``fcntl.flock``, ``socket.connect`` and
others.  A hook that raises makes the call fail; a hook that sends a signal interrupts exactly there.  Calls of compiled
code, such as ``os.pread`` or TensorFlow's own files, report no event; tests patch those by name.
"""

import contextlib
import dataclasses
import fnmatch
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
_VARIABLE = "DEEPDETECT_TEST_FAULT"


@dataclasses.dataclass
class Fault:
    """What happens at which calls.

    Attributes:
        event: name of the audit event, such as ``open``; may have wildcards.
        path: glob that the event's first argument, a path, must match.
        first: number of the matching call at which it begins, from 1.
        count: at how many calls in a row; 0: at all from ``first`` on.
        number: errno with which the call fails; 0: it does not.
        signal: signal that this process gets before the call; 0: none.
        mode: "r" or "w": which calls of ``open`` are meant; empty: both.
        seen: matching calls so far.
    """

    event: str = "open"
    path: str = "*"
    first: int = 1
    count: int = 1
    number: int = 0
    signal: int = 0
    mode: str = ""
    seen: int = 0

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """Be the audit hook."""
        if not fnmatch.fnmatch(event, self.event) or not args or not isinstance(args[0], str | bytes | os.PathLike):
            return
        if not fnmatch.fnmatch(os.fsdecode(args[0]), self.path) or not self._has_mode(event, args):
            return
        with _lock:
            self.seen += 1
            if self.seen < self.first or (self.count and self.seen >= self.first + self.count):
                return
        if self.signal:
            os.kill(os.getpid(), self.signal)
        if self.number:
            raise OSError(self.number, os.strerror(self.number), os.fsdecode(args[0]))

    def _has_mode(self, event: str, args: tuple[Any, ...]) -> bool:
        if event != "open" or not self.mode:
            return True
        writes = bool(int(args[2] or 0) & (os.O_WRONLY | os.O_RDWR))
        return writes == (self.mode == "w")


_lock = threading.RLock()
_active: list[Fault] = []
_installed = False


def _hook(event: str, args: tuple[Any, ...]) -> None:
    for fault in _active:
        fault(event, args)


@contextlib.contextmanager
def injected(**values: Any) -> Iterator[Fault]:
    """Inject a fault into this process while the block runs; yields it, so that its ``seen`` can be read."""
    global _installed
    if not _installed:  # An audit hook cannot be removed, so there is one for the whole process.
        sys.addaudithook(_hook)
        _installed = True
    fault = Fault(**values)
    _active.append(fault)
    try:
        yield fault
    finally:
        _active.remove(fault)


def run(module: str, *words: str | Path, fault: dict[str, Any] | None = None, env: dict[str, str] | None = None,
        timeout: float = 300) -> "subprocess.CompletedProcess[str]":  # fmt: skip
    """Run ``python -m module words...`` in a child with a fault, see ``Fault``; return its code and its output."""
    child = start(module, *words, fault=fault, env=env)
    out, err = child.communicate(timeout=timeout)
    return subprocess.CompletedProcess(child.args, child.returncode, out, err)


def start(module: str, *words: str | Path, fault: dict[str, Any] | None = None,
          env: dict[str, str] | None = None) -> "subprocess.Popen[str]":  # fmt: skip
    """Start ``python -m module words...`` as ``run`` does, with pipes, and return at once."""
    code = f"from tests.helpers import faults; faults._be_child({module!r})"
    variables = os.environ | {_VARIABLE: json.dumps(fault or {}), "PYTHONPATH": str(ROOT)} | (env or {})
    return subprocess.Popen([sys.executable, "-c", code, *map(str, words)], env=variables, cwd=ROOT, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def _be_child(module: str) -> None:
    import runpy

    # In the background shells leave SIGINT ignored; a terminal does not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    values = json.loads(os.environ[_VARIABLE])
    if values:
        sys.addaudithook(_hook)
        _active.append(Fault(**values))
    runpy.run_module(module, run_name="__main__", alter_sys=True)
