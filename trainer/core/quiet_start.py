"""TensorFlow's import without the lines that it always writes: they come before its own log level is read.

C++ writes them to descriptor 2, so the descriptor leads through a filter process while TensorFlow is imported.  The
filter drops the lines of ``_KNOWN`` and passes on all other bytes, in order.  It is a process of its own, so that the
text of a crash inside the import appears, too.  TFLite, which has no such level, starts in it as well
(``serving/convert.py``).  See https://github.com/tensorflow/tensorflow/issues/100442.
Owns: the filter, and when it runs.  Does not own: TensorFlow's log level (``cli.py``).  Imports no TensorFlow.

Run as a script, this file is the filter: it must import nothing but a little of the standard library.
"""

import contextlib
import importlib.abc
import os
import re
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import subprocess
    from importlib.machinery import ModuleSpec
    from types import ModuleType

# Either form of a log line's head: absl's, and that of TensorFlow before 2.17.
_HEAD = rb"(?:[IWE]\d{4} [\d:.]+ +\d+ |\d{4}-\d\d-\d\d [\d:.]+: [IWE] )(?:\S*/)?"
_KNOWN = re.compile(
    rb"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR"
    rb"|To enable the following instructions: [\w. ]+, in other operations, rebuild TensorFlow with the appropriate "
    rb"compiler flags\."
    rb"|INFO: Created TensorFlow Lite XNNPACK delegate for CPU\."
    rb"|" + _HEAD + rb"(?:"
    rb"port\.cc:\d+\] oneDNN custom operations are on\. .*"
    rb"|cudart_stub\.cc:\d+\] Could not find cuda drivers on your machine, GPU will not be used\."
    rb"|cpu_feature_guard\.cc:\d+\] This TensorFlow binary is optimized .*"
    rb"|cuda_(?:fft|dnn|blas)\.cc:\d+\] Unable to register cu(?:FFT|DNN|BLAS) factory: .*"
    rb"|computation_placer\.cc:\d+\] computation placer already registered\. .*"
    rb")"
)  # fmt: skip
_HOLD_SECONDS = 0.1  # How long the beginning of a line waits for its end.
_ANSWER_SECONDS = 10.0  # How long the filter may take to start, and to pass on what it has.


def install() -> None:
    """Hide the known lines when this process imports TensorFlow, whichever module does so first.

    A user who sets TF_CPP_MIN_LOG_LEVEL=0 sees everything.
    """
    is_pending = "tensorflow" not in sys.modules and not any(isinstance(finder, _Finder) for finder in sys.meta_path)
    if is_pending and os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0":
        sys.meta_path.insert(0, _Finder())


@contextlib.contextmanager
def filtered() -> Iterator[None]:
    """Let descriptor 2 lead through the filter for the block; without one if it cannot be started."""
    import faulthandler

    process = None
    with contextlib.suppress(OSError, ValueError):
        process = _start()
    if process is None:
        yield
        return
    saved = os.dup(2)
    _switch(process[1], 2)
    # A crash writes its trace to the same pipe, which takes one text at a time.  So the filter has read what came
    # before, even if all processes of a container end with this one.
    traces = not faulthandler.is_enabled()
    if traces:
        faulthandler.enable(file=2)
    try:
        yield
    finally:
        if traces:
            faulthandler.disable()
        _switch(saved, 2)
        _finish(process[0])


def _switch(source: int, target: int) -> None:
    if sys.stderr is not None:
        sys.stderr.flush()
    os.dup2(source, target)
    os.close(source)


def _start() -> "tuple[subprocess.Popen[bytes], int] | None":
    """Start the filter; return it and the descriptor that it reads from, or None if it does not answer."""
    import subprocess

    read, write = _pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(read)], bufsize=0, pass_fds=[read],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,  # No signals of the terminal.
        )  # fmt: skip
    except BaseException:
        os.close(write)
        raise
    finally:
        os.close(read)
    if _answers(process):
        return process, write
    os.close(write)
    process.kill()
    process.wait()
    return None


