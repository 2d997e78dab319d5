"""Run one trial: one ``train.run``, here or as a process of its own, and say how it failed if it did.

Owns: what counts as the trial's failure and what ends the sweep.  Does not own: which trial comes next.
"""

import collections
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import IO

from trainer.core import result
from trainer.core.config import Config, flags
from trainer.core.errors import EXIT_DONE, EXIT_STOPPED, Diverged, JobFailed, RequestError, StoppedEarly
from trainer.core.job_dir import JobPaths
from trainer.core.signals import StopRequest
from trainer.core.storage import files
from trainer.distributed.cluster import Cluster
from trainer.sweep import pruning
from trainer.sweep.pruning import MedianPruner
from trainer.training import run as training_run

log = logging.getLogger(__name__)

# main(), which first asks Linux to end it with the sweep: prctl(PR_SET_PDEATHSIG, SIGKILL).  Not by preexec_fn,
# which is not safe beside the threads of gRPC and TensorFlow.
_CHILD = (
    "import ctypes, sys; ctypes.CDLL(None).prctl(1, 9); from trainer.core import cli; from trainer.sweep import trial; "
    "sys.exit(cli.run_command(trial.main))"
)
_KEPT_LINES = 400
_OUT_OF_MEMORY = (
    "ResourceExhaustedError",
    "RESOURCE_EXHAUSTED",
    "OOM when allocating",
    "MemoryError",
    "CUDA_ERROR_OUT",
)


_DISK_IS_FULL = ("No space left on device", "Disk quota exceeded")


class TrialFailed(Exception):
    """Say why a trial has no score; the sweep goes on."""


def run_here(config: Config, judge: MedianPruner | None = None) -> result.Result:
    """Run a trial in this process; with a judge it may be pruned.

    Raises:
        TrialFailed: if it cannot end with a result.
        StoppedEarly: after a stop request, with everything saved.
        JobFailed: if the disk is full, which is no fault of the trial.
    """
    try:
        return training_run.run(config, Cluster(), judge)
    except StoppedEarly:
        raise
    except (RequestError, JobFailed, Diverged) as error:
        refuse_full_disk([str(error)])
        raise TrialFailed(" ".join(str(error).split())) from error
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        refuse_full_disk([words])
        if is_out_of_memory(words):
            raise TrialFailed(f"out of memory: {_first_line(str(error))}") from error
        log.exception("a trial crashed")
        raise TrialFailed(f"crashed: {_first_line(words)}") from error
    finally:
        _free_memory()


def refuse_full_disk(lines: Iterable[str]) -> None:
    """Let a full disk end the sweep: every further trial would fail, and this one can go on when there is room.

    Args:
        lines: what a trial said last.

    Raises:
        JobFailed: if one of them speaks of a full disk.
    """
    for line in lines:
        if any(sign in line for sign in _DISK_IS_FULL):
            raise JobFailed(
                f"the disk is full ({_first_line(line)}); free space, then start the same command again: it goes on "
                "where it was"
            )


def is_out_of_memory(text: str) -> bool:
    """Tell whether an error's words speak of memory."""
    return any(sign in text for sign in _OUT_OF_MEMORY)


def _first_line(text: str) -> str:
    return next((line.strip()[:300] for line in text.splitlines() if line.strip()), "no message")


def _free_memory() -> None:
    """Forget the trial's model, so that a hundred trials in a process need no more than one."""
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.utils.clear_session(free_memory=True)


def main(argv: Sequence[str]) -> int:
    """Be the process of a trial: ``--config=FILE``, and a judge as JSON if there is one."""
    judge = pruning.from_json(argv[1]) if argv[1:] else None
    training_run.run(flags.train_config(argv[:1]), Cluster(), judge)
    return EXIT_DONE


def run_apart(config: Config, stop: StopRequest, judge: MedianPruner | None = None) -> result.Result:
    """Run a trial as a process of its own; it dies with this one.  With a judge it may be pruned.

    Raises:
        TrialFailed: if it cannot end with a result; a process that was killed or ran out of memory is said to be so.
        StoppedEarly: after a stop request, with everything saved.
        JobFailed: if the disk is full, which is no fault of the trial.
    """
    paths = JobPaths(config.loop.job_dir)
    request = files.join(config.loop.job_dir, "request.json")
    files.write_text(request, json.dumps(config.flat(), indent=1) + "\n")
    stop.at_once = ""  # From here on the trial saves first.
    process = subprocess.Popen(
        [sys.executable, "-c", _CHILD, f"--config={request}", *([judge.to_json()] if judge else [])],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", process_group=0,
    )  # fmt: skip
    lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
    assert process.stdout is not None
    reader = threading.Thread(target=_pass_on, args=(process.stdout, lines), daemon=True)
    reader.start()
    code = _wait(process, stop)
    reader.join()
    finished = result.read(paths.result)
    if code == EXIT_DONE and finished is not None:
        return finished
    if code == EXIT_STOPPED:
        raise StoppedEarly(_last(lines, "stopped: ") or f"{stop.reason or 'a signal'} stopped the trial")
    refuse_full_disk(reversed(lines))
    raise TrialFailed(reason_of(code, list(lines)))


def _pass_on(stream: IO[str], lines: "collections.deque[str]") -> None:
    for line in stream:
        lines.append(line.rstrip())
        print(line, end="", file=sys.stderr, flush=True)


def _wait(process: "subprocess.Popen[str]", stop: StopRequest) -> int:
    passed_on = False
    while True:
        try:
            return process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            if stop() and not passed_on:
                passed_on = True
                process.terminate()


def reason_of(code: int, lines: list[str]) -> str:
    """Return why a trial's process ended, from its exit code (negative: a signal) and its last lines."""
    text = "\n".join(lines)
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return "killed (SIGKILL), which is how Linux ends a process when memory runs out"
    if is_out_of_memory(text):
        return "out of memory: " + next(line for line in reversed(lines) if is_out_of_memory(line))[:300]
    for prefix in ("error: ", "failed: "):
        said = _last(lines, prefix)
        if said:
            return said
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"crashed ({name}): {lines[-1][:300] if lines else 'no message'}"


def _last(lines: "collections.deque[str] | list[str]", prefix: str) -> str:
    return next((line.removeprefix(prefix) for line in reversed(lines) if line.startswith(prefix)), "")


def worker_name() -> str:
    """Return this process's stable id among the workers of a sweep."""
    return os.environ.get("KERASTUNER_TUNER_ID", "tuner0")
