"""Statistics of the steps: windows, train lines, the unfinished line in a checkpoint, and finding a divergence."""

import json
import math

import pytest
import tensorflow as tf

from trainer.training import step_stats
from trainer.training.loop import Plan
from trainer.training.step.loss_scale import MIN_LOSS_SCALE
from trainer.training.step_stats import StepStatistics

PLAN = Plan(total_steps=8, steps_per_epoch=4, log_every_steps=3)


def numbers(loss=1.0, *, correct=5.0, examples=10.0, applied=1.0, scale=1.0, norm=0.5):
    return tf.constant([loss, correct, examples, applied, scale, norm], tf.float32)


def filled(*vectors, statistics=None, first=1):
    statistics = statistics or StepStatistics(PLAN)
    for step, vector in enumerate(vectors, first):
        statistics.add(step, [0.1 * step], vector[None], waited=0.25)
    return statistics


def test_nothing_is_fetched_before_a_window_is_full(monkeypatch):
    assert StepStatistics(PLAN).fetch(force=True) is None
    statistics = filled(numbers())
    statistics.resume_clock()
    assert statistics.fetch(force=False) is None
    assert statistics.images_per_second is None
    monkeypatch.setattr(step_stats, "_WINDOW_STEPS", 1)
    assert statistics.fetch(force=False).examples == 10


def test_a_window_holds_means_and_the_lines_that_end_in_it():
    window = filled(numbers(2.0), numbers(4.0, correct=10.0), numbers(6.0), numbers(8.0)).fetch(force=True)
    assert (window.step, window.loss, window.accuracy, window.examples) == (4, 0.5, 25 / 40, 40)
    assert window.learning_rate == pytest.approx(0.4)
    assert window.waited == 1.0
    assert [(line.step, line.values["loss"], line.values["examples"]) for line in window.lines] == [
        (3, 12 / 30, 30), (4, 0.8, 10),  # Every three steps, and at the end of an epoch.
    ]  # fmt: skip
    assert window.divergence == ""


def test_steps_of_one_call_are_those_of_calls_of_one_step():
    vectors = [numbers(loss) for loss in (2.0, 4.0, 6.0, 8.0)]
    unused = numbers(99.0)  # A call may have more rows than steps.
    statistics = StepStatistics(PLAN)
    statistics.add(1, [0.1 * 1, 0.1 * 2], tf.stack([*vectors[:2], unused]), waited=0.5)
    statistics.add(3, [0.1 * 3, 0.1 * 4], tf.stack(vectors[2:]), waited=0.5)
    window, single = statistics.fetch(force=True), filled(*vectors).fetch(force=True)
    lines, expected = ([(line.step, {**line.values, "images_per_second": 0}) for line in each.lines]
                       for each in (window, single))  # fmt: skip
    assert [step for step, _ in lines] == [3, 4]
    assert lines == expected
    assert (window.step, window.loss, window.waited) == (single.step, single.loss, single.waited)


def test_skipped_steps_count_in_no_mean():
    overflow = numbers(math.inf, applied=0.0, scale=8.0, norm=math.inf)
    window = filled(numbers(2.0, scale=4.0), overflow).fetch(force=True)
    assert (window.loss, window.gradient_norm) == (0.2, 0.5)
    assert window.divergence == ""
    statistics = filled(numbers(2.0, scale=4.0), overflow, numbers(2.0, scale=4.0, norm=1.0))
    (line,) = statistics.fetch(force=True).lines
    assert (line.values["loss_scale"], line.values["skipped_steps"], line.values["examples"]) == (4.0, 1, 30)
    assert line.values["gradient_norm"] == 0.75


def test_a_loss_that_is_not_finite_is_reported_with_its_lines_and_ends_nothing():
    window = filled(numbers(1.0), numbers(1.0), numbers(math.nan), numbers(math.inf)).fetch(force=True)
    assert window.divergence.startswith("the loss is not finite at step 3 (it was at step 2)")
    assert [line.step for line in window.lines] == [3, 4]


def test_the_first_step_of_a_window_names_the_step_before():
    window = filled(numbers(math.nan), first=7).fetch(force=True)
    assert "not finite at step 7 (it was at step 6)" in window.divergence


def test_an_overflow_without_a_loss_scale_is_a_divergence():
    window = filled(numbers(math.inf, applied=0.0, scale=MIN_LOSS_SCALE)).fetch(force=True)
    assert window.divergence.startswith("float16 overflows at step 1")


def test_an_unfinished_line_survives_a_checkpoint():
    whole = filled(numbers(1.0), numbers(2.0), numbers(4.0)).fetch(force=True)
    first = filled(numbers(1.0), numbers(2.0))
    assert first.fetch(force=True).lines == []
    state = json.loads(json.dumps(first.state()))
    second = filled(numbers(9.0))  # Not fetched before the rollback: dropped.
    second.restore(state)
    window = filled(numbers(4.0), statistics=second, first=3).fetch(force=True)
    assert window.examples == 10
    (resumed,), (expected,) = window.lines, whole.lines
    without_clock = {name: value for name, value in expected.values.items() if name != "images_per_second"}
    assert {name: resumed.values[name] for name in without_clock} == without_clock
    assert second.state() == []


def test_the_gradient_norm_is_that_of_the_steps_that_computed_it():
    statistics = StepStatistics(PLAN)
    statistics.restore([[1.0, 5.0, 10.0, True, 1.0]])  # As checkpoints of older versions hold a step.
    filled(numbers(norm=4.0), *[numbers(norm=math.nan)] * 2, statistics=statistics, first=2)
    first, second = statistics.fetch(force=True).lines
    assert first.values["gradient_norm"] == 4.0
    assert "gradient_norm" not in second.values


def test_the_speed_of_a_start_leaves_out_the_window_in_which_a_step_was_compiled():
    statistics = StepStatistics(PLAN)
    statistics.add(1, [0.1], tf.stack([numbers()]), 0.0, compiled=True)
    first = statistics.fetch(force=False)  # At once: the compiled step has a window of its own.
    assert (first.compiled, first.examples) == (True, 10)
    assert statistics.images_per_second == first.images_per_second  # There is no better figure yet.
    later = [filled(numbers(), statistics=statistics, first=step).fetch(force=True) for step in (2, 3)]
    assert [window.compiled for window in later] == [False, False]
    assert statistics.images_per_second == 20 / sum(window.seconds for window in later)
