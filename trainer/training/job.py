"""One start of a job on the devices of this process: build, restore, train, export.

Owns: the wiring of everything that needs TensorFlow.  Does not own: the run of the loop (``trainer.py``), what is
checked without TensorFlow (``run.py``), how exports and reports are made (``exports/exporter.py``).
"""

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow as tf

from trainer import __version__
from trainer.core import result as result_lib
from trainer.core.config import Config
from trainer.core.errors import RequestError, StoppedEarly, StorageDown
from trainer.core.job_dir import JobPaths
from trainer.core.signals import StopRequest
from trainer.core.storage import files, transient
from trainer.data import augment, interruptible
from trainer.data.bad_images import BadImages
from trainer.data.manifest import Split
from trainer.data.positive_class import positive_class_index
from trainer.distributed import consistency
from trainer.distributed import strategy as strategy_lib
from trainer.distributed.cluster import Cluster
from trainer.distributed.process_group import ProcessGroup, SingleProcess
from trainer.models import layers
from trainer.models import split as split_model
from trainer.training import initial_weights, loop, resume
from trainer.training.checkpoints.checkpoint import CheckpointStore
from trainer.training.checkpoints.manager import CheckpointManager
from trainer.training.distributed_input import DistributedInput
from trainer.training.evaluator import Evaluator
from trainer.training.exports.exporter import Exporter
from trainer.training.frozen.features import FeatureExtractor
from trainer.training.frozen.phase import HeadStep, PhasedInput, PhasedStep
from trainer.training.metrics_log import MetricsLog
from trainer.training.observers import Observer, Observers
from trainer.training.profiler import Profiler
from trainer.training.progress_bar import ProgressBar
from trainer.training.step.loss import Loss
from trainer.training.step.train_step import TrainStep
from trainer.training.step_stats import StepStatistics
from trainer.training.stop_controller import StopController
from trainer.training.tensorboard import SummaryWriter, TensorBoardReporter
from trainer.training.train_state import TrainState
from trainer.training.trainer import Trainer

log = logging.getLogger(__name__)

# What a collective raises when it cannot reach another process.
_LOST_PEER = (
    tf.errors.UnavailableError, tf.errors.CancelledError, tf.errors.AbortedError, tf.errors.DeadlineExceededError,
    tf.errors.FailedPreconditionError, tf.errors.InternalError, tf.errors.UnknownError,
)  # fmt: skip


