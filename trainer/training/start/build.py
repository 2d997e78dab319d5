"""Put the parts of a job together, and restore its newest checkpoint: all that needs TensorFlow before the first step.

Does not own: what the parts do, and what runs them (``job.py``).
"""

import dataclasses
import functools
import platform
import time
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from trainer import __version__
from trainer.core import progress, starts
from trainer.core.config import Config
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data import augment
from trainer.data.bad_images import BadImages
from trainer.distributed import consistency, gpu_promise
from trainer.distributed import strategy as strategy_lib
from trainer.distributed.cluster import Cluster
from trainer.distributed.process_group import SingleProcess
from trainer.models import layers
from trainer.models import split as split_model
from trainer.training import loop, resume, trackers
from trainer.training.checkpoints.checkpoint import CheckpointStore
from trainer.training.checkpoints.manager import CheckpointManager
from trainer.training.distributed_input import DistributedInput
from trainer.training.evaluator import Evaluator
from trainer.training.execution import Execution
from trainer.training.exports import samples
from trainer.training.exports.exporter import Exporter
from trainer.training.exports.live_report import LiveReport
from trainer.training.frozen.features import FeatureExtractor
from trainer.training.frozen.phase import HeadStep, PhasedInput, PhasedStep
from trainer.training.job import Job, Request
from trainer.training.metrics_log import MetricsLog
from trainer.training.observers import Observer, Observers
from trainer.training.profiler import Profiler
from trainer.training.progress_bar import ProgressBar
from trainer.training.start import hopeless, initial_weights, vertex
from trainer.training.start.clock import StartReport
from trainer.training.step.gradients import Batching
from trainer.training.step.loss import Loss
from trainer.training.step.train_step import TrainStep
from trainer.training.step.update import Rules
from trainer.training.step_stats import StepStatistics
from trainer.training.stop_controller import StopController
from trainer.training.tensorboard import SummaryWriter, TensorBoardReporter
from trainer.training.train_state import TrainState
from trainer.training.trainer import Trainer


def build(request: Request) -> Job:
    """Set up devices, files and state, and restore the newest checkpoint; all processes of the job do this together.

    Raises:
        RequestError: if devices, precision or the checkpoints in job_dir do not fit the request.
        JobFailed: if the job was restarted too often without progress.
    """
    started = time.monotonic()
    config = request.config
    paths = request.paths
    is_chief = request.is_chief
    # Devices and precision first: variables are created in the strategy's scope.
    runtime = _same_runtime(request)
    request = dataclasses.replace(request, plan=_with_calls(request, runtime))
    bad_images = BadImages(paths.skipped, config.data.max_bad_fraction, write=is_chief)
    with progress.phase("building the model", show=is_chief):
        state = TrainState.fresh(
            config, runtime, num_classes=len(request.train.class_names), total_steps=request.plan.total_steps,
            initial=initial_weights.prepare(config, request.train.class_names, request.group),
            frozen_steps=request.plan.frozen_steps,
        )  # fmt: skip
    request.clock.end("model")
    if layers.batch_norms(state.model):
        runtime = strategy_lib.with_normalised_parts(
            runtime, config.data.batch_size, config.model.model, config.optim.accumulate_steps
        )
    watchers = _watchers(request, state)
    # Restore before anything reads the state's step.
    statistics = StepStatistics(request.plan)
    store = CheckpointStore(paths.checkpoints, config.checkpoint.keep_checkpoints, logs=(paths.metrics, paths.skipped))
    checkpoints = CheckpointManager(
        config, request.group, store, state, statistics, _checkpoint_inputs(request, runtime),
        before_save=(watchers.metrics_log.flush, watchers.writer.send, bad_images.flush),
    )  # fmt: skip
    with progress.phase("reading the newest checkpoint", show=is_chief):
        checkpoints.restore()
    request.clock.end("checkpoint")
    _count_start(request, state.step)
    # What runs from the restored step on.
    stop = StopController(
        request.group, request.stop, max_seconds=config.loop.max_seconds, started=started,
        announce=checkpoints.announce_stop,
    )  # fmt: skip
    trainer = _make_trainer(request, runtime, state, bad_images, statistics, checkpoints, stop, watchers.all)
    exporter = Exporter(config, request.plan, runtime, state, store, request.train, request.validation)
    return Job(request=request, runtime=runtime, bad_images=bad_images, trainer=trainer, exporter=exporter,
               metrics_log=watchers.metrics_log, trackers=watchers.trackers, report=watchers.report)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Watchers:
    """What only watches a job; ``all`` hands each event to all, also to those that have no name here."""

    metrics_log: MetricsLog
    writer: SummaryWriter
    report: LiveReport
    trackers: trackers.Trackers
    all: Observers


