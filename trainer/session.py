"""One start of a job on the devices of this process: restore, loop, hand over.

Owns: the wiring of everything that needs TensorFlow.  Does not own: maths (``step.py``), cadence (``loop.py``),
exports and reports (``handover.py``).
"""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from trainer import __version__, agreement, loop, metrics, restarts
from trainer import result as result_lib
from trainer import runtime as runtime_lib
from trainer.checkpoint import Checkpoint, CheckpointStore
from trainer.cluster import Cluster
from trainer.config import Config
from trainer.data.manifest import Split, positive_class_index
from trainer.data.skipped import Skipped
from trainer.errors import Diverged, JobFailed, RequestError, StoppedEarly
from trainer.feed import Feed
from trainer.handover import Handover, now
from trainer.journal import Journal
from trainer.paths import JobPaths
from trainer.peers import Alone, Event, Group
from trainer.progress import Progress
from trainer.saver import Saver
from trainer.signals import StopRequest
from trainer.state import State
from trainer.step import Steps

log = logging.getLogger(__name__)

_MAX_ROLLBACKS = 5

# What a collective raises when it cannot reach another process.
_LOST = (tf.errors.UnavailableError, tf.errors.CancelledError, tf.errors.AbortedError, tf.errors.DeadlineExceededError,
         tf.errors.FailedPreconditionError, tf.errors.InternalError, tf.errors.UnknownError)  # fmt: skip


@contextlib.contextmanager
def one_fate(group: Alone) -> Iterator[None]:
    """Let a collective that fails end this process as its peers end, and not with an error of its own.

    Raises:
        StoppedEarly: for such a failure.
    """
    try:
        yield
    except _LOST as error:
        if isinstance(group, Group):
            raise group.explain(error) from error
        raise


