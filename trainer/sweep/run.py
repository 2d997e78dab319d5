"""Run a sweep in this process's role: alone, as the chief that holds its state, or as a worker.

Owns: the role, the checks before any trial, the lock on the sweep's folder.  Does not own: the search (``chief.py``).
Imports no TensorFlow until the search begins.
"""

import dataclasses
import logging
import os
from collections.abc import Mapping
from typing import Literal

from trainer.core import progress, proxies, signals, starts, terminal
from trainer.core.errors import JobFailed, RequestError
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files, lock, transient
from trainer.data import manifest, positive_class, split_report
from trainer.distributed import cluster as cluster_lib
from trainer.models import keras_settings
from trainer.serving import exported_model
from trainer.sweep.records import Record
from trainer.sweep.request import Request
from trainer.sweep.trial import worker_name
from trainer.training import resume

log = logging.getLogger(__name__)

Role = Literal["alone", "chief", "worker"]

_VARIABLES = ("KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT", "KERASTUNER_TUNER_ID")


def run(request: Request, role: Role) -> None:
    """Run the sweep, or as a worker the trials that the chief hands out.

    Raises:
        RequestError: if no trial could run, or the folder holds something else.
        StoppedEarly: after a stop request, with everything saved.
        JobFailed: if the sweep cannot end with a result.
    """
    request, splits = _checked(request)
    try:
        with signals.stop_requests() as stop:
            stop.at_once = "between two trials, everything is saved; rerun the same command to resume"
            if role == "worker":
                _work(request, stop)
            else:
                _search(request, splits, stop, serve=role == "chief")
    except OSError as error:
        if transient.is_transient(error):
            raise  # Exit code 75.
        place = f" ({error.filename})" if error.filename else ""
        raise JobFailed(
            f"a file could not be written or read{place}: {error.strerror or error}; repair that, then rerun the same "
            "command to resume"
        ) from error


def role_of(environment: Mapping[str, str]) -> Role:
    """Return this process's role, which KerasTuner's variables decide.

    Raises:
        RequestError: if only some of them are set.
    """
    absent = [name for name in _VARIABLES if not environment.get(name)]
    ip, port, tuner = _VARIABLES
    if ip in absent and port in absent:
        return "alone"
    if absent:
        raise RequestError(
            f"expected {', '.join(_VARIABLES)} together, received no {absent[0]}; set it or unset the others"
        )
    if not environment[port].isdigit() or not 0 < int(environment[port]) < 65536:
        raise RequestError(f"expected a port in {port}, received {environment[port]!r}")
    return "chief" if "chief" in environment[tuner] else "worker"


def _checked(request: Request) -> tuple[Request, str]:
    """Return the request with its positive class, and a line about its images.

    Raises:
        RequestError: for what would make all trials fail.
    """
    if cluster_lib.from_environment(strategy=request.base.runtime.strategy).num_workers > 1:
        raise RequestError(
            "expected trials of one process each, received a cluster in the environment; unset TF_CONFIG (and the "
            "like), and start a chief and workers (docs/sweeps.md)"
        )
    data = request.base.data
    seed = request.base.loop.seed
    with progress.phase(f"listing {data.data_dir!r}"):
        train, validation = manifest.read_train_and_validation(
            data.data_dir,
            data.validation_fraction,
            seed,
            self_blended=request.base.self_blended,
            layout=request.base.layout,
        )
    before = None if request.base.checkpoint.resume == "never" else request.positive_class_before()
    setting = positive_class.settle(train.class_names, request.base.export.positive_class, before)
    if request.base.export.kinds and not files.exists(request.paths.done):
        exported_model.require_loadable(request.base.loop.job_dir, "job_dir")
    line = split_report.of_training(data.data_dir, train, validation)
    return dataclasses.replace(request, base=request.base.replace(positive_class=setting)), line


def _search(request: Request, splits: str, stop: signals.StopRequest, *, serve: bool) -> None:
    """Hold the sweep's state, and run its trials or let workers run them."""
    paths = JobPaths(request.base.loop.job_dir)
    is_remote = files.is_remote(paths.job_dir)
    if is_remote:
        files.require_writable(paths.job_dir, "job_dir")
    with lock.hold(paths):
        if not is_remote:  # Only now, because a live sweep in it explains why it cannot be written.
            files.require_writable(paths.job_dir, "job_dir")
        _prepare_folder(request, paths)
        log.info("%s", splits)
        starts.bind(paths.job_dir, "chief" if serve else "main")
        keras_settings.load()
        from trainer.sweep import chief  # KerasTuner and TensorFlow are loaded here.

        best = chief.serve(request, stop) if serve else chief.search(request, stop)
        _print_best(request, best)
        if request.sweep.retrain_best:
            from trainer.sweep import retrain

            print(retrain.sentence(retrain.run(request, best[0], stop), request.metric))
        print(f"report: {terminal.link(request.paths.report)}")


def _prepare_folder(request: Request, paths: JobPaths) -> None:
    """Start over, or make sure that the folder holds this sweep; then record the request."""
    if request.base.checkpoint.resume == "never" and not request.is_begun():
        resume.move_aside(paths)
    if request.base.checkpoint.resume == "required" and not files.exists(request.paths.oracle):
        raise RequestError(f"--resume=required: expected a sweep in {paths.job_dir!r}, received none")
    request.refuse_another()
    request.write()
    if files.exists(request.paths.done):
        files.remove(request.paths.done)


def _work(request: Request, stop: signals.StopRequest) -> None:
    starts.bind(request.base.loop.job_dir, worker_name())
    keras_settings.load()
    proxies.go_past([os.environ["KERASTUNER_ORACLE_IP"]])
    from trainer.sweep import chief

    chief.work(request, stop)


def _print_best(request: Request, best: list[Record]) -> None:
    if not best:
        raise JobFailed(f"no trial has a score; {request.paths.table} has the reasons")
    print(f"best trial {best[0].trial}: {request.metric} {best[0].score:.4f} (epoch {best[0].best_epoch})")
    config = terminal.visible(request.paths.best)
    progress.say(f"settings: {config}  (python -m trainer.train --config={config} --job_dir=...)")
