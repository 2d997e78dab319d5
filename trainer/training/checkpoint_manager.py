"""A job's state on the disk: what a start or a rollback continues from, and what may become a checkpoint.

Does not own: the format (``checkpoint.py``), the writing thread (``checkpoint_writer.py``), whether the settings allow to go on
(``resume.py``).
"""

import logging

import numpy as np

from trainer.core.config import Config
from trainer.core.errors import Diverged, JobFailed, RequestError
from trainer.core.job_dir import JobPaths
from trainer.distributed.process_group import SingleProcess
from trainer.training.checkpoint import Checkpoint, CheckpointStore, DamagedCheckpoint
from trainer.training.checkpoint_writer import AsyncCheckpointWriter
from trainer.training.metrics_log import MetricsLog
from trainer.training.train_state import TrainState

log = logging.getLogger(__name__)

_MAX_ROLLBACKS = 5


class CheckpointManager:
    """Brings checkpoints into the state and journal of a running job, and writes theirs; only the chief writes."""

    def __init__(
        self, config: Config, group: SingleProcess, store: CheckpointStore, state: TrainState, journal: MetricsLog,
        inputs: dict[str, str],
    ) -> None:  # fmt: skip
        """Bind the state and where it is kept.

        Args:
            config: of the job.
            group: of all processes.
            store: the job's checkpoints.
            state: what a checkpoint holds.
            journal: its unfinished train line is in a checkpoint, too.
            inputs: what a checkpoint must agree with beside the settings, by name.
        """
        self._config, self._group, self._store = config, group, store
        self._state, self._journal, self._inputs = state, journal, inputs
        self._paths = JobPaths(config.loop.job_dir)
        self._saver = AsyncCheckpointWriter(store)
        group.on_abort(self._saver.finish)

    def restore(self) -> None:
        """Become the newest checkpoint that the chief chooses; without one, stay at the beginning.

        Raises:
            RequestError: if there must be one, or it is of other inputs.
        """
        checkpoint = newest_checkpoint(self._group, self._store)
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

    def roll_back(self, divergence: Diverged) -> None:
        """Return to the newest checkpoint with half the learning rate; at every further divergence to an older one.

        Weights can be on their way to infinity long before the loss is, so the newest checkpoint may be no help.

        Raises:
            JobFailed: if that is not wanted, not possible, or was done too often.
        """
        rollbacks = self._state.schedule.rollbacks + 1
        self._saver.finish()
        wanted = self._config.loop.on_divergence == "rollback"
        checkpoint = newest_checkpoint(self._group, self._store, skip=rollbacks - 1) if wanted else None
        if checkpoint is None or rollbacks > _MAX_ROLLBACKS:
            raise JobFailed(str(divergence)) from divergence
        self._become(checkpoint)
        while self._state.schedule.rollbacks < rollbacks:
            self._state.schedule.lower()
        log.warning("%s; back to step %d, learning rate now %.1e",
                    divergence, checkpoint.step, self._state.schedule.rate(checkpoint.step))  # fmt: skip

    def save(self, *, must: bool) -> None:
        """Begin to write the state as it is.

        Args:
            must: whether to wait for an earlier write that still runs; otherwise this one is given up.

        Raises:
            Diverged: if a weight is no number.
        """
        checkpoint = self._state.snapshot(inputs=self._inputs, journal=self._journal.state())
        _refuse_non_finite(checkpoint)
        if self._group.index == 0:
            self._saver.save(checkpoint, best_step=self._state.stopping.best_step, wait=must)

    def note_saves(self) -> None:
        """Write down the checkpoints that are on the disk since the last call."""
        for saved in self._saver.collect():
            if not saved.error:
                self._journal.line("checkpoint", saved.step, path=saved.path, seconds=round(saved.seconds, 3))

    def announce_stop(self, reason: str) -> None:
        """Log which step is saved before a stop, and how long that may take."""
        saved = self._saver.last
        log.info("%s: saving step %d; the last save took %s", reason,
                 self._state.step, f"{saved.seconds:.1f} s" if saved else "place in an earlier start")  # fmt: skip

    def finish(self) -> None:
        """Wait until nothing is being written."""
        self._saver.finish()

    def refuse_unsaved_end(self) -> None:
        """Make the exit code tell if what was computed last is not on the disk; for the chief.

        Raises:
            JobFailed: if so.
        """
        last = self._saver.last
        if last is not None and (last.error or last.step != self._state.step):
            raise JobFailed(
                f"the state of step {self._state.step} could not be saved ({last.error or 'not written'}); free space "
                "or repair the folder, then start the same command again: it continues from the newest whole checkpoint"
            )

    def _become(self, checkpoint: Checkpoint) -> None:
        self._state.restore(checkpoint)
        self._journal.restore(checkpoint.state["journal"])
        self._journal.continue_from(checkpoint.step)

    def _refuse_other_inputs(self, checkpoint: Checkpoint) -> None:
        before = checkpoint.state["inputs"]
        differing = [name for name, value in self._inputs.items() if before[name] != value]
        if differing:
            raise RequestError(
                f"expected the {' and '.join(differing)} that {self._paths.job_dir!r} was begun with, received other "
                "ones; restore them (for precision pass the old one, see result.json or the log), use another "
                "--job_dir, or start over with --resume=never"
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
