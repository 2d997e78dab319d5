"""Run one trial: one ``training.run``, in this process or in one of its own; explain how it failed if it did.

Owns: which errors fail the trial, and which end the sweep.  Does not own: which trial comes next.
"""

import dataclasses
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence

from trainer.core import result
from trainer.core.config import Config, flags
from trainer.core.errors import EXIT_DONE, EXIT_FAILED, EXIT_STOPPED, Diverged, JobFailed, RequestError, StoppedEarly
from trainer.core.job_dir import JobPaths
from trainer.core.signals import StopRequest
from trainer.core.starts import cgroup
from trainer.core.storage import files
from trainer.core.storage.transient import is_transient
from trainer.distributed.cluster import Cluster
from trainer.sweep import child_output, pruning
from trainer.sweep.pruning import MedianPruner
from trainer.training import run as training_run
from trainer.training.start.time_left import Series

log = logging.getLogger(__name__)

# Runs main(), after asking Linux to end the process with the sweep: prctl(PR_SET_PDEATHSIG, SIGKILL).  Not with
# preexec_fn, which is not safe with the threads of gRPC and TensorFlow.
_CHILD = (
    "import ctypes; ctypes.CDLL(None).prctl(1, 9); from trainer.core import cli; from trainer.sweep import trial; "
    "cli.console(trial.main, watched=True)"
)
_OUT_OF_MEMORY = (
    "ResourceExhaustedError",
    "RESOURCE_EXHAUSTED",
    "OOM when allocating",
    "MemoryError",
    "CUDA_ERROR_OUT",
)


_DISK_IS_FULL = ("No space left on device", "Disk quota exceeded")


class TrialFailed(Exception):
    """A trial has no score; the message is the reason.  The sweep continues.

    ``code`` is the exit code of its process; that of a failure for a trial in this one.
    """

    def __init__(self, reason: str, code: int = EXIT_FAILED) -> None:
        super().__init__(reason)
        self.code = code


def run_here(config: Config, pruner: MedianPruner | None = None) -> result.Result:
    """Run a trial in this process; with a pruner it may be stopped early.

    Raises:
        TrialFailed: if it cannot end with a result.
        StoppedEarly: after a stop request, with everything saved.
        JobFailed: if the disk is full, which is not the trial's fault.
    """
    try:
        return training_run.run(config, Cluster(), pruner)
    except StoppedEarly:
        raise
    except (RequestError, JobFailed, Diverged) as error:
        refuse_full_disk([str(error)])
        raise TrialFailed(" ".join(str(error).split())) from error
    except Exception as error:
        if isinstance(error, OSError) and is_transient(error):  # Nor is this the trial's fault.
            raise
        words = f"{type(error).__name__}: {error}"
        refuse_full_disk([words])
        if is_out_of_memory(words):
            raise TrialFailed(f"out of memory: {_first_line(str(error))}") from error
        log.exception("a trial crashed")
        raise TrialFailed(f"crashed: {_first_line(words)}") from error
    finally:
        _free_memory()


def refuse_full_disk(lines: Iterable[str]) -> None:
    """End the sweep if the disk is full: all further trials would fail, and this one can continue once there is space.

    Args:
        lines: the last lines of a trial's output.

    Raises:
        JobFailed: if one of them reports a full disk.
    """
    for line in lines:
        if any(sign in line for sign in _DISK_IS_FULL):
            raise JobFailed(
                f"the disk is full ({_first_line(line)}); free space, then rerun the same command to resume"
            )


def is_out_of_memory(text: str) -> bool:
    """Return whether an error's text is about memory."""
    return any(sign in text for sign in _OUT_OF_MEMORY)


def _first_line(text: str) -> str:
    return next((line.strip()[:300] for line in text.splitlines() if line.strip()), "no message")


def _free_memory() -> None:
    """Free the trial's model, so that a hundred trials in one process need no more memory than one."""
    keras = sys.modules.get("keras")
    if keras is not None:
        keras.utils.clear_session(free_memory=True)


def main(argv: Sequence[str]) -> int:
    """Run a trial as its own process.

    The words are ``--config=FILE``, the series as JSON and, if it may be pruned, the pruner as JSON.
    """
    pruner = pruning.from_json(argv[2]) if argv[2:] else None
    series = Series(**json.loads(argv[1]))
    training_run.run(flags.train_config(argv[:1]), Cluster(), pruner, series=series)
    return EXIT_DONE


def run_apart(
    config: Config, stop: StopRequest, pruner: MedianPruner | None = None, series: Series | None = None
) -> result.Result:
    """Run a trial in its own process, which dies with this one.

    Args:
        config: of the trial.
        stop: ends it.
        pruner: may stop it early.
        series: of jobs that it is part of, which its progress tells.

    Raises:
        TrialFailed: if it cannot end with a result; the message says whether it was killed or ran out of memory.
        StoppedEarly: after a stop request, with everything saved.
        JobFailed: if the disk is full, which is not the trial's fault.
    """
    paths = JobPaths(config.loop.job_dir)
    request = files.join(config.loop.job_dir, "request.json")
    files.write_text(request, json.dumps(config.written(), indent=1) + "\n")
    stop.at_once = ""  # From here on the trial saves first.
    before = cgroup.look()
    words = [f"--config={request}", json.dumps(dataclasses.asdict(series or Series()))]
    with child_output.passed_on() as (output, lines):
        process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, *words, *([pruner.to_json()] if pruner else [])],
            stdout=output, stderr=output, process_group=0,
        )  # fmt: skip
        code = _wait(process, stop)
    oom_kills = cgroup.look().oom_kills - before.oom_kills
    finished = result.read(paths.result)
    if code == EXIT_DONE and finished is not None:
        return finished
    if code == EXIT_STOPPED:
        raise StoppedEarly(_last(lines, "stopped: ") or f"{stop.reason or 'a signal'} stopped the trial")
    refuse_full_disk(reversed(lines))
    raise TrialFailed(reason_of(code, list(lines), oom_kills), code)


def _wait(process: "subprocess.Popen[bytes]", stop: StopRequest) -> int:
    terminated = False
    while True:
        try:
            return process.wait(timeout=0.5)
        except subprocess.TimeoutExpired:
            if stop() and not terminated:
                terminated = True
                process.terminate()


def reason_of(code: int, lines: list[str], oom_kills: int = 0) -> str:
    """Return why a trial's process ended.

    Args:
        code: its exit code; negative: a signal.
        lines: its last ones.
        oom_kills: processes that the kernel killed in the cgroup meanwhile.
    """
    text = "\n".join(lines)
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        if oom_kills > 0:
            return "out of memory: the kernel killed it for want of host memory; give it more (submit.py run --memory)"
        return "killed (SIGKILL), which is how Linux ends a process when memory runs out"
    if is_out_of_memory(text):
        return "out of memory: " + next(line for line in reversed(lines) if is_out_of_memory(line))[:300]
    for prefix in ("error: ", "failed: "):
        message = _last(lines, prefix)
        if message:
            return message
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return f"crashed ({name}): {lines[-1][:300] if lines else 'no message'}"


def _last(lines: Sequence[str], prefix: str) -> str:
    return next((line.removeprefix(prefix) for line in reversed(lines) if line.startswith(prefix)), "")


def worker_name() -> str:
    """Return this process's stable id among the workers of a sweep."""
    return os.environ.get("KERASTUNER_TUNER_ID", "tuner0")
