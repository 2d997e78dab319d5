"""Batch normalisation that padding and the number of devices do not touch."""

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.jobs import result_of, run_job, values_of
from trainer.models import layers


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


@pytest.mark.slow
def test_one_and_two_devices_train_the_same_network(image_set, tmp_path):
    changes = {"model": "cnn_bn", "batch_size": 12, "epochs": 1}
    for devices in (1, 2):
        assert run_job(image_set, tmp_path / str(devices), num_devices=devices, **changes) == 0
    one, two = result_of(tmp_path / "1"), result_of(tmp_path / "2")
    assert one["weights_sha256"] == two["weights_sha256"]
    for ours, theirs in zip(values_of(tmp_path / "1", "train"), values_of(tmp_path / "2", "train"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6)
