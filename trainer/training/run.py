"""Run one training job: ``run(config, cluster) -> Result``.

Owns: what can be checked without TensorFlow (settings, files, images); a wrong request fails in seconds.
Does not own: the job itself (``job.py``).
"""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from trainer.core import result, signals
from trainer.core.config import Config
from trainer.core.errors import RequestError
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files, lock
from trainer.data import manifest
from trainer.distributed import cluster as cluster_lib
from trainer.distributed import consistency, process_group
from trainer.serving import exported_model
from trainer.training import resume
from trainer.training.loop import Plan, Pruner, StopReason
from trainer.training.observers import Observer

log = logging.getLogger("trainer.train")


def run(
    config: Config, cluster: cluster_lib.Cluster, pruner: Pruner | None = None, observers: Sequence[Observer] = ()
) -> result.Result:
    """Train a job to its end, continuing from what job_dir holds; a finished job is returned as it is.

    All processes of a cluster call this; they meet here and return the same result.

    Args:
        config: what to train.
        cluster: who this process is.
        pruner: called by the chief after each epoch but the last; a job that it stops is finished as after early
            stopping.  Either all processes have one or none.
        observers: what else watches the training in this process, after the built-in observers.

    Raises:
        RequestError: if the request is wrong; a retry cannot help.
        StoppedEarly: after a stop request, with everything saved.
    """
    with signals.stop_requests() as stop:
        stop.at_once = "at start-up, nothing was lost; rerun the same command"
        with process_group.join(cluster, config) as group:
            return _run(config, cluster, group, stop, pruner, observers)


def _run(
    config: Config, cluster: cluster_lib.Cluster, group: process_group.SingleProcess, stop: signals.StopRequest,
    pruner: Pruner | None, observers: Sequence[Observer],
) -> result.Result:  # fmt: skip
    paths = JobPaths(config.loop.job_dir)
    if cluster.is_chief and files.is_remote(paths.job_dir):  # Before minutes are spent on listing a large bucket.
        files.require_writable(paths.job_dir, "job_dir")
    train, validation = manifest.read_train_and_validation(
        config.data.data_dir, config.data.validation_fraction, config.loop.seed
    )
    manifest.positive_class_index(train.class_names, config.export.positive_class)
    fingerprints = {"train images": train.fingerprint, "validation images": validation.fingerprint}
    consistency.require_same(group, fingerprints, "give all processes the same --data_dir, or copies of it")
    plan = make_plan(config, len(train))
    with _own_job_dir(paths) if cluster.is_chief else contextlib.nullcontext():
        finished = group.broadcast(_prepare(config, plan, paths) if cluster.is_chief else None)
        if finished is not None:
            return result.Result(**finished)
        if config.export.kinds:
            exported_model.require_loadable(paths.job_dir, "job_dir")
        from trainer.training import job  # TensorFlow is loaded here: what can be refused without it was refused.

        with job.failing_together(group):
            request = job.Request(config=config, cluster=cluster, plan=plan, train=train, validation=validation,
                                  stop=stop, group=group, pruner=pruner, observers=observers)  # fmt: skip
            start = job.build(request)
            if cluster.is_chief:
                resume.keep_settings(config, paths)
            return start.run()


@contextlib.contextmanager
def _own_job_dir(paths: JobPaths) -> Iterator[None]:
    """Check that job_dir can be written, and lock it for the block."""
    if not files.is_remote(paths.job_dir):
        files.require_writable(paths.job_dir, "job_dir")
    with lock.hold(paths):
        yield


def _prepare(config: Config, plan: Plan, paths: JobPaths) -> dict[str, Any] | None:
    """Prepare job_dir; return its result if there is nothing left to do."""
    resume.prepare(config, paths)
    finished = result.read(paths.result)
    if finished is None or not is_complete(finished, config, plan):
        return None
    log.info("already done: %s ended at step %d by %s", paths.job_dir, finished.step, finished.stopped_by)
    return dataclasses.asdict(finished)


def make_plan(config: Config, examples: int) -> Plan:
    """Turn epochs and examples into steps; everything later counts in steps.

    Raises:
        RequestError: if the steps to profile lie after the last one.
    """
    per_pass = -(-examples // config.data.batch_size)
    per_epoch = config.loop.steps_per_epoch or per_pass
    profiled = config.loop.profiled
    if profiled and profiled[1] > config.loop.epochs * per_epoch:
        raise RequestError(
            f"--profile_steps: expected steps up to the job's last, {config.loop.epochs * per_epoch}; received "
            f"{config.loop.profile_steps!r}"
        )
    return Plan(
        total_steps=config.loop.epochs * per_epoch,
        steps_per_epoch=per_epoch,
        log_every_steps=config.loop.log_every_steps,
        checkpoint_every_steps=config.checkpoint.checkpoint_every_steps,
        checkpoint_every_seconds=config.checkpoint.checkpoint_every_seconds,
    )


def is_complete(finished: result.Result, config: Config, plan: Plan) -> bool:
    """Return whether a result satisfies the request: trained far enough, with the requested exports."""
    far_enough = finished.step >= plan.total_steps or finished.stopped_by != StopReason.EPOCHS.value
    has_decision = finished.decided_by in (None, config.export.decision) or not config.export.kinds
    return far_enough and has_decision and set(config.export.kinds) <= finished.exports.keys()
