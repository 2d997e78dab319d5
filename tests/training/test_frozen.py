"""Epochs with a frozen backbone: features that are computed once, a last layer trained on them, and then all layers."""

import contextlib
import os
import shutil
import signal
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.images import write_image_set
from tests.helpers.jobs import (
    checkpoints_of,
    float32_policy,  # noqa: F401  (a fixture)
    lines_of,
    result_of,
    run_job,
    sigterm_after,
    values_of,
)
from trainer.core.config import from_flat
from trainer.core.errors import Diverged
from trainer.data import decode_batch, manifest
from trainer.data.order import Order
from trainer.data.pipeline import ReplicaShare
from trainer.models import registry
from trainer.training import evaluator, optimizers, trainer
from trainer.training.checkpoints.checkpoint import CheckpointStore
from trainer.training.early_stopping import EarlyStopping
from trainer.training.frozen import phase
from trainer.training.frozen.feature_store import FeatureStore
from trainer.training.schedule import Schedule
from trainer.training.step.loss_scale import INITIAL_LOSS_SCALE, LossScale
from trainer.training.stop_controller import StopController
from trainer.training.train_state import TrainState

CHANGE = 5  # Steps of an epoch.
JOB = {
    "model": "tests.helpers.networks:tiny", "epochs": 3, "freeze_backbone_epochs": 1, "checkpoint_every_steps": 3,
    "keep_checkpoints": 9, "backbone_lr_factor": 0.5,
}  # fmt: skip
HEAD = "model/logits/"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return 50 train and 15 validation images a class, one of each split broken."""
    root = tmp_path_factory.mktemp("images")
    write_image_set(root, train=50, validation=15, test=0)
    for name in ("Train/Fake/00007.jpg", "Validation/Real/00014.jpg"):
        (root / name).write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """Return the job_dir of an undisturbed job."""
    job_dir = tmp_path_factory.mktemp("whole") / "job"
    assert run_job(data, job_dir, **JOB) == 0
    return job_dir


@contextlib.contextmanager
def decoded_images():
    """Yield a list that grows by the number of images of each batch that is decoded."""
    counts = []
    real = decode_batch.load_batch

    def load_batch(contents, *arguments):
        counts.append(len(contents))
        return real(contents, *arguments)

    with mock.patch.object(decode_batch, "load_batch", load_batch):
        yield counts


def arrays_of(job_dir, step):
    return CheckpointStore(str(job_dir / "checkpoints"), keep=9).read(step).arrays


def assert_same_job(one, two):
    assert values_of(one) == values_of(two)
    assert result_of(one)["weights_sha256"] == result_of(two)["weights_sha256"]
    assert result_of(one)["skipped"] == result_of(two)["skipped"] == {"Train": 1, "Validation": 1}


@pytest.mark.slow
def test_only_the_last_layer_moves_until_the_backbone_is_released(whole):
    early, change, end = (arrays_of(whole, step) for step in (3, CHANGE, 15))
    moved = {name for name in change if (change[name] != early[name]).any()}
    assert moved == {name for name in change if "logits" in name or name == "optimizer/adam/iteration"}
    assert {name for name in end if name.startswith("model/") and (end[name] == change[name]).all()} == set()
    assert change["optimizer/adam/iteration"] == CHANGE
    assert end["optimizer/adam/iteration"] == 15 - CHANGE  # Counted anew, as the averages began anew.
    assert [line["step"] for line in lines_of(whole, "train")] == [*range(1, 16)]
    assert sum(line["examples"] for line in lines_of(whole, "train")[:CHANGE]) == 99
    assert not (whole / "features").exists()


@pytest.mark.slow
def test_validation_on_features_is_that_of_the_whole_model(data, whole):
    _, validation = manifest.read_train_and_validation(str(data), 0.1, 0)
    config = from_flat({"data_dir": str(data), "job_dir": "J", "image_size": 64, "model": JOB["model"]})
    model = registry.build(config.model, num_classes=2, image_size=64, seed=1)
    for variable in model.variables:
        variable.assign(arrays_of(whole, CHANGE)[f"model/{variable.path}"])
    images, probabilities = evaluator.score_split(model, validation, config.data)
    loss = -np.log(probabilities[np.arange(len(images)), validation.labels[images]]).mean()
    line = lines_of(whole, "validation")[0]
    assert line["step"] == CHANGE
    np.testing.assert_allclose(line["val_loss"], loss, rtol=1e-6)


@pytest.mark.slow
def test_stops_on_both_sides_of_the_change_and_other_devices_change_nothing(data, whole, tmp_path):
    job = tmp_path / "job"
    with sigterm_after(2), decoded_images() as counts:
        assert run_job(data, job, **JOB, num_devices=2) == 75
    assert sum(counts) == 130
    with sigterm_after(CHANGE), decoded_images() as counts:
        assert run_job(data, job, **JOB) == 75
    assert sum(counts) == 0  # The features of the first start are still there, and nothing else needs pixels.
    with sigterm_after(CHANGE + 2):
        assert run_job(data, job, **JOB, num_devices=2) == 75
    assert not (job / "features").exists()
    # As if killed in the frozen epoch, and all that was written later lost.
    for step in checkpoints_of(job):
        if step > 3:
            shutil.rmtree(job / "checkpoints" / f"{step:010d}")
    assert run_job(data, job, **JOB) == 0
    assert_same_job(whole, job)


@pytest.mark.slow
def test_a_stop_among_the_features_keeps_those_that_are_there(data, whole, tmp_path, capsys):
    job = tmp_path / "job"
    polls = []
    real = StopController.poll

    def poll(self):
        polls.append(1)
        if len(polls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self)

    with mock.patch.object(StopController, "poll", poll):
        assert run_job(data, job, **JOB) == 75
    assert "after the features of 64 of 100 images of Train" in capsys.readouterr().err
    assert not (job / "restarts.json").exists()  # It got somewhere.
    with sigterm_after(1), decoded_images() as counts:
        assert run_job(data, job, **JOB) == 75
    assert sum(counts) == 36 + 30
    part = next((job / "features").glob("*/Train-0000000064.npz"))
    part.write_bytes(part.read_bytes()[:-100])
    with decoded_images() as counts, sigterm_after(CHANGE):
        assert run_job(data, job, **JOB) == 75
    assert sum(counts) == 36  # The damaged ones.
    assert run_job(data, job, **JOB) == 0
    assert_same_job(whole, job)


@pytest.mark.slow
def test_a_rollback_goes_back_across_the_change(data, tmp_path, package_log):
    job = tmp_path / "job"
    real, left = trainer.Trainer._log, ["a", "b"]

    def log(self, done, *, force=False):
        real(self, done, force=force)
        if done == 2 * CHANGE + 2 and left:
            raise Diverged(left.pop())

    with mock.patch.object(trainer.Trainer, "_log", log):
        changes = {"freeze_backbone_epochs": 2, "checkpoint_every_steps": 0, "on_divergence": "rollback"}
        assert run_job(data, job, **{**JOB, **changes}) == 0
    assert [f"back to step {step}, " in package_log.text for step in (2 * CHANGE, CHANGE)] == [True, True]
    assert [line["step"] for line in lines_of(job, "train")] == [*range(1, 16)]
    assert lines_of(job, "train")[-1]["learning_rate"] == pytest.approx(1e-3 / 4)
    assert arrays_of(job, 10)["optimizer/adam/iteration"] == 10
    assert arrays_of(job, 15)["optimizer/adam/iteration"] == 5


@pytest.mark.slow
def test_a_job_that_trains_nothing_but_the_last_layer_reads_each_image_once(data, tmp_path):
    """In bfloat16, whose features are kept without rounding, and with a patience that would stop other jobs."""
    job = tmp_path / "job"
    changes = {"freeze_backbone_epochs": 9, "precision": "mixed_bfloat16", "early_stopping_patience": 1,
               "learning_rate": 1.0, "lr_schedule": "constant"}  # fmt: skip
    with decoded_images() as counts:
        assert run_job(data, job, **{**JOB, **changes}) == 0
    assert sum(counts) < 2 * 130  # And a few for the curious.
    assert not (job / "features").exists()
    first, last = arrays_of(job, 3), arrays_of(job, 15)
    assert all((first[name] == last[name]).all() for name in first if not (name.startswith(HEAD) or "/adam/" in name))
    assert not all(line["best"] for line in lines_of(job, "validation"))
    assert result_of(job)["stopped_by"] == "epochs"


def test_parts_of_features_are_read_in_their_order_up_to_a_gap(tmp_path, package_log):
    rows = np.arange(30, dtype=np.float32).reshape(10, 3)
    store = FeatureStore(str(tmp_path / "features"), write=True)
    assert store.read("Train", np.zeros_like(rows)) == 0
    for first, end in ((0, 3), (3, 6), (8, 10)):
        store.save("Train", first, rows[first:end])
    store.save("Validation", 0, rows[::-1])
    read = np.zeros_like(rows)
    assert store.read("Train", read) == 6
    np.testing.assert_array_equal(read, np.concatenate([rows[:6], np.zeros([4, 3])]))
    assert store.read("Train", np.zeros([10, 4], np.float32)) == 0  # Of another network.
    assert store.read("Train", np.zeros([5, 3], np.float32)) == 3
    FeatureStore(str(tmp_path / "features"), write=False).save("Train", 6, rows[6:8])
    part = next((tmp_path / "features").glob("Train-*3.npz"))
    part.write_bytes(part.read_bytes().replace(rows[4].tobytes(), rows[5].tobytes()))
    assert store.read("Train", read) == 3
    assert f"{part} is damaged" in package_log.text


def test_a_disk_without_room_costs_only_the_next_start(tmp_path, package_log):
    (tmp_path / "file").write_text("")
    store = FeatureStore(str(tmp_path / "file" / "features"), write=True)
    store.save("Train", 0, np.zeros([2, 3], np.float32))
    assert "cannot be kept" in package_log.text
    assert store.read("Train", np.zeros([2, 3], np.float32)) == 0


def test_batches_of_features_hold_what_those_of_pixels_would(data):
    train, _ = manifest.read_train_and_validation(str(data), 0.1, 0)
    order = Order(len(train), 24, seed=3)
    rows = np.stack([np.arange(100), np.arange(100) % 7, np.arange(100) != 4], axis=1).astype(np.float32)
    elements = [
        list(phase.feature_batches(train, rows, order, ReplicaShare(2, replica, 1), 2, 6).as_numpy_iterator())
        for replica in (0, 1)
    ]
    for step in range(4):
        _, index, real = map(np.asarray, order.slots(step + 2, 0, 24))
        batch = {name: np.concatenate([each[step][name] for each in elements]) for name in elements[0][0]}
        np.testing.assert_array_equal(batch["index"], index)
        np.testing.assert_array_equal(batch["weight"], real & (index != 4))
        np.testing.assert_array_equal(batch["label"], train.labels[index])
        np.testing.assert_array_equal(batch["features"], rows[index, :2])


# What starts afresh when the backbone is released.


def schedule_of(**changes):
    return Schedule(from_flat({"data_dir": "D", "job_dir": "J", **changes}).optim, 30, 10)


def test_cosine_decays_over_the_frozen_steps_and_again_over_the_others():
    both = schedule_of(lr_schedule="cosine")
    frozen, others = (Schedule(both._config, steps) for steps in (10, 20))
    assert [both.rate(step) for step in range(10)] == [frozen.rate(step) for step in range(10)]
    assert [both.rate(step) for step in range(10, 30)] == [others.rate(step) for step in range(20)]
    assert both.rate(9) < both.rate(10) == 1e-3


def test_the_plateau_begins_again_and_the_rollbacks_stay():
    schedule = schedule_of(plateau_patience=1)
    schedule.lower()
    for _ in range(2):
        schedule.update({"val_accuracy": 0.9})
    assert schedule.rate(9) == pytest.approx(0.5e-4)
    schedule.restart()
    assert schedule.rate(10) == pytest.approx(0.5e-3)
    assert not schedule.update({"val_accuracy": 0.5})  # Of the first epoch of all layers, which is often worse.


def test_early_stopping_waits_for_the_other_layers_and_keeps_the_best_value():
    stopping = EarlyStopping("val_loss", patience=2)
    for step, loss in enumerate((0.5, 0.6, 0.6, 0.6)):
        stopping.update(step, loss, may_stop=False)
    assert not stopping.stopped
    stopping.restart()
    assert not stopping.update(4, 0.6)
    assert not stopping.stopped
    assert not stopping.update(5, 0.6)
    assert (stopping.stopped, stopping.best, stopping.best_step) == (True, 0.5, 0)


@pytest.mark.parametrize("optimizer", list(optimizers.OPTIMIZERS))
def test_every_optimizer_begins_again_as_a_new_one(optimizer):
    """With zeros: if this fails for a new optimizer, ``TrainState.start_fine_tuning`` has to learn its first values."""
    inputs = keras.Input([3])
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(inputs))
    config = from_flat({"data_dir": "D", "job_dir": "J", "optimizer": optimizer})
    new, used = (optimizers.make_optimizer(config.optim) for _ in range(2))
    for each in (new, used):
        each.build(model.trainable_variables)
    used.apply_gradients([(tf.ones_like(variable), variable) for variable in model.trainable_variables])
    scale = LossScale()
    scale.update(tf.constant(False))
    state = TrainState(model, used, scale, Schedule(config.optim, 9), EarlyStopping("val_loss", 0))
    state.start_fine_tuning()
    used.learning_rate = config.optim.learning_rate
    for one, two in zip(new.variables, used.variables, strict=True):
        np.testing.assert_array_equal(one.numpy(), two.numpy(), err_msg=one.path)
    assert scale.scale.numpy() == INITIAL_LOSS_SCALE
