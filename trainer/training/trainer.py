"""The run of the training loop: step, log, validate, checkpoint, recover from divergence.

Owns: what happens at a step, and in which order.  Does not own: the wiring (``start/build.py``), exports and reports
(``job.py``), cadence (``loop.py``), maths (``train_step.py``), conditions to stop (``stop_controller.py``).
"""

import contextlib
import dataclasses
import functools
import time
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from trainer.core.errors import Diverged, JobFailed, StoppedEarly
from trainer.training import loop
from trainer.training.checkpoints.manager import CheckpointManager
from trainer.training.distributed_input import Batches, DistributedInput, InputDown
from trainer.training.evaluator import Evaluator
from trainer.training.execution import Execution
from trainer.training.frozen.phase import PhasedInput
from trainer.training.observers import Compile, End, Observer, SavedCheckpoint, Start, Step
from trainer.training.step_stats import StepStatistics
from trainer.training.stop_controller import StopController
from trainer.training.train_state import TrainState


@dataclasses.dataclass(kw_only=True, eq=False)
class Trainer:
    """Trains from the restored state to the end of the job or to a stop request.

    Attributes:
        plan: the cadence.
        machine: what observers learn about this process, see ``observers.Start``.
    """

    plan: loop.Plan
    machine: Mapping[str, Any]
    state: TrainState
    execution: Execution
    inputs: DistributedInput | PhasedInput
    statistics: StepStatistics
    evaluator: Evaluator
    checkpoints: CheckpointManager
    stop: StopController
    observers: Observer
    _is_compiled: bool = False
    _saved_step: int = 0  # Last step whose state a save began to write, and was not allowed to skip.

    def run(self) -> loop.StopReason:
        """Train until there is a reason to stop, with everything saved.

        Raises:
            RequestError: if too many images are bad.
            JobFailed: if the loss diverged, or the last state could not be saved.
        """
        reason = None
        try:
            self._announce_start(rollback=False)
            reason = self.state.stop_reason or self._run_with_rollbacks()
            self.checkpoints.finish()
            self._announce_checkpoints()
            self.checkpoints.refuse_unsaved_end()
        finally:
            self.checkpoints.finish()
            self.observers.on_end(End(self.state.step, reason))
        return reason

    def _run_with_rollbacks(self) -> loop.StopReason:
        """Run the loop; after a divergence, run it again from an earlier checkpoint if that is allowed."""
        while True:
            try:
                return self._run_loop()
            except Diverged as divergence:
                self.checkpoints.roll_back(divergence)
                self._announce_start(rollback=True)

    def _run_loop(self) -> loop.StopReason:
        start = self._saved_step = self.state.step  # Whatever it starts from is saved, or nothing was done.
        with (
            self._saving_without_input(),
            contextlib.closing(self.inputs.training(start, self.plan.total_steps)) as batches,
        ):
            self.statistics.resume_clock()
            return loop.run(
                self.plan,
                start,
                train=functools.partial(self._train, batches),
                log=self._log,
                validate=self._validate,
                save=self._save,
                stop_requested=self.stop.poll,
                # A stop request can interrupt a validation; it is made up for before the next step.
                validate_first=self.plan.ends_epoch(start) and self.state.validated < start,
            )

    @contextlib.contextmanager
    def _saving_without_input(self) -> Iterator[None]:
        """Save the last finished step if the next batch does not come.

        The other processes of a group are not asked: they may wait for this one inside a step.

        Raises:
            StoppedEarly: after that.
        """
        try:
            yield
        except InputDown as down:
            if self._saved_step != self.state.step:
                self._save_alone()
            saved = " with everything saved" if self.stop.is_chief else "; the next start continues from a checkpoint"
            raise StoppedEarly(f"{down}; stopped at step {self.state.step} of {self.plan.total_steps}{saved}") from down

    def _save_alone(self) -> None:
        """Save the last finished step without asking other processes.

        Raises:
            StoppedEarly: if that fails: what is in trouble may be more than the images, and may pass all the same.
        """
        with contextlib.suppress(Diverged):  # The next start repeats these steps and recovers from it.
            self._log(self.state.step, force=True)
            self.checkpoints.save(must=True)
        self.checkpoints.finish()
        try:
            self.checkpoints.refuse_unsaved_end()
        except JobFailed as failure:
            raise StoppedEarly(str(failure)) from failure

    def _train(self, batches: Batches, step: int) -> int:
        """Do the step with this number, from 0, and those that may share its call; their numbers stay on the device."""
        count = self.plan.steps_at_once(step)
        before = time.monotonic()
        ready = [next(batches) for _ in range(count)]
        waited = time.monotonic() - before
        if self.plan.starts_fine_tuning(step):
            self.state.start_fine_tuning()
        compiles = not self._is_compiled or self.plan.starts_fine_tuning(step)
        if compiles:
            self._is_compiled = True
            self.observers.on_compile(Compile(step))
        rates = [self.state.schedule.rate(number) for number in range(step, step + count)]
        with tf.profiler.experimental.Trace("train", step_num=step + 1, _r=1):  # Free unless a profile is running.
            rows = self.execution.train(ready, step, rates)
        self.state.step = step + count
        self.statistics.add(step + 1, rates, rows, waited, compiled=compiles)
        for number, rate in enumerate(rates, step + 1):
            self.observers.on_step(Step(number, rate))
        return step + count

    def _log(self, done: int, *, force: bool = False) -> None:
        """Fetch the numbers if it is time; then check everything that may have gone wrong in the background."""
        window = self.statistics.fetch(force=force or self.plan.ends_epoch(done))
        if window is not None:
            self.observers.on_window(window)
            if window.divergence:
                self.stop.report_divergence(Diverged(window.divergence))
        self.inputs.check_bad_images()
        self._announce_checkpoints()

    def _validate(self, done: int) -> loop.StopReason | None:
        reason = self.evaluator.run(done)
        self.statistics.resume_clock()
        return reason

    def _save(self, done: int, *, must: bool) -> None:
        # The state includes the unfinished train line, so the numbers of all steps have to be here.
        self._log(done, force=True)
        if must:
            self.inputs.check_bad_images(merge=True)
        try:
            self.checkpoints.save(must=must)
            self._saved_step = done if must else self._saved_step
        except Diverged as divergence:
            if must:  # All processes are here and raise it together.
                raise
            self.stop.report_divergence(divergence)
        self.statistics.resume_clock()

    def _announce_start(self, *, rollback: bool) -> None:
        state = self.state
        stopped = state.stop_reason is not None
        self.observers.on_start(
            Start(state.step, self.plan.total_steps, self.machine, rollback=rollback, stopped=stopped)
        )

    def _announce_checkpoints(self) -> None:
        for saved in self.checkpoints.collect_saved():
            self.observers.on_checkpoint(SavedCheckpoint(saved.step, saved.path, saved.seconds))
