"""When things happen, told by fakes and a fake clock."""

import pytest

from trainer.training import loop
from trainer.training.loop import Plan, StopReason


class Fakes:
    """Record every call in order; the clock moves a given number of seconds with every step."""

    def __init__(self, *, seconds_a_step=1.0, finish_at=None, stop_at=None):
        self.calls, self.needed = [], []
        self.now = 100.0
        self.seconds_a_step, self.finish_at, self.stop_at = seconds_a_step, finish_at, stop_at

    def train(self, step):
        self.calls.append(("train", step))
        self.now += self.seconds_a_step
        return step + 1

    def log(self, step):
        self.calls.append(("log", step))

    def validate(self, step):
        self.calls.append(("validate", step))
        return StopReason.EARLY_STOPPING if step == self.finish_at else None

    def save(self, step, *, must):
        self.calls.append(("save", step))
        self.needed += [step] if must else []

    def stop_requested(self):
        return self.stop_at is not None and self.calls[-1][1] >= self.stop_at

    def run(self, plan, start_step=0, **options):
        return loop.run(plan, start_step, train=self.train, log=self.log, validate=self.validate, save=self.save,
                        stop_requested=self.stop_requested, clock=lambda: self.now, **options)  # fmt: skip

    def at(self, kind):
        return [step for called, step in self.calls if called == kind]


def test_an_epoch_is_trained_logged_validated_saved_in_this_order():
    fakes = Fakes()
    assert fakes.run(Plan(total_steps=4, steps_per_epoch=2)) is StopReason.EPOCHS
    assert fakes.calls == [
        ("train", 0), ("log", 1), ("train", 1), ("log", 2), ("validate", 2), ("save", 2),
        ("train", 2), ("log", 3), ("train", 3), ("log", 4), ("validate", 4), ("save", 4),
    ]  # fmt: skip


def test_saves_inside_an_epoch_by_steps():
    fakes = Fakes()
    fakes.run(Plan(total_steps=10, steps_per_epoch=5, checkpoint_every_steps=3))
    assert fakes.at("save") == [3, 5, 6, 9, 10]
    assert fakes.needed == [5, 10]
    assert fakes.at("validate") == [5, 10]


def test_a_step_that_is_due_twice_is_saved_once():
    fakes = Fakes()
    fakes.run(Plan(total_steps=4, steps_per_epoch=2, checkpoint_every_steps=2, checkpoint_every_seconds=0.5))
    assert fakes.at("save") == [1, 2, 3, 4]


def test_saves_inside_an_epoch_by_seconds_since_the_last_save():
    fakes = Fakes(seconds_a_step=10.0)
    fakes.run(Plan(total_steps=14, steps_per_epoch=7, checkpoint_every_seconds=30.0))
    assert fakes.at("save") == [3, 6, 7, 10, 13, 14]  # The epoch's end at 7 starts the count again.


def test_the_time_a_save_takes_does_not_count():
    fakes = Fakes(seconds_a_step=1.0)
    save = fakes.save

    def slow(step, *, must):
        save(step, must=must)
        fakes.now += 1000.0

    fakes.save = slow
    fakes.run(Plan(total_steps=10, steps_per_epoch=100, checkpoint_every_seconds=4.0))
    assert fakes.at("save") == [4, 8]


def test_by_default_only_the_ends_of_epochs_are_saved():
    fakes = Fakes(seconds_a_step=1e6)
    fakes.run(Plan(total_steps=6, steps_per_epoch=3))
    assert fakes.at("save") == [3, 6]


def test_early_stopping_ends_with_its_decision_saved():
    fakes = Fakes(finish_at=4)
    assert fakes.run(Plan(total_steps=10, steps_per_epoch=2)) is StopReason.EARLY_STOPPING
    assert fakes.calls[-2:] == [("validate", 4), ("save", 4)]
    assert fakes.at("train") == [0, 1, 2, 3]


def test_early_stopping_at_the_last_step_is_early_stopping():
    fakes = Fakes(finish_at=4)
    assert fakes.run(Plan(total_steps=4, steps_per_epoch=2)) is StopReason.EARLY_STOPPING


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_stop_request_ends_after_the_step_with_everything_saved(step):
    fakes = Fakes(stop_at=step)
    assert fakes.run(Plan(total_steps=10, steps_per_epoch=2)) is StopReason.STOP_REQUEST
    assert fakes.at("train") == list(range(step))
    assert fakes.at("save")[-1] == step
    assert fakes.at("save").count(step) == 1
    assert fakes.at("validate") == [at for at in (2,) if at <= step]


def test_a_stop_request_at_the_last_step_leaves_the_rest_to_the_next_start():
    fakes = Fakes(stop_at=4)
    assert fakes.run(Plan(total_steps=4, steps_per_epoch=2)) is StopReason.STOP_REQUEST
    assert fakes.at("save") == [2, 4]


def test_a_stop_request_wins_over_early_stopping_which_is_in_the_saved_state():
    fakes = Fakes(finish_at=2, stop_at=2)
    assert fakes.run(Plan(total_steps=10, steps_per_epoch=2)) is StopReason.STOP_REQUEST
    assert fakes.calls[-2:] == [("validate", 2), ("save", 2)]


