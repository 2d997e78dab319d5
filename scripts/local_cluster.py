"""Start a training job or a sweep as several processes on this machine, as a cluster would.

  python scripts/local_cluster.py -n 4 -- --data_dir=faces --job_dir=jobs/four --batch_size=32
  python scripts/local_cluster.py -n 2 --sweep -- --data_dir=faces --job_dir=sweeps/first --max_trials=12

Finds free ports, gives each process its TF_CONFIG (in a sweep KerasTuner's variables), and prefixes all logs with
[worker N].  Ctrl-C and SIGTERM are forwarded once to every process, which saves and exits; a second one ends them at
once.  Prints all exit codes and exits with the worst: 1 before 2 before 75 before 0.  A sweep's worker that
was still starting when the chief failed, and was ended by SIGTERM (143), does not count.  No process is left behind.
"""

import argparse
import contextlib
import ctypes
import itertools
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
    parser.add_argument("--sweep", action="store_true", help="start trainer.tune: a chief and workers")
    parser.add_argument(
        "--devices_per_trial", type=int, default=0, metavar="N", help="GPUs of each worker of a sweep (default all)"
    )
    parser.add_argument("flags", nargs="*", metavar="-- flags", help="passed to trainer.train, or trainer.tune")
    arguments = parser.parse_args(argv)
    if arguments.workers < 1:
        parser.error(f"expected at least one worker, received {arguments.workers}")
    if arguments.devices_per_trial < 0 or (arguments.devices_per_trial and not arguments.sweep):
        parser.error(f"expected GPUs of a sweep's workers, received --devices_per_trial={arguments.devices_per_trial}")
    if arguments.sweep:
        names = gpus() if arguments.devices_per_trial else []
        needed = arguments.workers * arguments.devices_per_trial
        if len(names) < needed:  # CUDA would show these workers none, and they would train on the CPU.
            parser.exit(
                2,
                f"error: expected --workers x --devices_per_trial GPUs ({needed}), found {len(names)} "
                "(nvidia-smi -L, CUDA_VISIBLE_DEVICES); ask for fewer, or leave --devices_per_trial out\n",
            )
        described = sweep_environments(arguments.workers, arguments.devices_per_trial, names)
    else:
        described = {f"worker {index}": one for index, one in enumerate(environments(arguments.workers))}
    module = "trainer.tune" if arguments.sweep else "trainer.train"
    processes = {name: start(one, arguments.flags, module=module) for name, one in described.items()}
    printing = threading.Lock()
    threads = [
        threading.Thread(target=show, args=(name, process.stdout, printing)) for name, process in processes.items()
    ]
    for thread in threads:
        thread.start()
    codes = wait(list(processes.values()), all_need_first=arguments.sweep)
    for thread in threads:
        thread.join()
    print("exit codes: " + ", ".join(f"{name}: {code}" for name, code in zip(processes, codes, strict=True)))
    if arguments.sweep and codes[0] not in (0, 75):  # Workers that were still starting were ended by the SIGTERM.
        codes = [codes[0], *(code for code in codes[1:] if code != 128 + signal.SIGTERM)]
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


def gpus() -> list[str]:
    """Return the GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        words = [word.strip() for word in visible.split(",")]
        # As CUDA does, which ignores everything from the first invalid name on.
        return list(itertools.takewhile(lambda word: word not in ("", "-1", "NoDevFiles"), words))
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return []
    return [str(index) for index in range(sum(line.startswith("GPU ") for line in listed.splitlines()))]


def sweep_environments(workers: int, devices: int = 0, names: Sequence[str] = ()) -> dict[str, dict[str, str]]:
    """Return the variables of a sweep's chief and workers by name; each worker sees ``devices`` GPUs (0: all).

    The ids are the same at every start, so that a worker gets its own trial back.

    Args:
        workers: how many.
        devices: GPUs of each worker; 0: all.
        names: of the GPUs to distribute, at least ``workers * devices``.
    """
    (port,) = free_ports(1)
    oracle = {"KERASTUNER_ORACLE_IP": "127.0.0.1", "KERASTUNER_ORACLE_PORT": str(port), "TF_CONFIG": ""}
    described = {"chief": {**oracle, "KERASTUNER_TUNER_ID": "chief", "CUDA_VISIBLE_DEVICES": "-1"}}
    for index in range(workers):
        visible = ",".join(names[index * devices : (index + 1) * devices])
        own = {"CUDA_VISIBLE_DEVICES": visible} if devices else {}
        described[f"worker {index}"] = {**oracle, "KERASTUNER_TUNER_ID": f"worker{index}", **own}
    return described


def free_ports(count: int) -> list[int]:
    """Return different free ports of the loopback interface."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]


def start(
    environment: dict[str, str],
    flags: Sequence[str],
    output: "IO[str] | int" = subprocess.PIPE,
    *,
    module: str = "trainer.train",
) -> "subprocess.Popen[str]":
    """Start one worker in its own process group, so that the terminal's Ctrl-C reaches only this script."""
    return subprocess.Popen(
        [sys.executable, "-m", module, *flags],
        env={**os.environ, **environment, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"},
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        process_group=0,
        preexec_fn=_die_with_parent,
    )


def _die_with_parent() -> None:
    """Ask Linux to SIGKILL the worker when this script ends for any reason."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def show(name: str, lines: IO[str] | None, printing: threading.Lock) -> None:
    """Print a worker's output line by line, prefixed with its name."""
    assert lines is not None
    for line in lines:
        with printing:
            print(f"[{name}] {line.rstrip()}", flush=True)


def wait(processes: "Sequence[subprocess.Popen[str]]", *, all_need_first: bool = False) -> list[int]:
    """Wait for all, forwarding stop signals; return their exit codes (128 + N after signal N, as in a shell).

    Args:
        processes: that ``start`` returned.
        all_need_first: whether to stop the others when the first one has failed (a sweep's chief).
    """
    forwarded = False

    def pass_on(number: int = 0, _: FrameType | None = None) -> None:
        nonlocal forwarded
        forwarded = True
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        if processes[0].wait() and all_need_first and not forwarded:  # A second signal would end them without saving.
            pass_on()
        codes = [process.wait() for process in processes]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return [code if code >= 0 else 128 - code for code in codes]


def worst(codes: Sequence[int]) -> int:
    """Return the exit code that explains the failure best."""
    ranked = [*(code for code in codes if code not in _WORST_FIRST), *(c for c in _WORST_FIRST if c in codes)]
    return ranked[0]


if __name__ == "__main__":
    sys.exit(main())
