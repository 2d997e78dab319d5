"""One start of a job on the devices of this process: wire, restore, train, hand over.

Owns: the wiring of everything that needs TensorFlow.  Does not own: what happens at a step (``trainer.py``), cadence
(``loop.py``), maths (``train_step.py``), exports and reports (``exporter.py``).
"""

import contextlib
import dataclasses
import functools
import logging
import time
from collections.abc import Iterator

import tensorflow as tf

from trainer import __version__
from trainer.core import result as result_lib
from trainer.core.config import Config
from trainer.core.errors import Diverged, StoppedEarly
from trainer.core.job_dir import JobPaths
from trainer.core.signals import StopRequest
from trainer.data.bad_images import BadImages
from trainer.data.manifest import Split, positive_class_index
from trainer.distributed import consistency
from trainer.distributed import strategy as runtime_lib
from trainer.distributed.cluster import Cluster
from trainer.distributed.process_group import ProcessGroup, SingleProcess
from trainer.training import loop, resume
from trainer.training.checkpoint import CheckpointStore
from trainer.training.checkpoint_manager import CheckpointManager
from trainer.training.distributed_input import Batches, DistributedInput
from trainer.training.evaluator import Evaluator
from trainer.training.exporter import Exporter, now
from trainer.training.metrics_log import MetricsLog
from trainer.training.profiler import Profiler
from trainer.training.progress_bar import ProgressBar
from trainer.training.stop_controller import StopController
from trainer.training.tensorboard import TensorBoardReporter
from trainer.training.train_state import TrainState
from trainer.training.train_step import TrainStep

log = logging.getLogger(__name__)

# What a collective raises when it cannot reach another process.
_LOST = (tf.errors.UnavailableError, tf.errors.CancelledError, tf.errors.AbortedError, tf.errors.DeadlineExceededError,
         tf.errors.FailedPreconditionError, tf.errors.InternalError, tf.errors.UnknownError)  # fmt: skip


@contextlib.contextmanager
def one_fate(group: SingleProcess) -> Iterator[None]:
    """Let a collective that fails end this process as its peers end, and not with an error of its own.

    Raises:
        StoppedEarly: for such a failure.
    """
    try:
        yield
    except _LOST as error:
        if isinstance(group, ProcessGroup):
            raise group.explain(error) from error
        raise


@dataclasses.dataclass(kw_only=True, eq=False)
class TrainingLoop:
    """Trains, writes down, validates and saves whenever the loop says so.

    Attributes:
        split: of the training images.
    """

    plan: loop.Plan
    split: Split
    group: SingleProcess
    state: TrainState
    steps: TrainStep
    feed: DistributedInput
    skipped: BadImages
    halt: StopController
    keeper: CheckpointManager
    validation: Evaluator
    journal: MetricsLog
    progress: ProgressBar
    profile: Profiler

    def run(self) -> loop.StopReason:
        """Run the loop to its ending, with everything saved; a divergence goes back to a checkpoint if that is wanted.

        Raises:
            RequestError: if too many images are bad.
            JobFailed: if the loss diverged, or the last state could not be saved.
        """
        try:
            ending = self._run_until_it_ends()
        finally:
            self.profile.stop()
            self.progress.close()
            self.keeper.finish()
        self.keeper.note_saves()
        if self.group.index == 0:
            self.keeper.refuse_unsaved_end()
        return ending

    def _run_until_it_ends(self) -> loop.StopReason:
        while True:
            start = self.state.step
            batches = self.feed.training(self.split, start, self.plan.total_steps)
            self.journal.resume_clock()
            try:
                with contextlib.closing(batches):
                    return loop.run(
                        self.plan,
                        start,
                        train=functools.partial(self._train, batches),
                        log=self._log,
                        validate=self.validation.run,
                        save=self._save,
                        stop_requested=self.halt.poll,
                        validate_first=self.plan.ends_epoch(start) and self.state.validated < start,
                    )
            except Diverged as divergence:
                self.keeper.roll_back(divergence)

    def _train(self, batches: Batches, step: int) -> None:
        asked = time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - asked
        rate = self.state.schedule.rate(step)
        self.state.optimizer.learning_rate = rate
        with self.profile.step(step + 1):
            stats = self.steps.train(batch, tf.constant(step, tf.int64))
        self.state.step = step + 1
        self.journal.add(self.state.step, rate, stats, waited)
        self.progress.step(self.state.step)

    def _log(self, done: int, *, force: bool = False) -> None:
        window = None
        try:
            window = self.journal.fetch(force=force or self.plan.ends_epoch(done))
        except Diverged as divergence:
            self.halt.diverged(divergence)
        if window is not None:
            self.progress.window(window)
        self.feed.check_bad_images()
        self.keeper.note_saves()

    def _save(self, done: int, *, must: bool) -> None:
        self._log(done, force=True)
        if must:
            consistency.merge_skipped(self.group, self.skipped)
            self.feed.check_bad_images()
        self.journal.flush()
        self.skipped.flush()
        if must or self.group.index == 0:  # The clock decides the others, so that only the chief comes here.
            try:
                self.keeper.save(must=must)
            except Diverged as divergence:
                if must:  # All processes are here.
                    raise
                self.halt.diverged(divergence)
        self.journal.resume_clock()


