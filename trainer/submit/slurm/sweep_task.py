"""A task of a sweep's array: its worker, and in the first task the chief as well, which needs no GPU.

  python -m trainer.submit.slurm.sweep_task LOG_DIR [flags of trainer.tune]

Slurm starts the tasks at different times on machines that nobody knows before: the first one writes the chief's address
into the folder that all share.  Slurm sends SIGTERM to every process of a task, so nothing is forwarded.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from trainer.core.errors import EXIT_STOPPED
from trainer.distributed import gpu_promise

_PAUSE_SECONDS = 0.5
_SIGNAL = 128  # An exit code above this names the signal that ended a process, as in a shell.

_stopped = False


def main(argv: Sequence[str]) -> int:
    """Run the task; return its exit code."""
    signal.signal(signal.SIGTERM, _stop)
    array, index = os.environ["SLURM_ARRAY_JOB_ID"], int(os.environ["SLURM_ARRAY_TASK_ID"])
    address, words = Path(argv[0]) / f"chief-{array}", list(argv[1:])
    if index == 0:
        return _first(address, words)
    while not address.is_file():
        if _stopped:
            return EXIT_STOPPED
        time.sleep(_PAUSE_SECONDS)
    host, port = address.read_text(encoding="utf-8").split()
    return _code(_start(words, host, port, f"worker{index}").wait())


def _first(address: Path, words: Sequence[str]) -> int:
    """Run chief and worker; the chief's end decides, unless the worker fails before."""
    port = _free_port()
    hidden = {"CUDA_VISIBLE_DEVICES": "-1", gpu_promise.VARIABLE: "0"}
    chief = _start(words, "0.0.0.0", port, "chief", **hidden)
    _publish(address, f"{os.environ['SLURMD_NODENAME']} {port}")
    worker = _start(words, "127.0.0.1", port, "worker0")
    while chief.poll() is None and not worker.poll():
        time.sleep(_PAUSE_SECONDS)
    if worker.poll():
        return _end(chief) and _code(worker.returncode)
    if chief.returncode:
        _end(worker)
    worker.wait()
    return _code(chief.returncode)


def _start(words: Sequence[str], host: str, port: str, name: str, **variables: str) -> "subprocess.Popen[bytes]":
    oracle = {"KERASTUNER_ORACLE_IP": host, "KERASTUNER_ORACLE_PORT": port, "KERASTUNER_TUNER_ID": name}
    return subprocess.Popen([sys.executable, "-m", "trainer.tune", *words], env={**os.environ, **oracle, **variables})


def _end(process: "subprocess.Popen[bytes]") -> bool:
    """Let a process save and end; a second signal would end it without saving."""
    if not _stopped:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
    process.wait()
    return True


def _publish(address: Path, text: str) -> None:
    beside = address.with_name(f"{address.name}.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(address)


def _free_port() -> str:
    with socket.socket() as one:
        one.bind(("", 0))
        return str(one.getsockname()[1])


def _code(code: int) -> int:
    return code if code >= 0 else _SIGNAL - code


def _stop(*_: object) -> None:
    global _stopped
    _stopped = True


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
