"""One start of a job on the devices of this process: what it is about, and its run from training to the result.

Does not own: how its parts are made (``start/build.py``), the run of the loop (``trainer.py``), what is checked without
TensorFlow (``run.py``), how exports and reports are made (``exports/exporter.py``).
"""

import contextlib
import dataclasses
import logging
from collections.abc import Iterator, Sequence

import tensorflow as tf

from trainer.core import result as result_lib
from trainer.core.config import Config
from trainer.core.errors import StoppedEarly, StorageDown
from trainer.core.job_dir import JobPaths
from trainer.core.signals import StopRequest
from trainer.core.storage import files, transient
from trainer.data import interruptible
from trainer.data.bad_images import BadImages
from trainer.data.manifest import Split
from trainer.data.order import Order
from trainer.data.positive_class import positive_class_index
from trainer.distributed import strategy as strategy_lib
from trainer.distributed.cluster import Cluster
from trainer.distributed.process_group import ProcessGroup, SingleProcess
from trainer.training import loop
from trainer.training.exports.exporter import Exporter
from trainer.training.exports.live_report import LiveReport
from trainer.training.metrics_log import MetricsLog
from trainer.training.observers import Observer
from trainer.training.start.clock import StartClock
from trainer.training.start.time_left import Series
from trainer.training.trackers import Trackers
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
        clock: of this start.
        series: that the job is part of.
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
    clock: StartClock = dataclasses.field(default_factory=StartClock)
    series: Series | None = None

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
    """A job from its newest checkpoint to its end or to a stop request; ``start.build`` makes one."""

    request: Request
    runtime: strategy_lib.Runtime
    bad_images: BadImages
    trainer: Trainer
    exporter: Exporter
    metrics_log: MetricsLog
    trackers: Trackers
    report: LiveReport

    def run(self) -> result_lib.Result:
        """Train to the end; export, and write the report and ``result.json``.

        Raises:
            StoppedEarly: after a stop request or at the time limit, with everything saved.
            RequestError: if too many images are bad.
            JobFailed: if the loss diverged, or the last state could not be saved.
        """
        with self.trackers.ending():
            # What a lost peer raises is told apart here already, so that the report says "stopped", not "failed".
            with self.report.outcome(), failing_together(self.request.group):
                result = self._run()
            self.trackers.tell(result)
        return result

    def _run(self) -> result_lib.Result:
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


def _passes(passes: float) -> str:
    """Return in words how often an epoch sees an image, if that is more than once."""
    return f" ({passes:.1f} passes over them)" if passes > 1 else ""


def _log_devices_and_batch(request: Request, runtime: strategy_lib.Runtime) -> None:
    data, plan = request.config.data, request.plan
    one_pass = Order(len(request.train), data.batch_size).steps_per_pass
    log.info(
        "devices: %d x %s, %s, precision %s%s",
        runtime.num_devices, runtime.device_kind, type(runtime.strategy).__name__, runtime.precision,
        ", XLA" if runtime.xla else "",
    )  # fmt: skip
    log.info(
        "batch: %d images = %d device%s x %d; %d train images; %d steps an epoch%s, %d epoch%s, %d steps",
        data.batch_size, runtime.num_devices, "s" * (runtime.num_devices > 1),
        data.batch_size // runtime.num_devices, len(request.train),
        plan.steps_per_epoch, _passes(plan.steps_per_epoch / one_pass),
        plan.epochs, "s" * (plan.epochs > 1), plan.total_steps,
    )  # fmt: skip
