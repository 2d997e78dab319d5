"""Restore and save checkpoints of a running job.

Owns: which checkpoint a start or a rollback continues from, and which state may become a checkpoint.
Does not own: the files (``checkpoint.py``), the writing thread (``writer.py``), what the state consists of
(``train_state.py``), whether the settings allow a job to continue (``resume.py``).
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np

from trainer.core.config import Config
from trainer.core.errors import Diverged, JobFailed, RequestError, StorageDown
from trainer.core.job_dir import JobPaths
from trainer.distributed.process_group import SingleProcess
from trainer.training.checkpoints.checkpoint import Checkpoint, CheckpointStore, DamagedCheckpoint
from trainer.training.checkpoints.writer import AsyncCheckpointWriter, Saved
from trainer.training.step_stats import StepStatistics
from trainer.training.train_state import TrainState

log = logging.getLogger(__name__)

_MAX_ROLLBACKS = 5


class CheckpointManager:
    """Moves a job's state from and to its checkpoints; only the chief writes."""

    def __init__(
        self, config: Config, group: SingleProcess, store: CheckpointStore, state: TrainState,
        statistics: StepStatistics, inputs: dict[str, str], *, before_save: Sequence[Callable[[], None]] = (),
    ) -> None:  # fmt: skip
        """Bind the state and where it is kept.

        Args:
            config: of the job.
            group: of all processes.
            store: the job's checkpoints.
            state: what a checkpoint holds.
            statistics: their unfinished train line is part of a checkpoint, too.
            inputs: what a checkpoint must agree with besides the settings, by name.
            before_save: flush logs, so that a checkpoint never knows more steps than they do.
        """
        self._config = config
        self._group = group
        self._store = store
        self._state = state
        self._statistics = statistics
        self._inputs = inputs
        self._before_save = before_save
        self._paths = JobPaths(config.loop.job_dir)
        self._writer = AsyncCheckpointWriter(store)
        self._abandoned: set[int] = set()  # Steps whose checkpoints rollbacks removed, and that were not saved again.
        group.on_abort(self._writer.finish)

    def restore(self) -> None:
        """Restore the newest checkpoint (the chief picks the step); without one, keep the initial state.

        Raises:
            RequestError: if a checkpoint is required and there is none, or it was made from other inputs.
        """
        # All processes read the step that the chief chose, even if they see a newer one.
        checkpoint = newest_checkpoint(self._group, self._store)
        if self._group.index == 0:  # It holds the lock: whatever is unfinished was left by a dead process.
            self._store.remove_leftovers()
        if checkpoint is None:
            if self._config.checkpoint.resume == "required":
                raise RequestError(
                    f"--resume=required: expected a checkpoint in {self._paths.checkpoints!r}, received none; check "
                    "--job_dir or use --resume=auto"
                )
            return
        # Other images or another precision would change the result without a word.
        self._refuse_other_inputs(checkpoint)
        self._apply(checkpoint)
        log.info("continuing from step %d (%s)", checkpoint.step, self._paths.checkpoints)

    def roll_back(self, divergence: Diverged) -> None:
        """Restore an earlier checkpoint and halve the learning rate; each further divergence skips one more.

        Weights can be on their way to infinity long before the loss is, so the newest checkpoint may not help.

        Raises:
            JobFailed: if rollbacks are off, nothing can be restored, or it was done too often.
        """
        rollbacks = self._state.schedule.rollbacks + 1
        # A write that still runs may be of the newest checkpoint.
        self._writer.finish()
        is_enabled = self._config.loop.on_divergence == "rollback"
        skip = rollbacks - 1 - len(self._abandoned)
        checkpoint = newest_checkpoint(self._group, self._store, skip=max(skip, 0)) if is_enabled else None
        if checkpoint is None or rollbacks > _MAX_ROLLBACKS:
            raise JobFailed(str(divergence)) from divergence
        self._apply(checkpoint)
        # The checkpoint holds the count of its own time, so the rate is lowered for every rollback since.
        while self._state.schedule.rollbacks < rollbacks:
            self._state.schedule.lower()
        log.warning("%s; back to step %d, learning rate now %.1e",
                    divergence, checkpoint.step, self._state.schedule.rate(checkpoint.step))  # fmt: skip
        self._group.gather(None)  # All have read the checkpoint, whose files are replaced now.
        self._abandon_later_course(checkpoint.step)

    def _abandon_later_course(self, step: int) -> None:
        """Make the rollback to a step last: a later start must neither take a newer checkpoint nor forget the count.

        The lower rate is saved first: a kill before the removal makes the next start diverge and roll back once more.
        """
        if self._group.index != 0:
            return
        self._writer.save(self._snapshot(), best_step=self._state.stopping.best_step, wait=True)
        self._writer.finish()
        self._writer.collect()  # The later ones are void, and this one is announced already.
        self._abandoned |= {later for later in self._store.steps() if later > step}
        self._store.remove_after(step)

    def save(self, *, must: bool) -> None:
        """Start to write the state as it is.

        Args:
            must: all processes are here: wait for an earlier write that still runs.  Otherwise this save is skipped
                in that case, and only the chief saves, as the clocks of the processes differ.

        Raises:
            Diverged: if a weight is NaN or infinite.
        """
        # The logs come first: a kill between the two must not leave a checkpoint ahead of them.
        for flush in self._before_save:
            flush()
        if not must and self._group.index != 0:
            return
        # A copy in host memory, which training does not change while it is written.
        checkpoint = self._snapshot()
        _refuse_non_finite(checkpoint)
        if self._group.index == 0:
            self._abandoned.discard(checkpoint.step)
            self._writer.save(checkpoint, best_step=self._state.stopping.best_step, wait=must)

    def _snapshot(self) -> Checkpoint:
        return self._state.snapshot(inputs=self._inputs, journal=self._statistics.state())

    def collect_saved(self) -> list[Saved]:
        """Return the checkpoints that reached the disk since the last call.

        Raises:
            StoppedEarly: if this job may no longer write.
        """
        return [saved for saved in self._writer.collect() if not saved.error]

    def announce_stop(self, reason: str) -> None:
        """Log which step is saved before a stop, and how long that may take."""
        saved = self._writer.last
        took = f"; the last save took {saved.seconds:.1f} s" if saved else ""
        log.info("%s: saving step %d%s", reason, self._state.step, took)

    def finish(self) -> None:
        """Wait until nothing is being written."""
        self._writer.finish()

    def refuse_unsaved_end(self) -> None:
        """Fail if the last state is not on the disk, so that the exit code tells.

        Raises:
            JobFailed: if so; in the chief.
            StorageDown: if so, and the cause may pass by itself.
        """
        last = self._writer.last
        if last is not None and (last.error or last.step != self._state.step):
            kind = StorageDown if last.may_pass else JobFailed
            raise kind(
                f"the state of step {self._state.step} could not be saved ({last.error or 'not written'}); free space "
                "or repair the folder, then rerun the same command: it continues from the newest complete checkpoint"
            )

    def _apply(self, checkpoint: Checkpoint) -> None:
        self._state.restore(checkpoint)
        self._statistics.restore(checkpoint.state["journal"])

    def _refuse_other_inputs(self, checkpoint: Checkpoint) -> None:
        before = checkpoint.state["inputs"]
        differing = [name for name, value in self._inputs.items() if before[name] != value]
        if differing:
            raise RequestError(
                f"expected the {' and '.join(differing)} that {self._paths.job_dir!r} was started with, received other "
                "ones; restore them (for precision pass the old one, see result.json or the log), use another "
                "--job_dir, or start over with --resume=never"
            )


def _refuse_non_finite(checkpoint: Checkpoint) -> None:
    """Keep NaN and infinite weights out of the checkpoints; the last loss before them can be finite.

    Raises:
        Diverged: if there are any.
    """
    bad = [name for name, array in checkpoint.arrays.items() if not np.isfinite(array).all()]
    if bad:
        raise Diverged(
            f"{bad[0]} is not finite after step {checkpoint.step}; lower --learning_rate, or use --precision=float32"
        )


def newest_checkpoint(group: SingleProcess, store: CheckpointStore, *, skip: int = 0) -> Checkpoint | None:
    """Return the checkpoint that the chief chooses, see ``CheckpointStore.newest``; None if it has none.

    Raises:
        RequestError: if all are damaged, or a process cannot see what the chief sees.
    """
    if group.index == 0:
        checkpoint = store.newest(skip=skip)
        group.broadcast(checkpoint.step if checkpoint else None)
        return checkpoint
    step = group.broadcast(None)
    if step is None:
        return None
    try:
        return store.read(int(step))
    except DamagedCheckpoint as damage:
        raise RequestError(
            f"--job_dir: expected to find the chief's checkpoint {store.path(int(step))!r}, received {damage}; job_dir "
            "must be a folder that all processes share"
        ) from damage
