"""One job of each family of optimizers and losses: a stop in the middle and a second device change no bit of it."""

import json

import numpy as np
import pytest

from tests.helpers.commands import answer
from tests.helpers.jobs import float32_policy, result_of, run_job, sigterm_after, values_of  # noqa: F401
from trainer import evaluate
from trainer.core.errors import RequestError
from trainer.training.checkpoints.checkpoint import CheckpointStore, exported

FAMILIES = {
    "sgd": {"optimizer": "sgd", "clip_norm": 0.5, "label_smoothing": 0.1, "lr_schedule": "cosine",
            "scale_learning_rate": True, "learning_rate": 0.03},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1, "ema_decay": 0.5},
    "lion": {"optimizer": "lion", "learning_rate": 1e-4, "loss": "focal", "class_weights": "Fake=2",
             "accumulate_steps": 2},
}  # fmt: skip
JOB = {"batch_size": 8, "image_size": 46, "steps_per_epoch": 3, "lr_warmup_steps": 3}


def last_arrays(job_dir):
    """Return all that the last checkpoint holds of weights, averages and optimizer."""
    checkpoint = CheckpointStore(str(job_dir / "checkpoints"), keep=1).newest()
    assert checkpoint.step == 6
    return checkpoint.arrays


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_a_stop_and_a_second_device_change_nothing(image_set, tmp_path, family):
    settings = {**JOB, **FAMILIES[family]}
    assert run_job(image_set, tmp_path / "one", **settings) == 0
    with sigterm_after(4):
        assert run_job(image_set, tmp_path / "two", **settings, num_devices=2) == 75
    assert run_job(image_set, tmp_path / "two", **settings, num_devices=2) == 0
    one, two = last_arrays(tmp_path / "one"), last_arrays(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, array in one.items():
        np.testing.assert_array_equal(array, two[name], err_msg=name)
    losses = [
        [line.get("loss", line.get("val_loss")) for line in values_of(tmp_path / name)] for name in ("one", "two")
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert len(set(losses[0])) == 6 + 2, "nothing was trained"


@pytest.mark.slow
def test_only_the_gradient_of_the_hidden_layer_is_centred(image_set, tmp_path):
    settings = {**JOB, "optimizer": "sgd", "steps_per_epoch": 1, "epochs": 1, "lr_warmup_steps": 0}
    kernels = []
    for name, centred in (("with", True), ("without", False)):
        assert run_job(image_set, tmp_path / name, **settings, gradient_centralization=centred) == 0
        arrays = dict(CheckpointStore(str(tmp_path / name / "checkpoints"), keep=1).newest().arrays)
        moved = [arrays.pop(key) for key in sorted(arrays) if "hidden" in key and "kernel" in key]
        kernels.append((moved, arrays))
    (with_, others), (without, same_others) = kernels
    assert others.keys() == same_others.keys()
    for key, array in others.items():
        np.testing.assert_array_equal(array, same_others[key], err_msg=key)
    assert len(with_) == 2, "weights and momentum"
    for one, two in zip(with_, without, strict=True):
        mean = (two - one).mean(axis=0)
        assert np.abs(mean).max() > 1e-7
        np.testing.assert_allclose(two - one, np.broadcast_to(mean, one.shape), atol=1e-7)


@pytest.mark.thorough
def test_float16_trains_alike_after_a_stop(image_set, tmp_path):
    settings = {**JOB, **FAMILIES["lion"], "ema_decay": 0.5, "clip_norm": 1.0, "precision": "mixed_float16"}
    assert run_job(image_set, tmp_path / "whole", **settings) == 0
    with sigterm_after(4):
        assert run_job(image_set, tmp_path / "cut", **settings) == 75
    assert run_job(image_set, tmp_path / "cut", **settings) == 0
    whole, cut = last_arrays(tmp_path / "whole"), last_arrays(tmp_path / "cut")
    for name, array in whole.items():
        np.testing.assert_array_equal(array, cut[name], err_msg=name)


@pytest.mark.slow
def test_what_is_exported_is_what_was_validated(image_set, tmp_path, capsys):
    """With an average the two would differ if one of them took the model's own weights."""
    job = tmp_path / "job"
    assert run_job(image_set, job, **JOB, ema_decay=0.9, export="last", epochs=1, augment="none") == 0
    code, _, err = answer(capsys, evaluate.main, f"--model_dir={job}/export/last", f"--data_dir={image_set}",
                          "--split=Validation", f"--out={tmp_path / 'out'}", "--bootstrap=0")  # fmt: skip
    assert code == 0, err
    measured = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert measured["log_loss"] == pytest.approx(result_of(job)["last_validation"]["loss"], rel=1e-4)
    arrays = CheckpointStore(str(job / "checkpoints"), keep=1).newest().arrays
    assert any((exported(arrays)[name] != arrays[name]).any() for name in arrays)


def test_a_batch_that_parts_do_not_divide_is_refused():
    from trainer.core.config import from_flat

    with pytest.raises(RequestError, match="--accumulate_steps: expected a divisor of the batch_size, 32; received 3"):
        from_flat({"accumulate_steps": 3})


def test_linear_scaling_is_of_the_rate_alone():
    from trainer.core.config import from_flat

    config = from_flat({"batch_size": 128, "scale_learning_rate": True, "learning_rate": 0.01})
    assert config.optim.scaled(128).learning_rate == 0.04
    assert config.optim.scaled(128).scaled(128).learning_rate == 0.04
    plain = from_flat({"batch_size": 128, "learning_rate": 0.01}).optim
    assert plain.scaled(128) == plain
    with pytest.raises(RequestError, match="min_learning_rate <= learning_rate"):
        from_flat({"batch_size": 8, "scale_learning_rate": True, "learning_rate": 2e-5})
