"""The checkpoints of a job with the weights that it is judged by: the averaged ones, if it keeps an average."""

import dataclasses

from trainer.training.checkpoints.checkpoint import Checkpoint, CheckpointStore, exported


def best_step(store: CheckpointStore) -> int:
    """Return the step of the best epoch, as the newest checkpoint has it; 0 before the first validation.

    The job must have a checkpoint.
    """
    newest = store.newest()
    assert newest is not None, "a job without a checkpoint"
    return int(newest.state["stopping"]["best_step"])


def read(store: CheckpointStore, step: int) -> Checkpoint:
    """Return the checkpoint of a step.

    Raises:
        DamagedCheckpoint: if it is not whole.
    """
    return of(store.read(step))


def of(checkpoint: Checkpoint) -> Checkpoint:
    """Return a checkpoint with these weights in place of the trained ones."""
    return dataclasses.replace(checkpoint, arrays=exported(checkpoint.arrays))