@contextlib.contextmanager
def failing_together(group: SingleProcess) -> Iterator[None]:
    """Turn a failed collective into StoppedEarly, so that all processes exit alike.

    Raises:
        StoppedEarly: for such a failure.
    """
    try:
        yield
    except _LOST_PEER as error:
        if isinstance(group, ProcessGroup):
            raise group.explain(error) from error
        raise


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What one start of a job is about, checked without TensorFlow.

    Attributes:
        config: of the job.
        cluster: who this process is.
        plan: the cadence.
        train: training images.
        validation: validation images.
        stop: the stop request that this process may receive.
        group: of all processes.
        pruner: see ``training.run``.
        observers: further observers, called after the built-in ones.
    """

    config: Config
    cluster: Cluster
    plan: loop.Plan
    train: Split
    validation: Split
    stop: StopRequest
    group: SingleProcess
    pruner: loop.Pruner | None = None
    observers: Sequence[Observer] = ()

    @property
    def paths(self) -> JobPaths:
        """Names in job_dir."""
        return JobPaths(self.config.loop.job_dir)

    @property
    def positive(self) -> int:
        """Index of the class that auc and threshold are about."""
        return positive_class_index(self.train.class_names, self.config.export.positive_class)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the files."""
        return self.cluster.is_chief


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """A job from its newest checkpoint to its end or to a stop request; ``build`` makes one."""

    request: Request
    runtime: strategy_lib.Runtime
    bad_images: BadImages
    trainer: Trainer
    exporter: Exporter
    metrics_log: MetricsLog

    def run(self) -> result_lib.Result:
        """Train to the end; export, and write the report and ``result.json``.

        Raises:
            StoppedEarly: after a stop request or at the time limit, with everything saved.
            RequestError: if too many images are bad.
            JobFailed: if the loss diverged, or the last state could not be saved.
        """
        stop, trainer = self.request.stop, self.trainer
        _log_devices_and_batch(self.request, self.runtime)
        stop.at_once = ""  # From here on a step is finished and saved first.
        with interruptible.stopped_by(trainer.stop.reason):
            reason = trainer.run()
        if reason is loop.StopReason.STOP_REQUEST:
            raise StoppedEarly(
                f"{trainer.stop.cause} at step {trainer.state.step} of {trainer.plan.total_steps}, state "
                f"saved in {self.request.paths.checkpoints}; rerun the same command to resume"
            )
        if self.request.is_chief and trainer.plan.frozen_steps:
            files.remove_tree(self.request.paths.features)
        stop.at_once = "while exporting, all training state saved; rerun the same command to resume"
        return self._export(reason)

    def _export(self, reason: loop.StopReason) -> result_lib.Result:
        """Export in the chief; the other processes wait for the result."""
        group = self.request.group
        group.mark_training_done()
        try:
            values = dataclasses.asdict(self._make_result(reason)) if self.request.is_chief else None
        except OSError as error:
            if not transient.may_pass(error):
                raise
            raise StorageDown(
                f"the export could not be written ({error}); all training state is saved: free space or repair the "
                "file system, then rerun the same command"
            ) from error
        return result_lib.Result(**group.broadcast(values))

    def _make_result(self, reason: loop.StopReason) -> result_lib.Result:
        splits = (self.request.train, self.request.validation)
        result = self.exporter.result(
            reason,
            images_per_second=self._images_per_second(),
            skipped={split.name: self.bad_images.count(split.name) for split in splits},
        )
        self.metrics_log.write_line("end", self.trainer.state.step, status=result.status, stopped_by=result.stopped_by)
        result.write(self.request.paths.result)
        return result

    def _images_per_second(self) -> float:
        """Return this start's training speed; if it trained nothing, that of an earlier result."""
        speed = self.trainer.statistics.images_per_second
        if speed is not None:
            return round(speed, 2)
        earlier = result_lib.read(self.request.paths.result)
        return earlier.images_per_second if earlier else 0.0


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
    bad_images = BadImages(paths.skipped, config.data.max_bad_fraction, write=is_chief)
    state = TrainState.fresh(
        config, runtime, num_classes=len(request.train.class_names), total_steps=request.plan.total_steps,
        initial=initial_weights.prepare(config, request.train.class_names, request.group),
        frozen_steps=request.plan.frozen_steps,
    )  # fmt: skip
    if layers.batch_norms(state.model):
        runtime = strategy_lib.with_normalised_parts(
            runtime, config.data.batch_size, config.model.model, config.optim.accumulate_steps
        )
    # What only watches, in the order in which it gets the events.
    metrics_log = MetricsLog(paths, request.plan, write=is_chief)
    writer = SummaryWriter(paths.tensorboard, write=is_chief)
    observers = Observers([metrics_log, writer, *_more_observers(request, writer, state)])
    # Restore before anything reads the state's step.
    statistics = StepStatistics(request.plan)
    logs = (paths.metrics, paths.skipped)
    store = CheckpointStore(paths.checkpoints, config.checkpoint.keep_checkpoints, logs=logs)
    checkpoints = CheckpointManager(
        config, request.group, store, state, statistics, _checkpoint_inputs(request, runtime),
        before_save=(metrics_log.flush, writer.send, bad_images.flush),
    )  # fmt: skip
    checkpoints.restore()
    _count_start(request, state.step)
    # What runs from the restored step on.
    stop = StopController(
        request.group, request.stop, max_seconds=config.loop.max_seconds, started=started,
        announce=checkpoints.announce_stop,
    )  # fmt: skip
    trainer = _make_trainer(request, runtime, state, bad_images, statistics, checkpoints, stop, observers)
    exporter = Exporter(config, request.plan, runtime, state, store, request.train, request.validation)
    return Job(request=request, runtime=runtime, bad_images=bad_images, trainer=trainer, exporter=exporter,
               metrics_log=metrics_log)  # fmt: skip


def _more_observers(request: Request, writer: SummaryWriter, state: TrainState) -> list[Observer]:
    config, is_chief = request.config, request.is_chief
    reporter = TensorBoardReporter(
        config, writer, state.model, request.train, request.validation, positive=request.positive, write=is_chief
    )
    progress = ProgressBar(request.plan, show=is_chief)
    profiler = Profiler(config.loop.profiled, request.paths.tensorboard, write=is_chief)
    return [reporter, progress, profiler, *request.observers]