def test_a_validation_that_was_broken_off_is_owed_to_the_next_start():
    plan = Plan(total_steps=4, steps_per_epoch=2)
    fakes = Fakes(stop_at=2)
    assert fakes.run(plan) is StopReason.STOP_REQUEST
    assert fakes.needed == [2]
    again = Fakes()
    assert again.run(plan, 2, validate_first=True) is StopReason.EPOCHS
    assert again.calls[:3] == [("validate", 2), ("save", 2), ("train", 2)]


def test_an_owed_validation_of_the_last_epoch_is_done_without_training():
    fakes = Fakes()
    assert fakes.run(Plan(total_steps=4, steps_per_epoch=2), 4, validate_first=True) is StopReason.EPOCHS
    assert fakes.calls == [("validate", 4), ("save", 4)]


@pytest.mark.parametrize("start", range(1, 10))
def test_a_resumed_loop_does_the_tail_of_the_whole_one(start):
    plan = Plan(total_steps=10, steps_per_epoch=4, checkpoint_every_steps=3)
    whole, tail = Fakes(), Fakes()
    whole.run(plan)
    tail.run(plan, start)
    assert tail.calls == whole.calls[whole.calls.index(("train", start)) :]


def test_an_epoch_that_the_total_cuts_short_is_not_validated():
    fakes = Fakes()
    assert fakes.run(Plan(total_steps=5, steps_per_epoch=4)) is StopReason.EPOCHS
    assert fakes.at("validate") == [4]


@pytest.mark.parametrize("start", [4, 5])
def test_nothing_to_do(start):
    fakes = Fakes()
    assert fakes.run(Plan(total_steps=4, steps_per_epoch=2), start) is StopReason.EPOCHS
    assert fakes.calls == []


def test_an_error_is_not_swallowed_and_saves_nothing():
    fakes = Fakes()

    def broken(step):
        raise ZeroDivisionError

    fakes.train = broken
    with pytest.raises(ZeroDivisionError):
        fakes.run(Plan(total_steps=4, steps_per_epoch=2))
    assert fakes.calls == []


def calls_of(plan, start=0):
    """Return the steps done after each call of a loop."""
    done = [start]
    while done[-1] < plan.total_steps:
        done.append(done[-1] + plan.steps_at_once(done[-1]))
    return done[1:]


def test_by_default_a_call_has_one_step():
    assert calls_of(Plan(total_steps=4, steps_per_epoch=2)) == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("cadence", "calls"),
    [
        ({}, [4, 8, 10, 14, 18, 20, 22]),  # Epochs end, and the job.
        ({"log_every_steps": 3}, [4, 8, 10, 14, 18, 20, 22]),
        ({"checkpoint_every_steps": 6}, [4, 6, 10, 12, 16, 18, 20, 22]),
        ({"frozen_steps": 10}, [4, 8, 10, 14, 18, 20, 22]),
        ({"pauses": (1, 3)}, [1, 3, 7, 10, 14, 18, 20, 22]),
    ],
)
def test_a_call_of_several_steps_ends_before_the_host_is_needed(cadence, calls):
    plan = Plan(total_steps=22, steps_per_epoch=10, steps_per_execution=4, **cadence)
    assert calls_of(plan) == calls
    ends = {step for step in range(1, 23) if plan.ends_epoch(step) or step == plan.frozen_steps or step in plan.pauses}
    assert ends <= set(calls)


@pytest.mark.parametrize("start", range(22))
def test_calls_from_any_step_end_where_those_of_the_whole_job_must(start):
    plan = Plan(total_steps=22, steps_per_epoch=10, steps_per_execution=4, checkpoint_every_steps=6)
    assert {6, 10, 12, 18, 20, 22} - set(range(start + 1)) <= set(calls_of(plan, start))


def test_a_loop_of_calls_saves_and_validates_as_one_of_single_steps():
    plan = Plan(total_steps=10, steps_per_epoch=5, checkpoint_every_steps=3, steps_per_execution=4)
    single, several = Fakes(), Fakes()
    several.train = lambda step: single_calls(several, step, plan.steps_at_once(step))
    single.run(plan)
    several.run(plan)
    for kind in ("train", "validate", "save"):
        assert several.at(kind) == single.at(kind)
    assert several.at("log") == [3, 5, 6, 9, 10]


def single_calls(fakes, step, count):
    for number in range(step, step + count):
        fakes.calls.append(("train", number))
    return step + count


@pytest.mark.parametrize(
    ("kind", "megabytes", "steps"), [("CPU", 1, 1), ("GPU", 1, 8), ("GPU", 100, 5), ("GPU", 1000, 1)]
)
def test_the_automatic_number_of_steps_of_a_call(kind, megabytes, steps):
    assert loop.automatic_steps_per_execution(kind, megabytes * 2**20) == steps


def test_epochs_are_counted_from_one():
    plan = Plan(total_steps=9, steps_per_epoch=3)
    assert [plan.epoch_of(step) for step in range(10)] == [1, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_a_train_line_ends_at_its_cadence_and_at_the_end_of_an_epoch():
    plan = Plan(total_steps=20, steps_per_epoch=5, log_every_steps=3)
    assert [step for step in range(1, 16) if plan.logs_at(step)] == [3, 5, 6, 9, 10, 12, 15]
    assert all(Plan(total_steps=9, steps_per_epoch=3).logs_at(step) for step in range(1, 10))
