"""Which checkpoint a start or a rollback continues from, and what may become one; with a state of one array."""

import types
from unittest import mock

import numpy as np
import pytest

from trainer.core.config import from_flat
from trainer.core.errors import Diverged, JobFailed, RequestError, StoppedEarly, StorageDown
from trainer.distributed.process_group import SingleProcess
from trainer.training.checkpoints.checkpoint import Checkpoint, CheckpointStore
from trainer.training.checkpoints.manager import CheckpointManager


class Schedule:
    def __init__(self):
        self.rollbacks = 0

    def lower(self):
        self.rollbacks += 1

    def rate(self, step):
        return 0.5**self.rollbacks


class State:
    """One weight, a step and a schedule."""

    def __init__(self):
        self.step, self.weight = 0, 0.0
        self.schedule, self.stopping = Schedule(), types.SimpleNamespace(best_step=0)

    def snapshot(self, **extra):
        state = {"rollbacks": self.schedule.rollbacks, **extra}
        return Checkpoint(self.step, {"model/w": np.array([self.weight], np.float32)}, state)

    def restore(self, checkpoint):
        self.step, self.weight = checkpoint.step, float(checkpoint.arrays["model/w"][0])
        self.schedule.rollbacks = checkpoint.state["rollbacks"]


class Worker(SingleProcess):
    """The second of two processes, whose chief has chosen step 1."""

    index, size = 1, 2

    def broadcast(self, value):
        return 1


class Job:
    """A manager with its surroundings; ``calls`` holds what was flushed."""

    def __init__(self, folder, group=None, inputs=None, **settings):
        self.calls, self.state = [], State()
        self.store = CheckpointStore(str(folder / "checkpoints"), keep=9)
        self.statistics = types.SimpleNamespace(line=[], state=lambda: self.statistics.line, restore=self.restore_line)
        config = from_flat({"data_dir": "D", "job_dir": str(folder), **settings})
        self.manager = CheckpointManager(
            config, group or SingleProcess(), self.store, self.state, self.statistics, inputs or {"precision": "p"},
            before_save=[lambda: self.calls.append(("flush", self.store.steps()))],
        )  # fmt: skip

    def restore_line(self, line):
        self.statistics.line = line

    def save(self, *steps, must=True):
        for step in steps:
            self.state.step, self.state.weight, self.statistics.line = step, step / 2, [step]
            self.manager.save(must=must)
            self.manager.finish()


def test_state_and_unfinished_line_come_back(tmp_path):
    Job(tmp_path).save(1, 2)
    job = Job(tmp_path)
    job.manager.restore()
    assert (job.state.step, job.state.weight, job.statistics.line) == (2, 1.0, [2])


def test_without_a_checkpoint_the_state_stays_unless_one_is_required(tmp_path):
    job = Job(tmp_path)
    job.manager.restore()
    assert job.state.step == 0
    with pytest.raises(RequestError, match="--resume=required"):
        Job(tmp_path, resume="required").manager.restore()


def test_other_inputs_are_refused_by_name_and_change_nothing(tmp_path):
    Job(tmp_path).save(1)
    job = Job(tmp_path, inputs={"precision": "another"})
    with pytest.raises(RequestError, match="expected the precision that"):
        job.manager.restore()
    assert job.state.step == 0


def test_logs_are_flushed_before_anything_is_written(tmp_path):
    job = Job(tmp_path)
    job.save(1, 2)
    assert job.calls == [("flush", []), ("flush", [1])]
    assert [saved.step for saved in job.manager.collect_saved()] == [1, 2]
    assert job.manager.collect_saved() == []


