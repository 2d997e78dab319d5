"""The order in which the trainer does things, with fakes for all of its collaborators."""

import types

import pytest

from trainer.core.errors import Diverged, JobFailed
from trainer.training.checkpoints.writer import Saved
from trainer.training.loop import Plan, StopReason
from trainer.training.observers import Observer, Window
from trainer.training.trainer import Trainer

PLAN = Plan(total_steps=4, steps_per_epoch=2)


class Fakes(Observer):
    """Plays every collaborator, and records the calls in order; a step's number is its loss."""

    def __init__(self, *, diverges_at=(), alone=True, save_fails=False, reason=None, lazy=False):
        self.calls, self.pending, self.saved, self.reported = [], [], [], None
        self.diverges_at, self.alone, self.save_fails = set(diverges_at), alone, save_fails
        self.step, self.validated, self.stop_reason, self.lazy = 0, 0, reason, lazy
        self.schedule = types.SimpleNamespace(rate=lambda step: step / 8)

    def trainer(self, plan=PLAN):
        statistics = types.SimpleNamespace(add=self.add, fetch=self.fetch, resume_clock=lambda: None)
        inputs = types.SimpleNamespace(training=self.batches, check_bad_images=self.check_bad_images)
        checkpoints = types.SimpleNamespace(
            save=self.save, roll_back=self.roll_back, collect_saved=self.collect_saved,
            finish=lambda: self.calls.append("finish"), refuse_unsaved_end=lambda: self.calls.append("refuse"),
        )  # fmt: skip
        return Trainer(
            plan=plan, machine={}, state=self, execution=types.SimpleNamespace(train=self.train),
            inputs=inputs, statistics=statistics, evaluator=types.SimpleNamespace(run=self.validate),
            checkpoints=checkpoints, stop=types.SimpleNamespace(poll=self.poll, report_divergence=self.report),
            observers=self,
        )  # fmt: skip

    def batches(self, start, stop):
        yield from range(start, stop)

    def check_bad_images(self, *, merge=False):
        if merge:
            self.calls.append("merge")

    def train(self, batches, first, rates):
        assert batches == list(range(first, first + len(rates)))
        assert rates == [step / 8 for step in batches]
        return batches

    def add(self, first, rates, rows, waited, *, compiled):
        assert len(rates) == len(rows)
        self.pending += range(first, first + len(rates))

    def fetch(self, *, force):
        if self.lazy and not force:
            return None
        pending, self.pending = self.pending, []
        if not pending:
            return None
        bad = self.diverges_at.intersection(pending)
        self.diverges_at -= bad
        return Window(pending[-1], 0.5, 1.0, 1.0, 1.0, 1.0, 0.0, divergence="not finite" if bad else "")

    def validate(self, done):
        self.calls.append(("validate", done))
        self.validated = done

    def save(self, *, must):
        self.calls.append(("save", self.step))
        assert not self.pending, "a checkpoint without the numbers of all steps"
        if self.save_fails:
            raise Diverged("a weight")
        self.saved.append(Saved(self.step, "path", 1.0))

    def collect_saved(self):
        saved, self.saved = self.saved, []
        return saved

    def roll_back(self, divergence):
        self.calls.append(("roll back", str(divergence)))
        if self.save_fails:
            raise JobFailed(str(divergence))
        self.step = 0

    def report(self, divergence):
        if self.alone:
            raise divergence
        self.reported = divergence

    def poll(self):
        if self.reported is not None:
            divergence, self.reported = self.reported, None
            raise divergence
        return False

    def on_start(self, start):
        self.calls.append(("start", start.step, start.rollback, start.stopped))

    def on_step(self, step):
        self.calls.append(("step", step.step))

    def on_window(self, window):
        self.calls.append(("window", window.step))

    def on_checkpoint(self, checkpoint):
        self.calls.append(("checkpoint", checkpoint.step))

    def on_end(self, end):
        self.calls.append(("end", end.step, end.reason))


EPOCHS = [
    ("step", 1), ("window", 1), ("step", 2), ("window", 2), ("validate", 2), "merge", ("save", 2),
    ("step", 3), ("window", 3), ("checkpoint", 2), ("step", 4), ("window", 4), ("validate", 4), "merge", ("save", 4),
]  # fmt: skip
END = ["finish", ("checkpoint", 4), "refuse", "finish", ("end", 4, StopReason.EPOCHS)]


def test_a_whole_job_in_its_order():
    fakes = Fakes()
    assert fakes.trainer().run() is StopReason.EPOCHS
    assert fakes.calls == [("start", 0, False, False), *EPOCHS, *END]


def test_a_job_that_has_ended_is_announced_and_not_trained():
    fakes = Fakes(reason=StopReason.EARLY_STOPPING)
    assert fakes.trainer().run() is StopReason.EARLY_STOPPING
    assert fakes.calls == [
        ("start", 0, False, True), "finish", "refuse", "finish", ("end", 0, StopReason.EARLY_STOPPING),
    ]  # fmt: skip


def test_a_validation_that_was_interrupted_comes_first():
    fakes = Fakes()
    fakes.step = 2
    fakes.trainer().run()
    assert fakes.calls[1:3] == [("validate", 2), "merge"]


def test_a_divergence_is_seen_by_observers_and_then_rolls_back_before_anything_is_saved():
    fakes = Fakes(diverges_at=[2])
    assert fakes.trainer().run() is StopReason.EPOCHS
    first = [("step", 1), ("window", 1), ("step", 2), ("window", 2), ("roll back", "not finite")]
    assert fakes.calls == [("start", 0, False, False), *first, ("start", 0, True, False), *EPOCHS, *END]


def test_with_others_a_divergence_waits_for_the_stop_controller():
    fakes = Fakes(diverges_at=[1], alone=False)
    fakes.trainer().run()
    assert fakes.calls[1:4] == [("step", 1), ("window", 1), ("roll back", "not finite")]


def test_weights_that_may_not_be_saved_end_the_job_and_observers_hear_of_it():
    fakes = Fakes(save_fails=True)
    with pytest.raises(JobFailed, match="a weight"):
        fakes.trainer().run()
    assert fakes.calls[-3:] == [("roll back", "a weight"), "finish", ("end", 2, None)]


def test_observers_hear_of_each_step_of_a_call_after_it():
    fakes = Fakes()
    plan = Plan(total_steps=5, steps_per_epoch=5, steps_per_execution=3)
    assert fakes.trainer(plan).run() is StopReason.EPOCHS
    assert fakes.calls[1:8] == [
        ("step", 1), ("step", 2), ("step", 3), ("window", 3), ("step", 4), ("step", 5), ("window", 5),
    ]  # fmt: skip


def test_the_numbers_of_all_steps_are_fetched_before_a_save_inside_an_epoch():
    fakes = Fakes(lazy=True)
    fakes.trainer(Plan(total_steps=4, steps_per_epoch=4, checkpoint_every_steps=2)).run()
    assert fakes.calls[1:5] == [("step", 1), ("step", 2), ("window", 2), ("save", 2)]


def test_with_others_a_save_that_all_do_fails_in_all_at_once():
    fakes = Fakes(save_fails=True, alone=False)
    with pytest.raises(JobFailed):
        fakes.trainer().run()
    assert ("step", 3) not in fakes.calls
