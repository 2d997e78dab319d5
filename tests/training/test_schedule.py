"""The learning rate of every step, and what a job settles of it."""

import json
import math
import shutil
from pathlib import Path

import pytest

from tests.helpers.jobs import float32_policy, lines_of, run_job, sigterm_after  # noqa: F401
from trainer.core.config import OptimConfig, from_flat
from trainer.core.job_dir import JobPaths
from trainer.data import manifest
from trainer.distributed.process_group import SingleProcess
from trainer.training import schedule, settle
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
        ({}, 96, 3),
        ({}, 97, 4),
        ({"steps_per_epoch": 6}, 97, 6),
        ({"min_steps_per_epoch": 3}, 97, 4),
        ({"min_steps_per_epoch": 5}, 97, 5),
        ({"min_steps_per_epoch": 5, "steps_per_epoch": 2}, 97, 2),
    ],
)
def test_an_epoch_is_one_pass_unless_steps_are_set_or_it_would_be_too_short(settings, examples, steps):
    config = from_flat(settings)
    assert config.loop.steps_of_epoch(examples, config.data.batch_size) == steps


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


@pytest.mark.parametrize(
    ("settings", "rate"), [({}, 0.5), ({"plateau_waits_for_learning": False}, 0.05), ({"lr_schedule": "constant"}, 0.5)]
)
def test_the_plateau_waits_while_validation_is_at_chance(settings, rate):
    made = Schedule(OptimConfig(learning_rate=0.5, plateau_patience=1, lr_warmup_steps=0, **settings), 8)
    fell = [made.update({"val_accuracy": 0.5}, at_chance=True) for _ in range(2)]
    assert fell == [False, rate < 0.5]
    assert made.rate(3) == pytest.approx(rate)
    assert made.update({"val_accuracy": 0.5}) == (made.rate(3) < rate)


def settled(image_set, job_dir, before=None, **request):
    """Return what a start settles: in a new job_dir, or in one whose config.json says ``before``."""
    config = from_flat({"data_dir": str(image_set), "job_dir": str(job_dir), **request})
    job_dir.mkdir()
    if before is not None:
        (job_dir / "config.json").write_text(json.dumps(before))
    train, _ = manifest.read_train_and_validation(str(image_set), 0.1, 0)
    return settle.settle(config, train, SingleProcess(), JobPaths(str(job_dir))).optim


ADDED = ("lr_warmup_steps", "plateau_waits_for_learning", "gradient_centralization")


def added(optim):
    return tuple(getattr(optim, name) for name in ADDED)


def test_a_new_job_learns_by_the_settings_of_now_and_an_old_one_goes_on_as_it_began(image_set, tmp_path):
    new = settled(image_set, tmp_path / "new", epochs=10)
    assert added(new) == (2, True, True)
    assert added(settled(image_set, tmp_path / "old", before={"seed": 0}, epochs=10)) == (0, False, False)
    over = settled(image_set, tmp_path / "over", before={"seed": 0}, epochs=10, resume="never")
    assert over == new
    # What the job itself says, a default does not change.
    says = dict(zip(ADDED, (7, False, True), strict=True))
    begun = settled(image_set, tmp_path / "begun", before=says)
    assert added(begun) == (7, True, True)  # The second is refused later, by name.


@pytest.mark.slow
def test_a_stopped_job_keeps_the_warm_up_of_its_first_start(image_set, tmp_path, capsys):
    """Two epochs of twenty steps, where a pass has 13: two of warm-up. With three epochs it would be three."""
    settings = {"steps_per_epoch": 20, "batch_size": 8, "image_size": 46, "lr_schedule": "constant"}
    with sigterm_after(1):
        assert run_job(image_set, tmp_path, **settings, epochs=2) == 75
    assert "20 steps an epoch (1.5 passes over them), 2 epochs, 40 steps" in capsys.readouterr().err
    assert run_job(image_set, tmp_path, **settings, epochs=3) == 0
    assert [line["learning_rate"] for line in lines_of(tmp_path, "train")] == [0.0005, *[0.001] * 59]


@pytest.mark.slow
@pytest.mark.parametrize("waits", [True, False])
def test_a_job_at_chance_keeps_its_rate(image_set, tmp_path, waits):
    data = Path(shutil.copytree(image_set, tmp_path / "data"))
    shutil.rmtree(data / "Validation" / "Real")
    shutil.copytree(data / "Validation" / "Fake", data / "Validation" / "Real")  # So the AUC is 0.5 in every epoch.
    settings = {"plateau_patience": 1, "epochs": 3, "image_size": 46, "steps_per_epoch": 1, "batch_size": 4}
    assert run_job(data, tmp_path / "job", **settings, plateau_waits_for_learning=waits) == 0
    validations = lines_of(tmp_path / "job", "validation")
    assert [line["val_auc"] for line in validations] == [0.5] * 3
    assert (validations[-1]["learning_rate"] == pytest.approx(1e-3)) == waits
