"""In a pod: a parent process that hears the last words of the command, and how it ended.

The command goes on in a child.  The parent passes on its output and signals, copies the log into job_dir, and exits
with its code.  If the kernel kills the child for want of memory, the parent says so; both die where the container's
processes are killed together.
Imports no TensorFlow.
"""

import ctypes
import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Mapping
from types import FrameType

from trainer.core.environment import is_pod
from trainer.core.errors import EXIT_STOPPED
from trainer.core.starts import cgroup, record
from trainer.core.starts.cgroup import Memory
from trainer.core.starts.json_lines import JsonLines
from trainer.core.starts.mirror import Mirror
from trainer.core.starts.recorder import Recorder

# Set in what runs below a supervisor; "never" set by hand does without.
SWITCH = "DEEPDETECT_SUPERVISOR"

_PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
_PR_SET_PDEATHSIG = 1  # prctl(2)
_LAST_SECONDS = 10.0  # For the record and the log, at the end; a grandchild may hold the streams open for less.
_STREAM_SECONDS = 2.0
_TITLES = ("stopped: ", "failed: ", "error: ")


def is_wanted(environment: Mapping[str, str]) -> bool:
    """Return whether this process is a pod's, and has no supervisor."""
    return is_pod(environment) and SWITCH not in environment and not sys.stderr.isatty()


def enter(*, as_json: bool) -> int:
    """Go on in a child process and return the descriptor on which it tells its parent what it is about, see ``tell``.

    Args:
        as_json: whether the log consists of JSON lines.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    streams, told = [os.pipe(), os.pipe()], os.pipe()
    parent, memory = os.getpid(), cgroup.look()
    signal.pthread_sigmask(signal.SIG_BLOCK, _PASSED_ON)  # Until somebody can handle them.
    child = os.fork()
    if child:
        for _, end in (*streams, told):
            os.close(end)
        _Supervisor(child, [begin for begin, _ in streams], told[0], memory, as_json=as_json).run()
    os.environ[SWITCH] = "above"
    os.setpgid(0, 0)  # A signal to the group reaches the parent, which passes it on; it must not count twice.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(EXIT_STOPPED)
    for number, (begin, end) in enumerate(streams, start=1):
        os.close(begin)
        os.dup2(end, number)
        os.close(end)
    os.close(told[0])
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
    return told[1]


def tell(descriptor: int, **facts: object) -> None:
    """Tell the parent: ``job_dir`` and ``process``, or ``step``."""
    os.write(descriptor, json.dumps(facts).encode() + b"\n")


class _Supervisor:
    """The parent."""

    def __init__(self, child: int, streams: list[int], told: int, memory: Memory, *, as_json: bool) -> None:
        self._child = child
        self._streams = {descriptor: number for number, descriptor in enumerate(streams, start=1)}
        self._told = told
        self._rests = dict.fromkeys([*streams, told], b"")
        names = {1: "stdout", 2: "stderr"}
        self._json = {number: JsonLines(names[number]) for number in names} if as_json else {}
        self._mirror = Mirror()
        self._recorder: Recorder | None = None
        self._began, self._memory = record.now(), memory
        self._words = ""
        self._signals = 0

    def run(self) -> None:
        """Watch the child, and exit as it does."""
        logging.getLogger("trainer").addHandler(logging.NullHandler())  # What a storage says is not the command's.
        for number in _PASSED_ON:
            signal.signal(number, self._pass_on)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _PASSED_ON)
        status = self._watch()
        killed = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        code = 128 + killed if killed else os.WEXITSTATUS(status)
        if killed == signal.SIGTERM and self._signals == 1:  # Before it could handle signals.
            code, killed = EXIT_STOPPED, 0
            self._say("stopped: SIGTERM at start-up, nothing was lost; rerun the same command")
        self._finish(code, signal.Signals(killed).name if killed else "")
        os._exit(code)

    def _pass_on(self, number: int, _: FrameType | None) -> None:
        self._signals += 1
        os.kill(self._child, number)  # Not reaped yet, or handled below: there is such a process.

    def _watch(self) -> int:
        """Pass on what the child writes until it has ended; return its status."""
        status, ended = None, 0.0
        poll = select.poll()
        for descriptor in self._rests:
            poll.register(descriptor, select.POLLIN)
        open_ends = set(self._rests)
        while open_ends and (status is None or time.monotonic() < ended + _STREAM_SECONDS):
            for descriptor, _ in poll.poll(200):
                data = os.read(descriptor, 65536)
                self._take(descriptor, data)
                if not data:
                    poll.unregister(descriptor)
                    open_ends.discard(descriptor)
            if status is None:
                status = self._status(os.WNOHANG)
                ended = time.monotonic()
        return self._status(0) or 0 if status is None else status

    def _status(self, options: int) -> int | None:
        """Return the child's status once it has ended; signals go nowhere from then on."""
        self._reap()
        if os.waitid(os.P_PID, self._child, os.WEXITED | os.WNOWAIT | options) is None:
            return None
        for number in _PASSED_ON:
            signal.signal(number, signal.SIG_IGN)
        return os.waitpid(self._child, 0)[1]

    def _reap(self) -> None:
        """Wait for what others left to this process, as they do to the first one of a container."""
        while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if ended.si_pid == self._child:
                return
            os.waitpid(ended.si_pid, 0)

    def _take(self, descriptor: int, data: bytes) -> None:
        """Take bytes of a stream; none at its end."""
        *lines, self._rests[descriptor] = (self._rests[descriptor] + data).split(b"\n")
        if not data and self._rests[descriptor]:
            lines.append(self._rests[descriptor])
        for line in lines:
            if descriptor == self._told:
                self._hear(json.loads(line))
            else:
                self._pass(line + b"\n", self._streams[descriptor])
        if not data and descriptor in self._streams and self._json:
            self._write(self._json[self._streams[descriptor]].end(), self._streams[descriptor])

    def _pass(self, line: bytes, stream: int) -> None:
        text = line.decode(errors="replace").strip()
        if text.startswith(_TITLES) or (text and not text.startswith("{") and not self._words.startswith(_TITLES)):
            self._words = text
        self._write(self._json[stream].add(line) if self._json else line, stream)

    def _say(self, line: str) -> None:
        self._pass(line.encode() + b"\n", 2)

    def _write(self, data: bytes, stream: int) -> None:
        self._mirror.add(data)
        while data:
            try:
                data = data[os.write(stream, data) :]
            except OSError:  # Nobody reads.
                return

    def _hear(self, facts: dict[str, str]) -> None:
        if "job_dir" in facts:
            self._bind(facts["job_dir"], facts["process"])
        elif self._recorder is not None:
            self._recorder.note_step(int(facts["step"]))

    def _bind(self, job_dir: str, process: str) -> None:
        if self._recorder is None:
            self._recorder = Recorder(job_dir, process, self._began, self._memory)
            self._mirror.begin(job_dir, self._recorder.name)

    def _finish(self, code: int, killed: str) -> None:
        """Write the end, and the rest of the log."""
        words = [word.partition("=")[2] for word in sys.argv if word.startswith(("--job_dir=", "--job-dir="))]
        if self._recorder is None and words and code:  # It ended before it came to that.
            self._bind(words[-1], "main")
        deadline = time.monotonic() + _LAST_SECONDS
        if self._recorder is not None:
            end = self._recorder.end(code, killed, self._words if code else "", _LAST_SECONDS / 2)
            if end.ran_out_of_memory:
                self._say(f"failed: {end.cause}")
        self._mirror.end(max(deadline - time.monotonic(), 0.0))