class Session:
    """A job from its newest checkpoint to its end or to a stop request."""

    def __init__(
        self,
        config: Config,
        cluster: Cluster,
        plan: loop.Plan,
        train: Split,
        validation: Split,
        stop: StopRequest,
        group: Alone,
        judge: loop.Judge | None = None,
    ) -> None:
        """Set up devices, state and files; nothing is computed yet.  All processes of the job do this together.

        Raises:
            RequestError: if devices, precision or the checkpoints in job_dir do not fit the request.
            JobFailed: if the job has started too often without getting further.
        """
        self._started, self._stopping, self._stop = time.monotonic(), False, stop
        self._divergence: Diverged | None = None  # Found by this process, not yet acted upon by all.
        self._config, self._cluster, self._plan, self._group, self._judge = config, cluster, plan, group, judge
        self._train_split, self._validation_split = train, validation
        self._paths = JobPaths(config.loop.job_dir)
        self._positive = positive_class_index(train.class_names, config.export.positive_class)
        self._runtime = runtime_lib.setup(config.runtime, config.data, cluster)
        choice = {name: getattr(self._runtime, name) for name in ("precision", "device_kind", "local_devices")}
        agreement.require_same(group, choice, "name it with --precision or --num_devices, or use equal machines")
        self._skipped = Skipped(self._paths.skipped, config.data.max_bad_fraction, write=cluster.is_chief)
        self._state = State.fresh(
            config, self._runtime, num_classes=len(train.class_names), total_steps=plan.total_steps
        )
        self._steps = Steps(
            self._runtime.strategy,
            self._state.model,
            self._state.optimizer,
            self._state.loss_scale,
            batch_size=config.data.batch_size,
            seed=config.loop.seed,
            augmentation=config.data.augment,
            xla=config.runtime.xla,
            shards=self._runtime.gradient_shards,
            wire_dtype=self._runtime.wire_dtype,
        )
        self._feed = Feed(self._runtime, config.data, config.loop.seed, self._skipped)
        self._store = CheckpointStore(self._paths.checkpoints, config.checkpoint.keep_checkpoints)
        self._saver = Saver(self._store)
        group.before_end(self._saver.finish)
        self._journal = Journal(self._paths, plan, write=cluster.is_chief)
        self._restore()
        if cluster.is_chief:
            restarts.count_start(self._paths, self._state.step, config.loop.max_restarts_without_progress)
        agreement.require_shared(group, self._paths.restarts)
        self._progress = Progress(plan, self._state.step, show=cluster.is_chief)

    def run(self) -> result_lib.Result:
        """Train to the end and hand over the exports, the report and ``result.json``.

        Raises:
            StoppedEarly: after a stop request or at the time limit, with everything saved.
            RequestError: if too many images are bad.
            JobFailed: if the loss diverged, or the last state could not be saved.
        """
        self._announce()
        self._stop.at_once = ""  # From here on a step is finished and saved first.
        ending = self._verdict() or self._loop()
        self._stop.at_once = "while exporting, all training state saved; start the same command again to go on"
        return self._hand_over(ending)

    def _hand_over(self, ending: loop.Ending) -> result_lib.Result:
        """Let the chief make what a job leaves behind; the others wait for the result."""
        self._group.training_over()
        made = dataclasses.asdict(self._make_result(ending)) if self._cluster.is_chief else None
        return result_lib.Result(**self._group.share(made))

    def _make_result(self, ending: loop.Ending) -> result_lib.Result:
        journal = self._journal
        result = Handover(
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

    def _restore(self) -> None:
        checkpoint = agreement.newest_checkpoint(self._group, self._store)
        if checkpoint is None:
            if self._config.checkpoint.resume == "required":
                raise RequestError(
                    f"--resume=required: expected a checkpoint in {self._paths.checkpoints!r}, received none; check "
                    "--job_dir or use --resume=auto"
                )
            self._journal.continue_from(0)
            return
        self._refuse_other_inputs(checkpoint)
        self._become(checkpoint)
        log.info("continuing from step %d (%s)", checkpoint.step, self._paths.checkpoints)

    def _become(self, checkpoint: Checkpoint) -> None:
        self._state.restore(checkpoint)
        self._journal.restore(checkpoint.state["journal"])
        self._journal.continue_from(checkpoint.step)

    def _inputs(self) -> dict[str, str]:
        """Return what a checkpoint must agree with beside the settings."""
        return {
            "train images": self._train_split.fingerprint,
            "validation images": self._validation_split.fingerprint,
            "precision": self._runtime.precision,
        }

    def _refuse_other_inputs(self, checkpoint: Checkpoint) -> None:
        before = checkpoint.state["inputs"]
        differing = [name for name, value in self._inputs().items() if before[name] != value]
        if differing:
            raise RequestError(
                f"expected the {' and '.join(differing)} that {self._paths.job_dir!r} was begun with, received other "
                "ones; restore them (for precision pass the old one, see result.json or the log), use another "
                "--job_dir, or start over with --resume=never"
            )

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

    def _loop(self) -> loop.Ending:
        try:
            ending = self._run_until_it_ends()
        finally:
            self._progress.close()
            self._saver.finish()
        self._note_saves()
        if self._cluster.is_chief:
            self._refuse_unsaved_end()
        if ending is loop.Ending.STOP_REQUEST:
            raise StoppedEarly(
                f"{self._stop.reason or '--max_seconds'} at step {self._state.step} of {self._plan.total_steps}, state "
                f"saved in {self._paths.checkpoints}; start the same command again to go on"
            )
        return ending

    def _run_until_it_ends(self) -> loop.Ending:
        """Run the loop; a divergence goes back to the newest checkpoint if that is wanted."""
        while True:
            batches = self._feed.training(self._train_split, self._state.step, self._plan.total_steps)
            self._journal.resume_clock()
            try:
                with contextlib.closing(batches) as self._batches:
                    return loop.run(
                        self._plan,
                        self._state.step,
                        train=self._train,
                        log=self._log,
                        validate=self._validate,
                        save=self._save,
                        stop_requested=self._should_stop,
                        validate_first=self._plan.ends_epoch(self._state.step)
                        and self._state.validated < self._state.step,
                    )
            except Diverged as divergence:
                self._roll_back(divergence)

    def _should_stop(self) -> bool:
        """Tell whether all processes stop here.

        Raises:
            Diverged: on all, if one of them has found that the loss is no number any more.
        """
        event = None if self._stopping else self._group.poll(self._wish())
        if event is not None and event.kind == "diverged":
            self._divergence = None
            raise Diverged(event.reason)
        if event is not None:
            saved = self._saver.last
            log.info("%s: saving step %d; the last save took %s", event.reason,
                     self._state.step, f"{saved.seconds:.1f} s" if saved else "place in an earlier start")  # fmt: skip
            self._stopping = True
        return self._stopping

    def _wish(self) -> Event | None:
        """Return what this process alone would do now."""
        if self._divergence is not None:
            return Event("diverged", str(self._divergence))
        limit = self._config.loop.max_seconds
        reason = self._stop.reason or ("--max_seconds" if 0 < limit <= time.monotonic() - self._started else "")
        where = f" of worker {self._group.index}" if self._group.size > 1 else ""
        return Event("stop", reason + where) if reason else None

    def _diverged(self, divergence: Diverged) -> None:
        """End the loop for a divergence: alone at once, with others at the step that all agree on."""
        if self._group.size == 1:
            raise divergence
        self._divergence = divergence

    def _roll_back(self, divergence: Diverged) -> None:
        """Return to the newest checkpoint with half the learning rate; at every further divergence to an older one.

        Weights can be on their way to infinity long before the loss is, so the newest checkpoint may be no help.

        Raises:
            JobFailed: if that is not wanted, not possible, or was done too often.
        """
        rollbacks = self._state.schedule.rollbacks + 1
        self._saver.finish()
        wanted = self._config.loop.on_divergence == "rollback"
        checkpoint = agreement.newest_checkpoint(self._group, self._store, skip=rollbacks - 1) if wanted else None
        if checkpoint is None or rollbacks > _MAX_ROLLBACKS:
            raise JobFailed(str(divergence)) from divergence
        self._become(checkpoint)
        while self._state.schedule.rollbacks < rollbacks:
            self._state.schedule.lower()
        log.warning("%s; back to step %d, learning rate now %.1e",
                    divergence, checkpoint.step, self._state.schedule.rate(checkpoint.step))  # fmt: skip

    def _train(self, step: int) -> None:
        asked = time.monotonic()
        batch = next(self._batches)
        waited = time.monotonic() - asked
        rate = self._state.schedule.rate(step)
        self._state.optimizer.learning_rate = rate
        stats = self._steps.train(batch, tf.constant(step, tf.int64))
        self._state.step = step + 1
        self._journal.add(self._state.step, rate, stats, waited)
        self._progress.step(self._state.step)

    def _log(self, done: int, *, force: bool = False) -> None:
        window = None
        try:
            window = self._journal.fetch(force=force or self._plan.ends_epoch(done))
        except Diverged as divergence:
            self._diverged(divergence)
        if window is not None:
            self._progress.window(window)
        self._settle_skipped()
        self._note_saves()

    def _settle_skipped(self) -> None:
        for line in self._skipped.settle():
            log.warning("%s", line)

    def _validate(self, done: int) -> loop.Ending | None:
        state, figures = self._state, self._evaluate()
        if figures is None:
            return None
        values: dict[str, Any] = {f"val_{name}": value for name, value in figures.items()}
        if not math.isfinite(values["val_loss"]):  # The last step broke the weights: they must not become a result.
            raise Diverged(
                f"the validation loss is not finite after step {done}; lower --learning_rate, or use "
                "--precision=float32"
            )
        values["learning_rate"] = state.schedule.rate(done - 1)
        values["best"] = state.stopping.update(done, values[self._config.loop.monitor])
        state.last, state.validated = values, done
        if values["best"]:
            state.best = values
        self._journal.validation(done, values)
        self._progress.epoch(done, values)
        if state.schedule.update(values):
            log.info("%s stopped improving: learning rate is now %.1e",
                     self._config.optim.plateau_monitor, state.schedule.rate(done))  # fmt: skip
        if self._judge and not state.stopping.stopped and done < self._plan.total_steps:
            epoch = self._plan.epoch_of(done)
            state.hopeless = self._group.share(self._judge(epoch, figures) if self._cluster.is_chief else None)
        self._journal.resume_clock()
        return self._verdict()

    def _verdict(self) -> loop.Ending | None:
        """Return how the job has ended for good; None if it goes on."""
        if self._state.stopping.stopped:
            return loop.Ending.EARLY_STOPPING
        return loop.Ending.PRUNED if self._state.hopeless else None

    def _evaluate(self) -> dict[str, float | None] | None:
        """Return loss, accuracy and auc over every decodable validation image, each counted once.

        None if a stop request broke it off: a large validation set must not outlast a spot node's notice, so the
        state is saved as it is and the next start validates first.
        """
        outputs = []
        for batch in self._feed.validation(self._validation_split):
            outputs.append(self._steps.evaluate(batch).numpy())
            if self._should_stop():
                return None
        self._settle_skipped()
        rows = np.concatenate(outputs)[: len(self._validation_split)]
        real = rows[:, -1] > 0.0
        if not real.any():
            raise RequestError("expected a validation image that can be decoded, received none; see skipped.jsonl")
        return metrics.validation_summary(self._validation_split.labels[real], rows[real, :-1], self._positive)

    def _save(self, done: int, *, must: bool) -> None:
        self._log(done, force=True)
        if must:
            agreement.merge_skipped(self._group, self._skipped)
            self._settle_skipped()
        self._journal.flush()
        self._skipped.flush()
        if must or self._cluster.is_chief:  # The clock decides the others, so that only the chief comes here.
            self._write_checkpoint(must=must)
        self._journal.resume_clock()

    def _write_checkpoint(self, *, must: bool) -> None:
        checkpoint = self._state.snapshot(inputs=self._inputs(), journal=self._journal.state())
        try:
            _refuse_non_finite(checkpoint)
        except Diverged as divergence:
            if must:  # All processes are here.
                raise
            self._diverged(divergence)
            return
        if self._cluster.is_chief:
            self._saver.save(checkpoint, best_step=self._state.stopping.best_step, wait=must)

    def _note_saves(self) -> None:
        for saved in self._saver.collect():
            if not saved.error:
                self._journal.line("checkpoint", saved.step, path=saved.path, seconds=round(saved.seconds, 3))

    def _refuse_unsaved_end(self) -> None:
        """Make the exit code tell if what was computed last is not on the disk.

        Raises:
            JobFailed: if so.
        """
        last = self._saver.last
        if last is not None and (last.error or last.step != self._state.step):
            raise JobFailed(
                f"the state of step {self._state.step} could not be saved ({last.error or 'not written'}); free space "
                "or repair the folder, then start the same command again: it continues from the newest whole checkpoint"
            )


def _refuse_non_finite(checkpoint: Checkpoint) -> None:
    """Keep weights that are no numbers out of the checkpoints; a finite loss can come just before them.

    Raises:
        Diverged: if there are any.
    """
    bad = [name for name, array in checkpoint.arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise Diverged(
            f"{bad[0]} is not finite after step {checkpoint.step}; lower --learning_rate, or use --precision=float32"
        )
