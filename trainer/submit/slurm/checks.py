"""The checks of a run on Slurm, and its paths as every node writes them."""

import dataclasses
import os
import shlex
from collections.abc import Sequence

from trainer.core.errors import RequestError
from trainer.submit import request
from trainer.submit.request import Request, RunFlags

# Of Kubernetes alone, with what takes their place.
_REMEDIES = {
    "image": "leave it out, or give --container",
    "allow_latest": "leave it out",
    "namespace": "leave it out",
    "context": "leave it out",
    "spot": "choose a partition that can be preempted with --queue",
    "gcsfuse": "leave it out, or mount the bucket with --setup",
    "env_from_secret": "read the secret from a file with --setup",
    "volume": "leave it out: paths are those of the nodes",
    "gpu": "give --gpus, and choose machines with --queue or --sbatch",
    "failover_after": "leave it out",
    "zone": "choose machines with --queue or --sbatch",
    "topology": "leave it out, or use --sbatch=--switches=1",
    "repository": "leave it out",
    "dashboard": "leave it out",
    "notify": "give it after --, or set DEEPDETECT_NOTIFY with --setup",
}


def build(run: RunFlags, trainer_words: Sequence[str]) -> Request:
    """Return the checked request, local paths made absolute.

    Raises:
        HelpRequested: if ``--help`` is among the trainer's words.
        RequestError: for the first setting that cannot work.
    """
    request.require_given(run, ("name", "data_dir", "job_dir"))
    request.check_name(run.name)
    for flag, remedy in _REMEDIES.items():
        if getattr(run, flag) != getattr(RunFlags, flag):
            raise RequestError(f"expected --{flag} on Kubernetes alone, received it with --platform=slurm; {remedy}")
    _check_lines(run)
    if run.dry_run == "server":
        raise RequestError("expected --dry_run, which prints the batch script, received --dry_run=server")
    run = dataclasses.replace(
        run, data_dir=_absolute(run.data_dir), job_dir=_absolute(run.job_dir), log_dir=_absolute(run.log_dir)
    )
    return request.complete(run, trainer_words)


def _absolute(path: str) -> str:
    return path if not path or "://" in path else os.path.abspath(path)


def _check_lines(run: RunFlags) -> None:
    """Refuse what would not be one line, or one word, of the batch script."""
    for flag in ("queue", "priority", "log_dir", "setup", "sbatch", "python", "container"):
        value = getattr(run, flag)
        if "\n" in value or (flag in ("queue", "priority", "log_dir") and any(mark in value for mark in " %\"'")):
            raise RequestError(f"--{flag}: expected one line, and no spaces, quotes or % in names, received {value!r}")
    try:
        shlex.split(run.sbatch)
    except ValueError as error:
        raise RequestError(f"--sbatch: expected options of sbatch, received {run.sbatch!r}: {error}") from error
