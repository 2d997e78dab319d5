"""Search for good settings: the command ``python -m trainer.tune``.

A table of contents: what can be refused without TensorFlow is refused here; the search is ``sweep/``.
"""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Any

from trainer.core import cli, signals
from trainer.core.errors import EXIT_DONE, JobFailed, RequestError
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files, lock
from trainer.data import manifest
from trainer.distributed import cluster as cluster_lib
from trainer.sweep import request as request_lib
from trainer.sweep.request import Request
from trainer.training import resume

log = logging.getLogger("trainer.tune")  # Also when run as __main__.


def main(argv: Sequence[str]) -> int:
    """Run the command on the words after the program's name; returns the exit code."""
    request = request_lib.parse(argv)
    role = role_of(os.environ)
    _refuse_what_no_trial_can(request)
    try:
        with signals.stop_requests() as stop:
            stop.at_once = "between two trials, everything is saved; start the same command again to go on"
            return _worker(request, stop) if role == "worker" else _owner(request, stop, serve=role == "chief")
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        raise JobFailed(
            f"a file could not be written or read{place}: {error.strerror or error}; repair that, then start the same "
            "command again: it goes on where it was"
        ) from error


def role_of(environment: Any) -> str:
    """Return alone, chief or worker, as KerasTuner's variables say.

    Raises:
        RequestError: if only some of them are set.
    """
    names = ("KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID")
    absent = [name for name in names if not environment.get(name)]
    if names[0] in absent and names[1] in absent:
        return "alone"
    if absent:
        raise RequestError(f"expected {', '.join(names)} together, received no {absent[0]}; set it or unset the others")
    if not environment[names[1]].isdigit() or not 0 < int(environment[names[1]]) < 65536:
        raise RequestError(f"expected a port in {names[1]}, received {environment[names[1]]!r}")
    return "chief" if "chief" in environment[names[2]] else "worker"


def _refuse_what_no_trial_can(request: Request) -> None:
    """Find out before any trial what would make all of them fail."""
    if cluster_lib.from_environment(strategy=request.base.runtime.strategy).num_workers > 1:
        raise RequestError(
            "expected trials of one process each, received a cluster in the environment; unset TF_CONFIG (and the "
            "like), and start a chief and workers (docs/sweeps.md)"
        )
    data = request.base.data
    train, _ = manifest.read_train_and_validation(data.data_dir, data.validation_fraction, request.base.loop.seed)
    manifest.positive_class_index(train.class_names, request.base.export.positive_class)


def _owner(request: Request, stop: signals.StopRequest, *, serve: bool) -> int:
    """Hold the sweep's state, and run its trials or let workers do it."""
    paths = JobPaths(request.base.loop.job_dir)
    files.require_writable(paths.job_dir, "job_dir")
    with lock.hold(paths):
        if request.base.checkpoint.resume == "never":
            resume.prepare(request.base, paths)
        if request.base.checkpoint.resume == "required" and not files.exists(request.paths.oracle):
            raise RequestError(f"--resume=required: expected a sweep in {paths.job_dir!r}, received none")
        request.refuse_another()
        request.write()
        if files.exists(request.paths.done):
            files.remove(request.paths.done)
        from trainer.sweep import chief  # KerasTuner and TensorFlow are loaded here.

        best = chief.serve(request, stop) if serve else chief.search(request, stop)
        _say(request, best)
        if request.sweep.retrain_best:
            from trainer.sweep import retrain

            print(retrain.sentence(retrain.run(request, best[0], stop), request.metric))
    return EXIT_DONE


def _worker(request: Request, stop: signals.StopRequest) -> int:
    from trainer.sweep import chief

    chief.work(request, stop)
    return EXIT_DONE


def _say(request: Request, best: Any) -> None:
    if not best:
        raise JobFailed(f"no trial has a score; {request.paths.table} has the reasons")
    print(f"best trial {best[0].trial}: {request.metric} {best[0].score:.4f} (epoch {best[0].best_epoch})")
    print(f"settings: {request.paths.best}  (python -m trainer.train --config={request.paths.best} --job_dir=...)")
    print(f"report: {request.paths.report}")


def console() -> None:
    """Be the console script."""
    sys.exit(cli.run_command(main))


if __name__ == "__main__":
    console()
