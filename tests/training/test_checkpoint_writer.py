"""Checkpoints on a thread: what happens while one is being written, and when a write fails."""

import threading

import numpy as np
import pytest

from trainer.training.checkpoints.checkpoint import Checkpoint, CheckpointStore
from trainer.training.checkpoints.writer import AsyncCheckpointWriter


def state_of(step):
    return Checkpoint(step, {"model/w": np.full([3], step, np.float32)}, {"step": step})


class SlowStore(CheckpointStore):
    """A real store whose writes wait for a gate, and fail for the steps in ``refused``."""

    def __init__(self, folder, keep=3):
        super().__init__(folder, keep)
        self.gate, self.refused = threading.Event(), set()
        self.gate.set()

    def save(self, checkpoint, *, protect=None):
        assert self.gate.wait(30)
        if checkpoint.step in self.refused:
            raise OSError(28, "No space left on device")
        return super().save(checkpoint, protect=protect)


@pytest.fixture
def store(tmp_path):
    return SlowStore(str(tmp_path / "checkpoints"))


def test_the_loop_goes_on_while_a_checkpoint_is_written(store):
    writer = AsyncCheckpointWriter(store)
    store.gate.clear()
    assert writer.save(state_of(1), best_step=0, wait=False)
    assert store.steps() == []  # save() is back, the write is not done.
    store.gate.set()
    writer.finish()
    assert store.steps() == [1]
    assert [saved.step for saved in writer.collect()] == [1]
    assert writer.collect() == []


def test_an_optional_save_is_given_up_while_one_is_running_and_a_needed_one_waits(store, package_log):
    writer = AsyncCheckpointWriter(store)
    store.gate.clear()
    writer.save(state_of(1), best_step=0, wait=False)
    assert not writer.save(state_of(2), best_step=0, wait=False)
    assert "step 2 is not saved" in package_log.text
    threading.Timer(0.05, store.gate.set).start()
    assert writer.save(state_of(3), best_step=0, wait=True)
    writer.finish()
    assert store.steps() == [1, 3]


def test_a_failed_write_is_reported_and_the_next_one_works(store, package_log):
    writer = AsyncCheckpointWriter(store)
    writer.save(state_of(1), best_step=0, wait=True)
    store.refused = {2}
    writer.save(state_of(2), best_step=0, wait=True)
    writer.finish()
    assert "No space left" in writer.last.error
    assert "step 2 could not be written" in package_log.text
    assert store.newest().step == 1
    writer.save(state_of(3), best_step=0, wait=True)
    writer.finish()
    assert writer.last.error == ""
    assert store.steps() == [1, 3]


def test_the_best_state_is_owed_until_it_is_on_the_disk(store):
    writer = AsyncCheckpointWriter(store)
    store.refused = {2}
    writer.save(state_of(2), best_step=2, wait=True)
    writer.finish()
    assert store.steps() == []
    store.refused = set()
    writer.save(state_of(3), best_step=2, wait=True)
    writer.finish()
    assert store.steps() == [2, 3]
    assert [saved.error == "" for saved in writer.collect()] == [False, True, True]


def test_a_state_that_is_no_longer_the_best_is_not_owed(store):
    writer = AsyncCheckpointWriter(store)
    store.refused = {2}
    writer.save(state_of(2), best_step=2, wait=True)
    writer.finish()
    store.refused = set()
    writer.save(state_of(3), best_step=3, wait=True)
    writer.finish()
    assert store.steps() == [3]
