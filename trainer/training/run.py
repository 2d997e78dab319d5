"""Run one training job: ``run(config, cluster) -> Result``.

Owns: what can be checked without TensorFlow (settings, files, images); a wrong request fails in seconds.
Does not own: how the job is put together (``start/build.py``), the job itself (``job.py``).
"""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.core import progress, result, signals, starts
from trainer.core.config import Config, changes
from trainer.core.errors import RequestError, StoppedEarly
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files, lock
from trainer.data import manifest, split_report
from trainer.data.layouts import mounted
from trainer.data.manifest import Split
from trainer.distributed import cluster as cluster_lib
from trainer.distributed import consistency, process_group, xla_cache
from trainer.models import keras_settings
from trainer.models.weights.published import NONE
from trainer.serving import exported_model
from trainer.training import resume, settle, trackers
from trainer.training.loop import Plan, Pruner, StopReason
from trainer.training.observers import Observer
from trainer.training.start import initial_weights
from trainer.training.start.clock import StartClock
from trainer.training.start.time_left import Series

log = logging.getLogger("trainer.train")


def run(
    config: Config, cluster: cluster_lib.Cluster, pruner: Pruner | None = None, observers: Sequence[Observer] = (),
    series: Series | None = None,
) -> result.Result:  # fmt: skip
    """Train a job to its end, continuing from what job_dir holds; a finished job is returned as it is.

    All processes of a cluster call this; they meet here and return the same result.

    Args:
        config: what to train.
        cluster: who this process is.
        pruner: called by the chief after each epoch but the last; a job that it stops is finished as after early
            stopping.  Either all processes have one or none.
        observers: what else watches the training in this process, after the built-in observers.
        series: that the job is part of, which its progress tells.

    Raises:
        RequestError: if the request is wrong; a retry cannot help.
        StoppedEarly: after a stop request, with everything saved.
    """
    config = config.replace(notify="")  # It may hold a secret, and who starts the job sends it (``core/notify``).
    clock = StartClock()
    with signals.stop_requests() as stop:
        stop.at_once = "at start-up, nothing was lost; rerun the same command"
        with process_group.join(cluster, config) as group:
            return _run(config, cluster, group, stop, pruner, observers, clock, series)


def _run(
    config: Config, cluster: cluster_lib.Cluster, group: process_group.SingleProcess, stop: signals.StopRequest,
    pruner: Pruner | None, observers: Sequence[Observer], clock: StartClock, series: Series | None,
) -> result.Result:  # fmt: skip
    paths, settings_line, changed = JobPaths(config.loop.job_dir), changes.line(config), changes.differing(config)
    if cluster.is_chief and files.is_remote(paths.job_dir):  # Before minutes are spent on listing a large bucket.
        files.require_writable(paths.job_dir, "job_dir")
    if files.exists(paths.config) and not files.exists(paths.result):
        _require_mounted(config, paths)
    config = config.replace(**group.broadcast(resume.layout_of(config, paths) if group.index == 0 else None))
    with progress.phase(f"listing {config.data.data_dir!r}", show=cluster.is_chief):
        train, validation = _read_splits(config, group, paths)
    trackers.require(config)
    config = settle.settle(config, train, group, paths)
    fingerprints = {"train images": train.fingerprint, "validation images": validation.fingerprint}
    consistency.require_same(group, fingerprints, "give all processes the same --data_dir, or copies of it")
    plan = make_plan(config, len(train))
    _ = config.loss.weights_of(train.counts)  # Raises if they are invalid.
    with _own_job_dir(paths) if cluster.is_chief else contextlib.nullcontext():
        finished = group.broadcast(_prepare(config, plan, paths, fingerprints) if cluster.is_chief else None)
        if finished is not None:
            return result.Result(**finished)
        starts.bind(paths.job_dir, f"worker-{group.index}" if group.size > 1 else "main")
        if config.export.kinds:
            exported_model.require_loadable(paths.job_dir, "job_dir")
        clock.end("images")
        xla_cache.use(config.runtime.xla_cache_dir)
        with keras_settings.pinned():  # TensorFlow is loaded here: what can be refused without it was refused.
            from trainer.training import job
            from trainer.training.start import build

            clock.end("imports")
            with job.failing_together(group):
                request = job.Request(
                    config=config, cluster=cluster, plan=plan, train=train, validation=validation, stop=stop,
                    group=group, pruner=pruner, observers=observers, clock=clock, series=series,
                )  # fmt: skip
                with resume.explained(config, paths):
                    start = build.build(request)
                if cluster.is_chief:
                    resume.keep_settings(config, paths, changed)
                    # Reported once nothing can refuse the request, whose one line shall stand alone.
                    log.info("%s", settings_line)
                    log.info("%s", _splits_line(config, train, validation))
                    _warn_of_uneven_classes(config, train)
                return start.run()