def _watchers(request: Request, state: TrainState) -> _Watchers:
    config, paths, is_chief = request.config, request.paths, request.is_chief
    metrics_log = MetricsLog(paths, request.plan, write=is_chief)
    writer = SummaryWriter(vertex.tensorboard(paths), write=is_chief)
    report = LiveReport(
        paths.job_dir, lambda: samples.pictures(config, request.train, request.validation), write=is_chief
    )
    tracking = trackers.make(config, paths, write=is_chief)
    # In the order in which they get the events.
    every = Observers([metrics_log, writer, report, tracking, *_more_observers(request, writer, state)])
    return _Watchers(metrics_log, writer, report, tracking, every)


def _more_observers(request: Request, writer: SummaryWriter, state: TrainState) -> list[Observer]:
    config, is_chief = request.config, request.is_chief
    reporter = TensorBoardReporter(
        config, writer, state.model, request.train, request.validation, positive=request.positive, write=is_chief
    )
    images = len(request.validation)
    bar = ProgressBar(request.plan, show=is_chief, validation_images=images, series=request.series)
    profiler = Profiler(config.loop.profiled, vertex.tensorboard(request.paths), write=is_chief)
    report = StartReport(request.clock, request.plan, show=is_chief, on_terminal=bar.is_terminal)
    return [reporter, bar, profiler, report, *request.observers]


def _make_trainer(
    request: Request, runtime: strategy_lib.Runtime, state: TrainState, bad_images: BadImages,
    statistics: StepStatistics, checkpoints: CheckpointManager, stop: StopController, observers: Observers,
) -> Trainer:  # fmt: skip
    config, plan = request.config, request.plan
    pixels = DistributedInput(
        runtime, config.data, config.loop.seed, bad_images, request.group,
        train=request.train, validation=request.validation,
        augmentation=augment.Settings(config.augment, request.positive), ahead=plan.steps_per_execution,
    )  # fmt: skip
    train_step, inputs = _steps_and_input(request, runtime, state, pixels, stop)
    evaluator = Evaluator(
        plan=plan, split=request.validation, positive=request.positive, monitor=config.loop.monitor,
        plateau_monitor=config.optim.plateau_monitor, state=state, train_step=train_step, inputs=inputs, stop=stop,
        pruner=_agreed(request.pruner, request.group), observers=observers,
    )  # fmt: skip
    return Trainer(
        plan=plan, machine=_machine(runtime), state=state, inputs=inputs, statistics=statistics,
        execution=Execution(runtime.strategy, state.optimizer, train_step, plan.steps_per_execution),
        evaluator=evaluator, checkpoints=checkpoints, stop=stop, observers=observers,
    )  # fmt: skip


def _with_calls(request: Request, runtime: strategy_lib.Runtime) -> loop.Plan:
    """Return the plan with the value of ``--steps_per_execution=auto``."""
    if request.config.runtime.steps_per_execution:
        return request.plan
    data = request.config.data
    batch_bytes = data.batch_size // runtime.num_devices * data.image_size**2 * 3
    steps = loop.automatic_steps_per_execution(runtime.device_kind, batch_bytes)
    return dataclasses.replace(request.plan, steps_per_execution=steps)


def _steps_and_input(
    request: Request, runtime: strategy_lib.Runtime, state: TrainState, pixels: DistributedInput, stop: StopController
) -> tuple[PhasedStep, DistributedInput | PhasedInput]:
    """Return the step on batches of pixels and their input; in front of them those of a frozen backbone, if asked."""
    config, paths = request.config, request.paths
    options: dict[str, Any] = {
        "seed": config.loop.seed,
        "xla": runtime.xla,
        "allreduce_dtype": runtime.allreduce_dtype,
        "loss": Loss(config.loss, config.loss.weights_of(request.train.counts)),
    }
    parts = split_model.split(state.model)
    batching = Batching(config.data.batch_size, runtime.gradient_shards)
    rules = Rules(state.average, config.optim.clip_norm)
    moved = (state.optimizer, state.loss_scale)
    whole = TrainStep(
        runtime.strategy, state.model, *moved,
        dataclasses.replace(batching, accumulate_steps=_accumulate_steps(config, runtime)),
        augmentation=config.data.augment,
        rules=dataclasses.replace(
            rules,
            centered=layers.dense_kernels(parts.backbone) if config.optim.gradient_centralization else (),
            slow=parts.backbone.trainable_variables,
            slow_factor=config.optim.backbone_lr_factor,
        ),
        **options,
    )  # fmt: skip
    if not request.plan.frozen_steps:
        return PhasedStep(whole), pixels
    head = HeadStep(runtime.strategy, parts, *moved, batching, rules=rules, **options)
    extractor = FeatureExtractor(
        runtime, parts.backbone, pixels, request.group, stop, folder=paths.features, settings=config.decisive(),
        on_progress=functools.partial(files.remove, paths.restarts),
    )  # fmt: skip
    return PhasedStep(whole, head), PhasedInput(pixels, extractor, request.plan, state)


