"""Batch normalisation that padding and the number of devices do not touch."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.commands import answer
from tests.helpers.jobs import argv, float32_policy, result_of, run_job, values_of  # noqa: F401  (a fixture)
from trainer import train
from trainer.core.config import DataConfig, ModelConfig, RuntimeConfig
from trainer.distributed import strategy as strategy_lib
from trainer.models import layers, registry
from trainer.training.step.gradients import Batching
from trainer.training.step.train_step import StepStats, TrainStep


def shard(weights):
    return layers.Shard(tf.constant([0, 0], tf.int64), tf.constant(0), len(weights), tf.constant(weights, tf.float32))


def normalised(layer, inputs, weights):
    """Return the training output and the batch statistics that the layer hands on."""
    its = shard(weights)
    with layers.training_on(its):
        return layer(tf.constant(inputs), training=True).numpy(), its.statistics[layer.key].numpy()


@pytest.fixture
def inputs():
    return np.random.default_rng(0).normal(3.0, 2.0, [6, 5, 5, 4]).astype(np.float32)


def test_training_normalises_over_the_real_examples(inputs):
    out, statistics = normalised(layers.ShardBatchNorm(), inputs, [1, 1, 1, 1, 0, 0])
    real = inputs[:4].astype(np.float64)
    np.testing.assert_allclose(statistics, [real.mean((0, 1, 2)), real.var((0, 1, 2))], rtol=1e-5)
    np.testing.assert_allclose(out[:4].mean((0, 1, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(out[:4].std((0, 1, 2)), 1.0, rtol=1e-3)


def test_padding_changes_nothing(inputs):
    layer = layers.ShardBatchNorm()
    alone = normalised(layer, inputs[:4], [1, 1, 1, 1])
    padded = normalised(layer, np.concatenate([inputs[:4], np.full_like(inputs[:2], 1e6)]), [1, 1, 1, 1, 0, 0])
    np.testing.assert_allclose(padded[0][:4], alone[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(padded[1], alone[1], rtol=1e-5)


def test_a_shard_without_examples_stays_finite(inputs):
    out, statistics = normalised(layers.ShardBatchNorm(), inputs, [0] * 6)
    assert np.isfinite(out).all()
    np.testing.assert_array_equal(statistics, np.zeros([2, 4]))


def test_inference_uses_the_moving_averages(inputs):
    layer = layers.ShardBatchNorm()
    layer(inputs)
    np.testing.assert_allclose(layer(inputs), inputs / np.sqrt(1.001), rtol=1e-5)
    layer.moving.assign([[3.0] * 4, [4.0] * 4])
    np.testing.assert_allclose(layer(inputs), (inputs - 3.0) / np.sqrt(4.001), rtol=1e-4, atol=1e-5)


def test_the_gradient_is_that_of_the_formula(inputs):
    layer, weights = layers.ShardBatchNorm(), [1, 1, 1, 1, 0, 0]
    layer(inputs)
    layer.gamma.assign([0.5, 1.0, 2.0, -1.0])
    upstream = np.random.default_rng(1).normal(size=inputs.shape).astype(np.float32)
    upstream[4:] = 0.0  # The loss leaves padding out.
    x, variables = tf.constant(inputs), [layer.gamma.value, layer.beta.value]
    with tf.GradientTape() as tape, layers.training_on(shard(weights)):
        tape.watch(x)
        out = tf.reduce_sum(layer(x, training=True) * upstream)
    ours = tape.gradient(out, [x, *variables])
    with tf.GradientTape() as tape:
        tape.watch(x)
        mean, variance = tf.nn.moments(x[:4], [0, 1, 2])
        plain = tf.nn.batch_normalization(x[:4], mean, variance, *reversed(variables), layer.epsilon)
        out = tf.reduce_sum(plain * upstream[:4])
    for one, other in zip(ours, tape.gradient(out, [x, *variables]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


def test_a_frozen_layer_uses_its_moving_averages_in_training_too(inputs):
    layer = layers.ShardBatchNorm(epsilon=1e-5)
    layer(inputs)
    layer.moving.assign([[3.0] * 4, [4.0] * 4])
    layer.trainable = False
    its = shard([1] * 6)
    with layers.training_on(its):
        out = layer(tf.constant(inputs), training=True)
    np.testing.assert_allclose(out, (inputs - 3.0) / np.sqrt(4.00001), rtol=1e-4, atol=1e-5)
    assert its.statistics == {}
    assert layers.trained_batch_norms(keras.Sequential([layer])) == []
    layer.trainable = True
    assert normalised(layer, inputs, [1] * 6)[1].shape == (2, 4)


def test_the_initial_averages_weigh_nothing():
    average, values = 77.0, [1.0, 4.0, 2.0]
    for count, value in enumerate(values, 1):
        old = layers.momentum_at(0.9, tf.constant(count)).numpy()
        average = old * average + (1 - old) * value
    assert average == pytest.approx(np.average(values, weights=[0.81, 0.9, 1.0]), rel=1e-5)


# --- in training ----------------------------------------------------------------------------------------------------

IMAGES = 32


def trained(steps, frozen=()):
    """Train cnn_bn and return its steps, its last loss and the batch that it saw at every step."""
    strategy = strategy_lib.setup(RuntimeConfig(precision="float32", num_devices=1), DataConfig(batch_size=IMAGES))
    with strategy.strategy.scope():
        model = registry.build(ModelConfig(model="cnn_bn", dropout=0.0), num_classes=2, image_size=46, seed=0)
        for name in frozen:
            model.get_layer(name).trainable = False
        optimizer = keras.optimizers.Adam(1e-3, name="adam")
        optimizer.build(model.trainable_variables)
    step = TrainStep(strategy.strategy, model, optimizer, None, Batching(IMAGES), seed=0, augmentation="none")
    random = np.random.default_rng(0)
    labels = np.arange(IMAGES, dtype=np.int32) % 2
    image = random.integers(60, 160, [IMAGES, 46, 46, 3]) + 40 * labels[:, None, None, None]
    batch = {"image": image.astype(np.uint8), "label": labels, "weight": np.ones([IMAGES], np.float32)}
    batch = {name: tf.constant(value) for name, value in batch.items()}
    for number in range(steps):
        last = StepStats.of(step.train(batch, tf.constant(number, tf.int64)).numpy())
    return model, step, last.loss_sum / IMAGES, batch


def inference_loss(step, batch):
    probabilities = step.evaluate(batch).numpy()[:, :2]
    return -np.log(probabilities[np.arange(IMAGES), batch["label"].numpy()]).mean()


@pytest.mark.slow
@pytest.mark.parametrize("old", [False, True])
def test_after_ten_steps_the_inference_loss_is_near_the_training_loss(monkeypatch, old):
    if old:
        monkeypatch.setattr(layers, "momentum_at", lambda momentum, updates: tf.constant(0.99))
    _, step, loss, batch = trained(10)
    assert loss < 0.2
    assert (inference_loss(step, batch) > 3 * loss + 0.1) == old


@pytest.mark.slow
def test_a_frozen_layer_keeps_its_averages_while_others_move_theirs():
    model, *_ = trained(2, frozen=["norm1"])
    frozen, moved = model.get_layer("norm1").moving.numpy(), model.get_layer("norm2").moving.numpy()
    np.testing.assert_array_equal(frozen, [[0.0] * 32, [1.0] * 32])
    assert (moved[1] != 1.0).all()


@pytest.mark.parametrize(
    ("batch_size", "devices", "parts"),
    [(32, 1, 4), (32, 2, 2), (16, 1, 2), (16, 2, 1), (12, 1, 1), (8, 1, 1), (24, 1, 2)],
)
def test_no_part_has_fewer_than_eight_images(batch_size, devices, parts):
    runtime = strategy_lib.setup(RuntimeConfig(num_devices=devices), DataConfig(batch_size=batch_size))
    assert strategy_lib.with_normalised_parts(runtime, batch_size, "cnn_bn").gradient_shards == parts


@pytest.mark.parametrize(("batch_size", "devices", "use"), [(4, 1, 8), (12, 2, 16)])
def test_a_batch_that_is_too_small_to_normalise_is_refused(image_set, tmp_path, capsys, batch_size, devices, use):
    words = argv(image_set, tmp_path / "job", model="cnn_bn", batch_size=batch_size, num_devices=devices)
    code, _, err = answer(capsys, train.main, *words)
    assert code == 2
    assert f"received {batch_size} for {devices}; use --batch_size={use} or" in err


@pytest.mark.slow
def test_one_and_two_devices_train_the_same_network(image_set, tmp_path):
    changes = {"model": "cnn_bn", "batch_size": 16, "epochs": 1}
    for devices in (1, 2):
        assert run_job(image_set, tmp_path / str(devices), num_devices=devices, **changes) == 0
    one, two = result_of(tmp_path / "1"), result_of(tmp_path / "2")
    assert one["weights_sha256"] == two["weights_sha256"]
    for ours, theirs in zip(values_of(tmp_path / "1", "train"), values_of(tmp_path / "2", "train"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