def _require_mounted(config: Config, paths: JobPaths) -> None:
    """Check that the images of an unfinished job are still there; a folder that never was is a wrong request instead.

    Raises:
        StoppedEarly: if data_dir, from which this job has read, is missing or empty.
    """
    with contextlib.suppress(RequestError):  # Settings that cannot be read are refused elsewhere.
        data_dir, before = config.data.data_dir, resume.settings_of(paths)
        dropped = str(before.get("drop", ""))
        if before.get("data_dir") != data_dir or config.layout.drop not in ("", dropped):
            return
        if problem := mounted.missing(data_dir, dataclasses.replace(config.layout, drop=dropped)):
            raise StoppedEarly(
                f"{problem}, but {paths.job_dir!r} was started with the images there; mount or restore it, then rerun "
                "the same command"
            )


def _splits_line(config: Config, train: Split, validation: Split) -> str:
    return split_report.of_training(config.data.data_dir, train, validation)


def _warn_of_uneven_classes(config: Config, train: Split) -> None:
    remedies = {"sampling": "none", "class_weights": "none"}
    given = {name: config.flat()[name] for name in remedies if name in config.flat()}
    if split_report.are_uneven(train) and all(remedies[name] == value for name, value in given.items()):
        log.warning("%s", split_report.of_uneven_classes(train, [f"--{name}=balanced" for name in given]))


def _read_splits(config: Config, group: process_group.SingleProcess, paths: JobPaths) -> tuple[Split, Split]:
    """Return Train and Validation; with the litter in them if the job in job_dir began with it as images."""

    def read(*, keep_litter: bool) -> tuple[Split, Split]:
        return manifest.read_train_and_validation(
            config.data.data_dir, config.data.validation_fraction, config.loop.seed, keep_litter=keep_litter,
            self_blended=config.self_blended, layout=config.layout,
        )  # fmt: skip

    splits = read(keep_litter=False)
    keeps = False
    if group.index == 0 and any(split.left_out.litter for split in splits) and config.checkpoint.resume != "never":
        before = resume.images_of(paths)
        keeps = before is not None and before == [split.fingerprint for split in read(keep_litter=True)]
    if not group.broadcast(keeps):
        return splits
    log.info("files of other programs count as images, as they did when this job began")
    return read(keep_litter=True)


@contextlib.contextmanager
def _own_job_dir(paths: JobPaths) -> Iterator[None]:
    """Lock job_dir for the block, then check that it can be written: a live job in it explains why it cannot."""
    with lock.hold(paths):
        if not files.is_remote(paths.job_dir):
            files.require_writable(paths.job_dir, "job_dir")
        yield


def _prepare(config: Config, plan: Plan, paths: JobPaths, images: Mapping[str, str]) -> dict[str, Any] | None:
    """Prepare job_dir; return its result if there is nothing left to do."""
    if config.model.weights != NONE:  # Before anything is moved aside.
        starts_over = config.checkpoint.resume == "never" and not resume.is_begun(config, paths, images)
        initial_weights.require(config, paths, starts_over=starts_over)
    resume.prepare(config, paths, images)
    finished = result.read(paths.result)
    if finished is None or not is_complete(finished, config, plan):
        return None
    missing = [*finished.unmade, *resume.unfinished_exports(paths)]
    if missing:
        log.info("trained already, but not made: %s; trying again", ", ".join(missing))
        files.remove(paths.restarts)  # However often that fails, the training has succeeded.
        return None
    log.info("already done: %s ended at step %d by %s", paths.job_dir, finished.step, finished.stopped_by)
    return dataclasses.asdict(finished)


def make_plan(config: Config, examples: int) -> Plan:
    """Turn epochs and examples into steps; everything later counts in steps.

    Raises:
        RequestError: if the steps to profile lie after the last one.
    """
    per_epoch = config.loop.steps_of_epoch(examples, config.data.batch_size)
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
        frozen_steps=config.optim.freeze_backbone_epochs * per_epoch,
        pauses=(profiled[0] - 1, profiled[1]) if profiled else (),
        steps_per_execution=max(config.runtime.steps_per_execution, 1),  # For auto see ``job.py``, which knows devices.
    )


def is_complete(finished: result.Result, config: Config, plan: Plan) -> bool:
    """Return whether a result satisfies the request: trained far enough, and exported unless it is too bad for that."""
    far_enough = finished.step >= plan.total_steps or finished.stopped_by != StopReason.EPOCHS.value
    has_decision = finished.decided_by in (None, config.export.decision) or not config.export.kinds
    has_exports = set(config.export.kinds) <= finished.exports.keys()
    return far_enough and has_decision and bool(has_exports or finished.shortfall(config.export.require_auc))
