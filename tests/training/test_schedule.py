"""The learning rate of every step, and what a job settles of it."""

import math

import pytest

from tests.helpers.jobs import float32_policy, lines_of, run_job, sigterm_after, values_of  # noqa: F401
from trainer.core.config import OptimConfig, from_flat
from trainer.training import schedule
from trainer.training.schedule import Schedule


def rates(steps, **settings):
    made = Schedule(OptimConfig(learning_rate=0.5, **settings), steps)
    return [made.rate(step) for step in range(steps)]


@pytest.mark.parametrize("name", ["constant", "plateau", "cosine"])
def test_the_warm_up_is_linear_whatever_follows(name):
    assert rates(8, lr_schedule=name, lr_warmup_steps=4)[:5] == [0.125, 0.25, 0.375, 0.5, 0.5]


def test_the_cosine_is_over_what_follows_the_warm_up():
    settings = {"lr_schedule": "cosine", "min_learning_rate": 0.1}
    warm = rates(14, lr_warmup_steps=4, **settings)
    assert warm[4:] == rates(10, lr_warmup_steps=0, **settings)
    assert warm[9] == pytest.approx(0.1 + 0.2 * (1 + math.cos(math.pi / 2)))
    assert rates(3, lr_warmup_steps=9, **settings) == pytest.approx([0.5 / 9, 1 / 9, 1.5 / 9])  # It never gets there.


def test_without_warm_up_the_first_rate_is_the_whole_one():
    assert rates(3, lr_schedule="constant", lr_warmup_steps=0) == [0.5] * 3
    assert rates(3, lr_schedule="constant", lr_warmup_steps=1) == [0.5] * 3


def test_a_rollback_halves_the_warm_up_too():
    made = Schedule(OptimConfig(learning_rate=0.5, lr_warmup_steps=4), 8)
    made.lower()
    assert made.rate(1) == 0.125


@pytest.mark.parametrize(
    ("settings", "examples", "steps"),
    [
        ({"epochs": 5}, 3200, 25),  # 5% of 500 steps.
        ({"epochs": 40}, 3200, 100),  # An epoch is shorter.
        ({"epochs": 5}, 100, 1),
        ({"epochs": 1}, 100, 0),
        ({"epochs": 10, "steps_per_epoch": 6}, 9999, 3),
    ],
)
def test_the_automatic_warm_up_is_an_epoch_or_5_percent(settings, examples, steps):
    assert schedule.automatic_warmup(from_flat(settings), examples) == steps


@pytest.mark.slow
def test_a_stopped_job_keeps_the_warm_up_of_its_first_start(image_set, tmp_path):
    """Ten epochs of four steps: two of warm-up. With more epochs it would be three."""
    settings = {"epochs": 10, "steps_per_epoch": 4, "image_size": 46, "lr_schedule": "constant", "model": "cnn_bn"}
    assert run_job(image_set, tmp_path / "whole", **settings) == 0
    with sigterm_after(1):
        assert run_job(image_set, tmp_path / "cut", **settings) == 75
    assert run_job(image_set, tmp_path / "cut", **settings | {"epochs": 15}) == 0
    assert [line["learning_rate"] for line in lines_of(tmp_path / "cut", "train")[:3]] == [0.0005, 0.001, 0.001]
    whole = values_of(tmp_path / "whole", "train")
    assert values_of(tmp_path / "cut", "train")[: len(whole)] == whole