def _pipe() -> tuple[int, int]:
    """Return a pipe that holds one write at a time, where the system has such; otherwise an ordinary one."""
    import fcntl

    read, write = os.pipe2(os.O_CLOEXEC | os.O_DIRECT) if sys.platform == "linux" else os.pipe()
    with contextlib.suppress(OSError, AttributeError):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
    return read, write


def _answers(process: "subprocess.Popen[bytes]") -> bool:
    assert process.stdout is not None
    return bool(_ready([process.stdout.fileno()], _ANSWER_SECONDS)) and bool(process.stdout.read(1))


def _finish(process: "subprocess.Popen[bytes]") -> None:
    """Wait until everything so far is passed on; the filter stays only for children that write through it."""
    import subprocess

    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.close()
    _answers(process)
    process.stdout.close()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.2)  # It ends at once unless a child writes through it.


def _ready(descriptors: Sequence[int], seconds: float | None) -> list[int]:
    """Return which descriptors can be read, after at most so many seconds; not ``select``, which knows only 1024."""
    poll = select.poll()
    for number in descriptors:
        poll.register(number, select.POLLIN)
    return [number for number, _ in poll.poll(None if seconds is None else 1000.0 * seconds)]


class _Finder(importlib.abc.MetaPathFinder):
    """Finds TensorFlow as the other finders do, and imports it through the filter."""

    def __init__(self) -> None:
        self._is_asking = False

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> "ModuleSpec | None":
        if name != "tensorflow" or self._is_asking:
            return None
        import importlib.util

        self._is_asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self._is_asking = False
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, self)
        return spec


class _Loader(importlib.abc.Loader):
    """Another loader, with the filter around the module's execution."""

    def __init__(self, loader: Any, finder: _Finder) -> None:
        self._loader = loader
        self._finder = finder

    def create_module(self, spec: "ModuleSpec") -> "ModuleType | None":
        module: ModuleType | None = self._loader.create_module(spec)
        return module

    def exec_module(self, module: "ModuleType") -> None:
        if self._finder in sys.meta_path:
            sys.meta_path.remove(self._finder)
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with filtered():
            self._loader.exec_module(module)


class _Filter:
    """Passes bytes on, without the known lines."""

    def __init__(self) -> None:
        self._held = b""
        self._is_inside = False  # The beginning of the line was passed on.

    def add(self, data: bytes) -> None:
        """Take the next bytes."""
        *lines, self._held = (self._held + data).split(b"\n")
        for line in lines:
            if not _KNOWN.fullmatch(line):  # Also behind a bar, which has no end of line.
                _write(line + b"\n")
                self._is_inside = False
        if self._is_inside:
            self.release()

    def release(self) -> None:
        """Pass on the beginning of a line."""
        if self._held:
            _write(self._held)
            self._held, self._is_inside = b"", True

    @property
    def holds(self) -> bool:
        """Whether the beginning of a line waits."""
        return bool(self._held)


def _write(data: bytes) -> None:
    while data:
        try:
            data = data[os.write(2, data) :]
        except BlockingIOError:
            time.sleep(0.01)
        except OSError:  # Nobody reads; the writers must not wait for that.
            return


def _run(source: int) -> None:
    """Filter until the other end of standard input is closed, and pass on what comes until nobody can write."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.write(1, b"r")
    lines, watched = _Filter(), [source, 0]
    while True:
        ready = _ready(watched, _HOLD_SECONDS if lines.holds else None)
        if source in ready:
            data = os.read(source, 65536)
            if not data:
                break
            lines.add(data) if 0 in watched else _write(data)
        elif ready:  # Nothing is left to read, and the import has ended.
            lines.release()
            watched = [source]
            with contextlib.suppress(OSError):
                os.write(1, b"d")
        else:
            lines.release()
    lines.release()


if __name__ == "__main__":
    _run(int(sys.argv[1]))
