"""When things happen: train, log, validate, save, stop.  Knows steps, not models, files or devices."""

import dataclasses
import enum
import time
from collections.abc import Callable, Mapping

# Given an epoch, from 1, and its validation loss, accuracy and auc: why the job is hopeless; empty to train on.
Pruner = Callable[[int, Mapping[str, float | None]], str]


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cadence of a job, all in steps but for one.

    Attributes:
        total_steps: steps of the whole job.
        steps_per_epoch: steps between validations.
        log_every_steps: steps between log calls.
        checkpoint_every_steps: steps between saves inside an epoch; 0: none.
        checkpoint_every_seconds: seconds between saves inside an epoch; 0: none.
    """

    total_steps: int
    steps_per_epoch: int
    log_every_steps: int = 1
    checkpoint_every_steps: int = 0
    checkpoint_every_seconds: float = 0.0

    def epoch_of(self, step: int) -> int:
        """Return the epoch, from 1, that the ``step``-th step (from 1) belongs to."""
        return max(step - 1, 0) // self.steps_per_epoch + 1

    def ends_epoch(self, step: int) -> bool:
        """Tell whether an epoch ends with the ``step``-th step."""
        return step % self.steps_per_epoch == 0

    @property
    def epochs(self) -> int:
        """Epochs of the whole job."""
        return -(-self.total_steps // self.steps_per_epoch)

    def logs_at(self, step: int) -> bool:
        """Tell whether a train line ends with the ``step``-th step."""
        return step % self.log_every_steps == 0 or self.ends_epoch(step)


class StopReason(enum.Enum):
    """Why the loop returned."""

    EPOCHS = "epochs"
    EARLY_STOPPING = "early_stopping"
    PRUNED = "pruned"
    STOP_REQUEST = "stop_request"


def run(
    plan: Plan,
    start_step: int,
    *,
    train: Callable[[int], None],
    log: Callable[[int], None],
    validate: Callable[[int], StopReason | None],
    save: Callable[..., None],
    stop_requested: Callable[[], bool],
    validate_first: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> StopReason:
    """Run from ``start_step`` (steps done so far) to an ending.

    Args:
        plan: the cadence.
        start_step: steps done so far.
        train: does the step with this number, from 0.
        log: called with the steps done after every step.
        validate: called with the steps done at the end of every epoch; returns the ending if it asks to stop for good,
            and None otherwise, also if it broke off because of a stop request.
        save: called with the steps done and ``must``: at the end of an epoch and before stopping the state must be
            saved, in between a save may be given up.  Validation comes before the save of an epoch's end, so that
            its decisions are in the checkpoint.
        stop_requested: asked after every step; True ends the loop with everything saved.
        validate_first: whether the validation of ``start_step`` is still owed.
        clock: seconds, monotonic.
    """
    step, saved_at, owed = start_step, clock(), validate_first
    while owed or step < plan.total_steps:
        if not owed:
            train(step)
            step += 1
            log(step)
        owed = False
        epoch_ends = plan.ends_epoch(step)
        verdict = validate(step) if epoch_ends else None
        stopping = stop_requested()
        must = epoch_ends or stopping
        if must or _save_is_due(plan, step, clock() - saved_at):
            save(step, must=must)
            saved_at = clock()
        if stopping:
            return StopReason.STOP_REQUEST
        if verdict:
            return verdict
    return StopReason.EPOCHS


def _save_is_due(plan: Plan, step: int, seconds: float) -> bool:
    by_steps = plan.checkpoint_every_steps and step % plan.checkpoint_every_steps == 0
    by_time = plan.checkpoint_every_seconds and seconds >= plan.checkpoint_every_seconds
    return bool(by_steps or by_time)
