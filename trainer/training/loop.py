"""The cadence of training: when to train, log, validate, save and stop.

Does not own: what happens then (``trainer.py``).  Knows only steps and a clock, not models, files or devices.
"""

import dataclasses
import enum
import time
from collections.abc import Callable, Mapping

# Gets an epoch, from 1, and its validation loss, accuracy and auc; returns why to prune the job, empty to continue.
Pruner = Callable[[int, Mapping[str, float | None]], str]

# Of --steps_per_execution=auto.  A stop request waits for so many steps, and the pixels of three times as many may be
# on the device: of a call that runs, in one piece, and of the next one.
_STEPS_ON_GPU = 8
_BYTES_ON_GPU = 2**29


@dataclasses.dataclass(frozen=True)
class Plan:
    """The cadence of a job, in steps except for ``checkpoint_every_seconds``.

    Attributes:
        total_steps: steps of the whole job.
        steps_per_epoch: steps between validations.
        log_every_steps: steps between log calls.
        checkpoint_every_steps: steps between saves inside an epoch; 0: none.
        checkpoint_every_seconds: seconds between saves inside an epoch; 0: none.
        frozen_steps: steps of the first epochs, in which only the last layer is trained (``frozen/``); 0: none.
        pauses: numbers of steps done after which observers act, such as a profiler that begins.
        steps_per_execution: steps in one call of the graph at most, in which nothing happens on the host.
    """

    total_steps: int
    steps_per_epoch: int
    log_every_steps: int = 1
    checkpoint_every_steps: int = 0
    checkpoint_every_seconds: float = 0.0
    frozen_steps: int = 0
    pauses: tuple[int, ...] = ()
    steps_per_execution: int = 1

    def epoch_of(self, step: int) -> int:
        """Return the epoch, from 1, that the ``step``-th step (from 1) belongs to."""
        return max(step - 1, 0) // self.steps_per_epoch + 1

    def ends_epoch(self, step: int) -> bool:
        """Return whether an epoch ends with the ``step``-th step."""
        return step % self.steps_per_epoch == 0

    @property
    def epochs(self) -> int:
        """Epochs of the whole job."""
        return -(-self.total_steps // self.steps_per_epoch)

    def starts_fine_tuning(self, step: int) -> bool:
        """Return whether the step with this number, from 0, is the first of the layers that were frozen."""
        return step > 0 and step == self.frozen_steps

    def steps_at_once(self, step: int) -> int:
        """Return how many steps may follow the first ``step`` ones without anything on the host in between.

        A train line may end among them: its numbers stay on the device anyway.
        """
        every = (self.steps_per_epoch, self.checkpoint_every_steps)
        ends = [step + self.steps_per_execution, self.total_steps, self.frozen_steps, *self.pauses]
        ends += [(step // count + 1) * count for count in every if count]
        return min(end for end in ends if end > step) - step

    def logs_at(self, step: int) -> bool:
        """Return whether a train line ends with the ``step``-th step."""
        return step % self.log_every_steps == 0 or self.ends_epoch(step)


def automatic_steps_per_execution(device_kind: str, batch_bytes: int) -> int:
    """Return the value of ``--steps_per_execution=auto``.

    A CPU has nothing to gain: there the host's work between two steps is no wait of another device.

    Args:
        device_kind: GPU or CPU.
        batch_bytes: of the pixels of one replica's batch, so many of which lie on its device at the same time.
    """
    return max(min(_STEPS_ON_GPU, _BYTES_ON_GPU // batch_bytes), 1) if device_kind == "GPU" else 1


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
    train: Callable[[int], int],
    log: Callable[[int], None],
    validate: Callable[[int], StopReason | None],
    save: Callable[..., None],
    stop_requested: Callable[[], bool],
    validate_first: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> StopReason:
    """Run from ``start_step`` until there is a reason to stop.

    Args:
        plan: the cadence.
        start_step: steps done so far.
        train: does the step with this number, from 0, and perhaps those up to ``Plan.steps_at_once``; returns the
            steps done then.
        log: called with the steps done after every call of ``train``.
        validate: called with the steps done at the end of every epoch; returns a reason to stop for good, or None,
            also if a stop request interrupted it.
        save: called with the steps done and ``must``: at the end of an epoch and before stopping the state must be
            saved, in between a save may be skipped.
        stop_requested: called after every call of ``train``; True ends the loop with everything saved.
        validate_first: whether to validate before the first step, as the last start was interrupted there.
        clock: seconds, monotonic.
    """
    step = start_step
    saves = _Saves(plan, save, clock)
    skip_step = validate_first
    while skip_step or step < plan.total_steps:
        if not skip_step:
            step = train(step)
            log(step)
        skip_step = False
        # Validation comes before the save, so that its decisions are in the checkpoint of the epoch's end.
        epoch_ends = plan.ends_epoch(step)
        reason = validate(step) if epoch_ends else None
        # The request comes after the validation, which may have been interrupted by it.
        stopping = stop_requested()
        saves.after(step, must=epoch_ends or stopping)
        # A stop request wins: the reason is in the checkpoint, and the next start finds it there.
        if stopping:
            return StopReason.STOP_REQUEST
        if reason:
            return reason
    return StopReason.EPOCHS


class _Saves:
    """When to save, by steps and by the time since the last save."""

    def __init__(self, plan: Plan, save: Callable[..., None], clock: Callable[[], float]) -> None:
        self._plan, self._save, self._clock = plan, save, clock
        self._saved_at = clock()

    def after(self, step: int, *, must: bool) -> None:
        """Save after so many steps if a save is due, or if it ``must`` be."""
        if must or self._is_due(step):
            self._save(step, must=must)
            self._saved_at = self._clock()

    def _is_due(self, step: int) -> bool:
        every, seconds = self._plan.checkpoint_every_steps, self._plan.checkpoint_every_seconds
        by_steps = every and step % every == 0
        return bool(by_steps or (seconds and self._clock() - self._saved_at >= seconds))
