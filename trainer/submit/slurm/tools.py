"""Slurm's own commands, and what their failures mean."""

import shutil
import subprocess
from collections.abc import Iterator, Sequence

from trainer.core.errors import JobFailed, RequestError

_SECONDS = 60.0  # Slurm's commands retry by themselves; after this the controller is away.
_UNREACHABLE = ("Unable to contact", "Socket timed out", "Connection refused", "Zero Bytes", "Unspecified error")


def require_installed() -> None:
    """Refuse to go on where Slurm's commands are not installed.

    Raises:
        RequestError: if there is no sbatch.
    """
    _path("sbatch")


def submit(script: str) -> str:
    """Give a batch script to Slurm; return the job's number.

    Raises:
        RequestError: if Slurm refuses it, in Slurm's words.
        JobFailed: if Slurm does not answer.
    """
    done = _call("sbatch", "--parsable", stdin=script)
    if done.returncode:
        words = _error_of(done)
        if any(sign in words for sign in _UNREACHABLE):
            raise JobFailed(f"sbatch: {words}")
        raise RequestError(f"expected a run that Slurm takes, received from sbatch: {words}; see sinfo and --sbatch")
    return done.stdout.strip().partition(";")[0]


def queue() -> Iterator[tuple[str, str, str, str, str]]:
    """Yield (job or array, its name, task of the array, state, reason or nodes) of this user's remembered jobs.

    Raises:
        JobFailed: if Slurm does not answer.
    """
    done = _call("squeue", "--me", "--noheader", "--array", "--states=all", "--format=%F|%j|%K|%T|%R")
    if done.returncode:
        raise JobFailed(f"squeue: {_error_of(done)}")
    for line in done.stdout.splitlines():
        job, name, task, state, reason = line.strip().split("|", 4)
        yield job, name, "" if task == "N/A" else task, state, reason.strip("()")


def accounted(jobs: Sequence[str]) -> dict[str, list[tuple[str, str]]]:
    """Return (task of the array, state) of jobs from Slurm's accounting; empty where there is none."""
    states: dict[str, list[tuple[str, str]]] = {}
    if not jobs or not shutil.which("sacct"):
        return states
    words = ("--allocations", "--noheader", "--parsable2", "--format=JobID,State", f"--jobs={','.join(jobs)}")
    done = _call("sacct", *words)
    for line in done.stdout.splitlines() if not done.returncode else ():
        number, _, state = line.partition("|")
        job, _, task = number.partition("_")
        states.setdefault(job, []).append((task, state.split()[0]))  # "CANCELLED by 1000".
    return states


def cancel(job: str) -> None:
    """End a job and all tasks of an array: SIGTERM, and after Slurm's KillWait SIGKILL.

    Raises:
        JobFailed: if Slurm does not answer or refuses.
    """
    done = _call("scancel", "--quiet", job)
    if done.returncode:
        raise JobFailed(f"scancel: {_error_of(done)}")


def _call(name: str, *words: str, stdin: str = "") -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run([_path(name), *words], input=stdin, capture_output=True, text=True, timeout=_SECONDS,
                              check=False)  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise JobFailed(f"{name}: no answer within {_SECONDS:g} s") from error


def _path(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise RequestError(f"expected Slurm's commands, received no {name}; log in to a machine that has them")
    return path


def _error_of(done: "subprocess.CompletedProcess[str]") -> str:
    return " ".join((done.stderr or done.stdout).split()) or f"exit code {done.returncode}"