def _make_trainer(
    request: Request, runtime: strategy_lib.Runtime, state: TrainState, bad_images: BadImages,
    statistics: StepStatistics, checkpoints: CheckpointManager, stop: StopController, observers: Observers,
) -> Trainer:  # fmt: skip
    config, plan = request.config, request.plan
    pixels = DistributedInput(
        runtime, config.data, config.loop.seed, bad_images, request.group,
        train=request.train, validation=request.validation,
        augmentation=augment.Settings(config.augment, request.positive),
    )  # fmt: skip
    train_step, inputs = _steps_and_input(request, runtime, state, pixels, stop)
    evaluator = Evaluator(
        plan=plan, split=request.validation, positive=request.positive, monitor=config.loop.monitor,
        plateau_monitor=config.optim.plateau_monitor, state=state, train_step=train_step, inputs=inputs, stop=stop,
        pruner=_agreed(request.pruner, request.group), observers=observers,
    )  # fmt: skip
    return Trainer(
        plan=plan, machine=_machine(runtime), state=state, train_step=train_step, inputs=inputs, statistics=statistics,
        evaluator=evaluator, checkpoints=checkpoints, stop=stop, observers=observers,
    )  # fmt: skip


def _steps_and_input(
    request: Request, runtime: strategy_lib.Runtime, state: TrainState, pixels: DistributedInput, stop: StopController
) -> tuple[TrainStep | PhasedStep, DistributedInput | PhasedInput]:
    """Return the step on batches of pixels and their input; in front of them those of a frozen backbone, if asked."""
    config, paths = request.config, request.paths
    options: dict[str, Any] = {
        "batch_size": config.data.batch_size,
        "seed": config.loop.seed,
        "xla": runtime.xla,
        "shards": runtime.gradient_shards,
        "allreduce_dtype": runtime.allreduce_dtype,
        "average": state.average,
        "clip_norm": config.optim.clip_norm,
        "loss": Loss(config.loss, config.loss.weights_of(request.train.counts)),
    }
    parts = split_model.split(state.model)
    whole = TrainStep(
        runtime.strategy, state.model, state.optimizer, state.loss_scale, augmentation=config.data.augment,
        slow=parts.backbone.trainable_variables, slow_factor=config.optim.backbone_lr_factor,
        accumulate_steps=_accumulate_steps(config, runtime), **options,
    )  # fmt: skip
    if not request.plan.frozen_steps:
        return whole, pixels
    head = HeadStep(runtime.strategy, parts, state.optimizer, state.loss_scale, **options)
    extractor = FeatureExtractor(
        runtime, parts.backbone, pixels, request.group, stop, folder=paths.features, settings=config.decisive(),
        on_progress=functools.partial(files.remove, paths.restarts),
    )  # fmt: skip
    return PhasedStep(head, whole), PhasedInput(pixels, extractor, request.plan, state)


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
        JobFailed: if the checkpoints' precision cannot be used on this machine.
    """
    config, group = request.config, request.group
    kept = resume.checkpoint_inputs(request.paths) if request.is_chief and config.runtime.precision == "auto" else {}
    precision: str = group.broadcast(kept.get("precision", "") if request.is_chief else None)
    runtime = strategy_lib.setup(config.runtime, config.data, request.cluster, kept_precision=precision)
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
    """Refuse a job that starts again and again without progress, and a job_dir that is not shared."""
    if request.is_chief:
        resume.count_start(request.paths, step, request.config.loop.max_restarts_without_progress)
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
    }


def _log_devices_and_batch(request: Request, runtime: strategy_lib.Runtime) -> None:
    data, plan = request.config.data, request.plan
    log.info(
        "devices: %d x %s, %s, precision %s%s",
        runtime.num_devices, runtime.device_kind, type(runtime.strategy).__name__, runtime.precision,
        ", XLA" if runtime.xla else "",
    )  # fmt: skip
    log.info(
        "batch: %d images = %d devices x %d; %d train images; %d steps an epoch, %d epochs, %d steps",
        data.batch_size, runtime.num_devices, data.batch_size // runtime.num_devices, len(request.train),
        plan.steps_per_epoch, plan.epochs, plan.total_steps,
    )  # fmt: skip