class Trainer:
    """A job from its newest checkpoint to its end or to a stop request."""

    def __init__(
        self,
        config: Config,
        cluster: Cluster,
        plan: loop.Plan,
        train: Split,
        validation: Split,
        stop: StopRequest,
        group: SingleProcess,
        judge: loop.Pruner | None = None,
    ) -> None:
        """Set up devices, state and files; nothing is computed yet.  All processes of the job do this together.

        Raises:
            RequestError: if devices, precision or the checkpoints in job_dir do not fit the request.
            JobFailed: if the job has started too often without getting further.
        """
        started = time.monotonic()
        self._config, self._cluster, self._plan, self._stop, self._group = config, cluster, plan, stop, group
        self._train_split, self._validation_split = train, validation
        self._paths = JobPaths(config.loop.job_dir)
        positive = positive_class_index(train.class_names, config.export.positive_class)
        self._runtime = _same_runtime(config, cluster, group)
        self._skipped = BadImages(self._paths.skipped, config.data.max_bad_fraction, write=cluster.is_chief)
        self._state = TrainState.fresh(
            config, self._runtime, num_classes=len(train.class_names), total_steps=plan.total_steps
        )
        self._steps = self._make_steps()
        self._store = CheckpointStore(self._paths.checkpoints, config.checkpoint.keep_checkpoints)
        self._journal = MetricsLog(self._paths, plan, write=cluster.is_chief)
        self._board = TensorBoardReporter(
            config, self._journal.events, train, validation, positive=positive, write=cluster.is_chief
        )
        keeper = CheckpointManager(config, group, self._store, self._state, self._journal, self._inputs())
        keeper.restore()
        if cluster.is_chief:
            resume.count_start(self._paths, self._state.step, config.loop.max_restarts_without_progress)
        consistency.require_shared(group, self._paths.restarts)
        self._halt = StopController(
            group, stop, max_seconds=config.loop.max_seconds, started=started, announce=keeper.announce_stop
        )
        self._course = self._make_course(keeper, judge, positive)

    def _inputs(self) -> dict[str, str]:
        """Return what a checkpoint must agree with beside the settings."""
        return {
            "train images": self._train_split.fingerprint,
            "validation images": self._validation_split.fingerprint,
            "precision": self._runtime.precision,
        }

    def _make_steps(self) -> TrainStep:
        config, runtime, state = self._config, self._runtime, self._state
        return TrainStep(
            runtime.strategy,
            state.model,
            state.optimizer,
            state.loss_scale,
            batch_size=config.data.batch_size,
            seed=config.loop.seed,
            augmentation=config.data.augment,
            xla=config.runtime.xla,
            shards=runtime.gradient_shards,
            allreduce_dtype=runtime.allreduce_dtype,
        )

    def _make_course(self, keeper: CheckpointManager, judge: loop.Pruner | None, positive: int) -> TrainingLoop:
        """Wire what happens at the steps from the restored one on."""
        config, plan, state, steps, halt = self._config, self._plan, self._state, self._steps, self._halt
        group, journal, is_chief = self._group, self._journal, self._cluster.is_chief
        feed = DistributedInput(self._runtime, config.data, config.loop.seed, self._skipped)
        progress = ProgressBar(plan, state.step, show=is_chief)
        profile = Profiler(config.loop.profiled, self._paths.tensorboard, state.step, write=is_chief)
        validation = Evaluator(
            config=config, plan=plan, split=self._validation_split, positive=positive, group=group, judge=judge,
            state=state, steps=steps, feed=feed, halt=halt, journal=journal, board=self._board, progress=progress,
        )  # fmt: skip
        return TrainingLoop(
            plan=plan, split=self._train_split, group=group, state=state, steps=steps, feed=feed, skipped=self._skipped,
            halt=halt, keeper=keeper, validation=validation, journal=journal, progress=progress, profile=profile,
        )  # fmt: skip

    def run(self) -> result_lib.Result:
        """Train to the end and hand over the exports, the report and ``result.json``.

        Raises:
            StoppedEarly: after a stop request or at the time limit, with everything saved.
            RequestError: if too many images are bad.
            JobFailed: if the loss diverged, or the last state could not be saved.
        """
        self._announce()
        self._stop.at_once = ""  # From here on a step is finished and saved first.
        ending = self._state.ending or self._train()
        self._stop.at_once = "while exporting, all training state saved; start the same command again to go on"
        return self._hand_over(ending)

    def _announce(self) -> None:
        runtime, data, plan = self._runtime, self._config.data, self._plan
        log.info(
            "devices: %d x %s, %s, precision %s%s",
            runtime.num_devices, runtime.device_kind, type(runtime.strategy).__name__, runtime.precision,
            ", XLA" if self._config.runtime.xla else "",
        )  # fmt: skip
        log.info(
            "batch: %d images = %d devices x %d; %d train images; %d steps an epoch, %d epochs, %d steps",
            data.batch_size, runtime.num_devices, data.batch_size // runtime.num_devices, len(self._train_split),
            plan.steps_per_epoch, plan.epochs, plan.total_steps,
        )  # fmt: skip
        self._journal.line(
            "start", self._state.step, version=__version__, tensorflow=tf.__version__, precision=runtime.precision,
            num_devices=runtime.num_devices, device_kind=runtime.device_kind, total_steps=plan.total_steps, time=now(),
        )  # fmt: skip

    def _train(self) -> loop.StopReason:
        """Train until the job ends for good.

        Raises:
            StoppedEarly: if it stops before.
        """
        self._board.start(self._state.step, self._state.model)
        ending = self._course.run()
        if ending is loop.StopReason.STOP_REQUEST:
            raise StoppedEarly(
                f"{self._halt.cause} at step {self._state.step} of {self._plan.total_steps}, state "
                f"saved in {self._paths.checkpoints}; start the same command again to go on"
            )
        return ending

    def _hand_over(self, ending: loop.StopReason) -> result_lib.Result:
        """Let the chief make what a job leaves behind; the others wait for the result."""
        self._group.mark_training_done()
        made = dataclasses.asdict(self._make_result(ending)) if self._cluster.is_chief else None
        return result_lib.Result(**self._group.broadcast(made))

    def _make_result(self, ending: loop.StopReason) -> result_lib.Result:
        journal = self._journal
        result = Exporter(
            self._config, self._plan, self._runtime, self._state, self._store, self._train_split, self._validation_split
        ).result(
            ending,
            images_per_second=self._images_per_second(),
            skipped={
                split.name: self._skipped.count(split.name) for split in (self._train_split, self._validation_split)
            },
        )
        journal.line("end", self._state.step, status=result.status, stopped_by=result.stopped_by)
        result.write(self._paths.result)
        return result

    def _images_per_second(self) -> float:
        """Return this start's training speed; of a job that only exports, what an earlier result says."""
        if self._journal.seconds:
            return round(self._journal.images / self._journal.seconds, 2)
        earlier = result_lib.read(self._paths.result)
        return earlier.images_per_second if earlier else 0.0


def _same_runtime(config: Config, cluster: Cluster, group: SingleProcess) -> runtime_lib.Runtime:
    """Set up this process's devices and precision, which must be those of all processes.

    Raises:
        RequestError: if they are not, or do not fit the request.
    """
    runtime = runtime_lib.setup(config.runtime, config.data, cluster)
    choice = {name: getattr(runtime, name) for name in ("precision", "device_kind", "local_devices")}
    consistency.require_same(group, choice, "name it with --precision or --num_devices, or use equal machines")
    return runtime
