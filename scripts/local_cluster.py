"""Start a training job as several processes on this machine, as a cluster would.

  python scripts/local_cluster.py -n 4 -- --data_dir=faces --job_dir=jobs/four --batch_size=32

Finds free ports, gives each process its TF_CONFIG, and shows all logs with [worker N] in front.  Ctrl-C and SIGTERM
are passed on once to every process, which saves and exits; a second one ends them at once.  Prints all exit codes and
exits with the worst: 1 before 2 before 75 before 0.  Nothing is left behind when it ends.
"""

import argparse
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import IO

ROOT = Path(__file__).resolve().parents[1]
_WORST_FIRST = (2, 75, 0)  # Any other code is worse.
_PR_SET_PDEATHSIG = 1  # prctl(2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cluster and return the worst exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", "--workers", type=int, default=2, help="processes (default 2)")
    parser.add_argument("flags", nargs="*", metavar="-- trainer flags", help="passed to python -m trainer.train")
    arguments = parser.parse_args(argv)
    if arguments.workers < 1:
        parser.error(f"expected at least one worker, received {arguments.workers}")
    processes = [start(environment, arguments.flags) for environment in environments(arguments.workers)]
    printing = threading.Lock()
    threads = [
        threading.Thread(target=show, args=(number, process.stdout, printing))
        for number, process in enumerate(processes)
    ]
    for thread in threads:
        thread.start()
    codes = wait(processes)
    for thread in threads:
        thread.join()
    print("exit codes: " + ", ".join(f"worker {number}: {code}" for number, code in enumerate(codes)))
    return worst(codes)


def environments(workers: int) -> list[dict[str, str]]:
    """Return the variables that describe the cluster to each of its processes."""
    *ports, peer_port = free_ports(workers + 1)
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    return [
        {
            "TF_CONFIG": json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
            "DEEPDETECT_PEER_PORT": str(peer_port),
        }
        for index in range(workers)
    ]


def free_ports(count: int) -> list[int]:
    """Return ports of the loopback that nobody listens on, all different."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def start(
    environment: dict[str, str], flags: Sequence[str], output: "IO[str] | int" = subprocess.PIPE
) -> "subprocess.Popen[str]":
    """Start one worker in a process group of its own, so that the terminal's Ctrl-C comes here alone."""
    return subprocess.Popen(
        [sys.executable, "-m", "trainer.train", *flags],
        env={**os.environ, **environment, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
        preexec_fn=_die_with_parent,
    )


def _die_with_parent() -> None:
    """Ask Linux for a SIGKILL when this script is gone, whatever ended it."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def show(number: int, lines: IO[str] | None, printing: threading.Lock) -> None:
    """Print a worker's output line by line with its name in front."""
    assert lines is not None
    for line in lines:
        with printing:
            print(f"[worker {number}] {line.rstrip()}", flush=True)


def wait(processes: "Sequence[subprocess.Popen[str]]") -> list[int]:
    """Wait for all, passing stop signals on; return their exit codes, of a signal as a shell tells it."""

    def pass_on(number: int, _: FrameType | None) -> None:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        codes = [process.wait() for process in processes]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return [code if code >= 0 else 128 - code for code in codes]


def worst(codes: Sequence[int]) -> int:
    """Return the code that says most about what went wrong."""
    ranked = [*(code for code in codes if code not in _WORST_FIRST), *(c for c in _WORST_FIRST if c in codes)]
    return ranked[0]


if __name__ == "__main__":
    sys.exit(main())