def _accumulate_steps(config: Config, runtime: strategy_lib.Runtime) -> int:
    """Return ``--accumulate_steps``.

    Raises:
        RequestError: if a batch does not divide into so many parts.
    """
    accumulate, batch_size = config.optim.accumulate_steps, config.data.batch_size
    parts = accumulate * runtime.num_devices
    if batch_size % parts:
        raise RequestError(
            f"--accumulate_steps: expected a batch_size that divides among {runtime.num_devices} devices and "
            f"{accumulate} parts, received {batch_size}; use --batch_size={-(-batch_size // parts) * parts}"
        )
    return accumulate


def _same_runtime(request: Request) -> strategy_lib.Runtime:
    """Set up this process's devices and precision, which must be those of all processes and of the checkpoints.

    All processes are connected after it.

    Raises:
        RequestError: if they are not, or do not fit the request.
        MissingGpus: if promised GPUs are missing in a cluster.
        JobFailed: if the checkpoints' precision cannot be used on this machine.
    """
    config, group = request.config, request.group
    kept = resume.checkpoint_inputs(request.paths) if request.is_chief and config.runtime.precision == "auto" else {}
    precision: str = group.broadcast(kept.get("precision", "") if request.is_chief else None)
    try:
        runtime = strategy_lib.setup(config.runtime, config.data, request.cluster, group, kept_precision=precision)
    except gpu_promise.MissingGpus:
        if request.is_chief:  # Such a start counts: a scheduler may choose the same machine again and again.
            resume.count_again(request.paths, config.loop.max_restarts_without_progress)
        raise
    choice = {name: getattr(runtime, name) for name in ("precision", "device_kind", "local_devices")}
    consistency.require_same(group, choice, "name it with --precision or --num_devices, or use equal machines")
    if request.cluster.num_workers > 1:
        seconds = config.runtime.startup_timeout_seconds
        with group.time_limit(seconds, _not_connected(request.cluster, seconds)):
            strategy_lib.connect(runtime)
    return runtime


def _not_connected(cluster: Cluster, seconds: float) -> str:
    return (
        f"TensorFlow's servers ({', '.join(cluster.addresses)}) did not connect to each other within {seconds:g} s "
        "(--startup_timeout_seconds): make sure that each machine reaches these ports of all others, through no "
        "firewall and no proxy; nothing was lost: start all processes again"
    )


def _checkpoint_inputs(request: Request, runtime: strategy_lib.Runtime) -> dict[str, str]:
    """Return what a checkpoint must agree with besides the settings."""
    return {
        "train images": request.train.fingerprint,
        "validation images": request.validation.fingerprint,
        "precision": runtime.precision,
    }


def _count_start(request: Request, step: int) -> None:
    """Refuse a job that starts again and again without progress or in vain, and a job_dir that is not shared."""
    starts.note_step(request.paths.job_dir, step)
    if request.is_chief:
        limit = request.config.loop.max_restarts_without_progress
        resume.count_start(request.paths, step, limit)
        if limit:
            hopeless.refuse(request.paths, step)
    consistency.require_shared(request.group, request.paths.restarts)


def _agreed(pruner: loop.Pruner | None, group: SingleProcess) -> loop.Pruner | None:
    """Return a pruner that answers alike in all processes: the chief asks, the others get its answer."""
    if pruner is None:
        return None

    def ask_in_chief(epoch: int, values: Mapping[str, float | None]) -> str:
        reason: str = group.broadcast(pruner(epoch, values) if group.index == 0 else None)
        return reason

    return ask_in_chief


def _machine(runtime: strategy_lib.Runtime) -> dict[str, Any]:
    return {
        "version": __version__,
        "tensorflow": tf.__version__,
        "precision": runtime.precision,
        "num_devices": runtime.num_devices,
        "device_kind": runtime.device_kind,
        "host": platform.node(),
    }