def test_a_worker_reads_the_step_of_the_chief_and_writes_nothing(tmp_path):
    Job(tmp_path).save(1, 2)
    worker = Job(tmp_path, Worker())
    worker.manager.restore()
    assert worker.state.step == 1
    worker.state.weight = np.nan
    worker.manager.save(must=False)  # Only the chief's clock decides, so nothing is looked at here.
    with pytest.raises(Diverged):
        worker.manager.save(must=True)
    assert worker.store.steps() == [1, 2]


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    job = Job(tmp_path)
    job.state.weight = np.inf
    with pytest.raises(Diverged, match="model/w is not finite after step 0"):
        job.manager.save(must=True)
    job.manager.finish()
    assert job.store.steps() == []


def test_every_rollback_goes_further_back_with_a_lower_rate(tmp_path):
    job = Job(tmp_path, on_divergence="rollback")
    job.save(1, 2, 3)
    steps = []
    for rollbacks in (1, 2, 3, 4, 5):
        job.manager.roll_back(Diverged("the loss"))
        assert job.state.schedule.rollbacks == rollbacks
        steps.append(job.state.step)
    assert steps == [3, 2, 1, 1, 1]
    with pytest.raises(JobFailed, match="the loss"):
        job.manager.roll_back(Diverged("the loss"))


def test_a_rollback_removes_the_abandoned_course_and_keeps_the_lower_rate(tmp_path):
    job = Job(tmp_path, on_divergence="rollback")
    job.save(1, 2, 3)
    job.manager.collect_saved()
    for rollbacks, step in ((1, 3), (2, 2)):
        job.manager.roll_back(Diverged("the loss"))
        assert job.store.steps() == list(range(1, step + 1))
        later = Job(tmp_path, on_divergence="rollback")  # As if killed right now.
        later.manager.restore()
        assert (later.state.step, later.state.schedule.rollbacks) == (step, rollbacks)
    assert job.manager.collect_saved() == []  # Nothing that an observer should announce.
    job.save(3)
    job.manager.roll_back(Diverged("the loss"))  # One further back than the last time, though 3 was saved again.
    assert (job.state.step, job.store.steps()) == (1, [1])


def test_no_rollback_unless_it_is_enabled_and_possible(tmp_path):
    with pytest.raises(JobFailed, match="the loss"):
        Job(tmp_path, on_divergence="rollback").manager.roll_back(Diverged("the loss"))
    job = Job(tmp_path)
    job.save(1)
    with pytest.raises(JobFailed, match="the loss"):
        job.manager.roll_back(Diverged("the loss"))


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (OSError(28, "No space left on device"), JobFailed),
        (OSError(5, "Input/output error"), StorageDown),
        (StorageDown("gs://bucket"), StorageDown),
    ],
    ids=repr,
)
def test_a_last_state_that_could_not_be_written_asks_for_another_start_if_that_can_help(tmp_path, failure, kind):
    job = Job(tmp_path)
    job.store.save = mock.Mock(side_effect=failure)
    job.save(1)
    with pytest.raises(kind, match="step 1 could not be saved"):
        job.manager.refuse_unsaved_end()
    assert job.manager.collect_saved() == []


def test_a_lost_lock_ends_the_job(tmp_path):
    job = Job(tmp_path)
    job.store.save = mock.Mock(side_effect=StoppedEarly("this job lost its lock"))
    job.save(1)
    with pytest.raises(StoppedEarly, match="lost its lock"):
        job.manager.collect_saved()


def test_a_start_removes_what_a_dead_one_left(tmp_path):
    Job(tmp_path).save(1)
    unfinished = tmp_path / "checkpoints" / "0000000002"
    unfinished.mkdir()
    Job(tmp_path, Worker()).manager.restore()  # Only the chief removes.
    assert unfinished.exists()
    Job(tmp_path).manager.restore()
    assert not unfinished.exists()


def test_a_last_state_that_is_not_on_the_disk_is_an_error(tmp_path):
    job = Job(tmp_path)
    job.manager.refuse_unsaved_end()
    job.save(1)
    job.manager.refuse_unsaved_end()
    job.state.step = 2
    with pytest.raises(JobFailed, match="the state of step 2 could not be saved"):
        job.manager.refuse_unsaved_end()
