"""Run one training job: ``run(config, cluster) -> Result``.

Whatever can be checked without TensorFlow (settings, files, images) is checked here, in seconds; ``trainer.py`` does the
rest.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator
from typing import Any

from trainer.core import result, signals
from trainer.core.config import Config
from trainer.core.errors import RequestError
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files, lock
from trainer.data import manifest
from trainer.distributed import cluster as cluster_lib
from trainer.distributed import consistency, process_group
from trainer.training import resume
from trainer.training.loop import Plan, Pruner, StopReason

log = logging.getLogger("trainer.train")


def run(config: Config, cluster: cluster_lib.Cluster, judge: Pruner | None = None) -> result.Result:
    """Train a job to its end, continuing from what job_dir holds; a finished job is returned as it is.

    All processes of a cluster call this; they meet here and return the same result.

    Args:
        config: what to train.
        cluster: who this process is.
        judge: asked by the chief after each epoch but the last whether the job is hopeless; a job that it ends is
            finished as after early stopping.  Either all processes have one or none.

    Raises:
        RequestError: if the request is wrong; a retry cannot help.
        StoppedEarly: after a stop request, with everything saved.
    """
    with signals.stop_requests() as stop:
        stop.at_once = "at start-up, nothing was lost; start the same command again"
        with process_group.join(cluster, config) as group:
            return _run(config, cluster, group, stop, judge)


def _run(
    config: Config, cluster: cluster_lib.Cluster, group: process_group.SingleProcess, stop: signals.StopRequest,
    judge: Pruner | None,
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
        from trainer.training import (
            trainer,  # TensorFlow is loaded here, after everything that can be refused without it.
        )

        with trainer.one_fate(group):
            job = trainer.Trainer(config, cluster, plan, train, validation, stop, group, judge)
            if cluster.is_chief:
                resume.keep_settings(config, paths)
            return job.run()


@contextlib.contextmanager
def _own_job_dir(paths: JobPaths) -> Iterator[None]:
    """Be the only live job of a job_dir that can be written."""
    if not files.is_remote(paths.job_dir):
        files.require_writable(paths.job_dir, "job_dir")
    with lock.hold(paths):
        yield


def _prepare(config: Config, plan: Plan, paths: JobPaths) -> dict[str, Any] | None:
    """Make job_dir ready; return its result if there is nothing left to do."""
    resume.prepare(config, paths)
    finished = result.read(paths.result)
    if finished is None or not is_complete(finished, config, plan):
        return None
    log.info("already done: %s ended at step %d by %s", paths.job_dir, finished.step, finished.stopped_by)
    return dataclasses.asdict(finished)


def make_plan(config: Config, examples: int) -> Plan:
    """Turn epochs and examples into steps; after this there are only steps.

    Raises:
        RequestError: if the steps to profile lie behind the last one.
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
    """Tell whether a result answers the request: far enough, and with the exports it asks for."""
    far_enough = finished.step >= plan.total_steps or finished.stopped_by != StopReason.EPOCHS.value
    as_wanted = finished.decided_by in (None, config.export.decision) or not config.export.kinds
    return far_enough and as_wanted and set(config.export.kinds) <= finished.exports.keys()
