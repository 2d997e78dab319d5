"""Dropout as a function of (seed, step, slot), and the walk over a model's layers."""

import numpy as np
import tensorflow as tf

from tests.helpers.jobs import float32_policy  # noqa: F401  (the fixture acts on every test here)
from trainer.models import layers


def masks(layer, strategy, *, seed, batch=8, units=500):
    """Return ``[batch, units]`` of ones after dropout, computed by the strategy's replicas."""
    share = batch // strategy.num_replicas_in_sync

    @tf.function
    def replica():
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        first = tf.cast(number, tf.int32) * share
        with layers.training_on(layers.Shard(tf.constant(seed, tf.int64), first, batch, tf.ones([share]))):
            return layer(tf.ones([share, units]), training=True)

    return np.concatenate([part.numpy() for part in strategy.experimental_local_results(strategy.run(replica))])


def test_a_dropout_mask_depends_on_seed_and_slot_alone():
    layer = layers.SlotDropout(0.5, salt=0)
    one = tf.distribute.OneDeviceStrategy("CPU:0")
    alone = masks(layer, one, seed=[1, 2])
    np.testing.assert_array_equal(alone, masks(layer, tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), seed=[1, 2]))
    np.testing.assert_array_equal(alone, masks(layers.SlotDropout(0.5, salt=0), one, seed=[1, 2]))
    others = {
        "another step": masks(layer, one, seed=[1, 3]),
        "another seed": masks(layer, one, seed=[2, 2]),
        "another layer": masks(layers.SlotDropout(0.5, salt=1), one, seed=[1, 2]),
        "another slot": np.roll(alone, 1, axis=0),
    }
    for name, other in others.items():
        share_alike = (alone == other).mean()
        assert 0.4 < share_alike < 0.6, name  # Independent coins agree half of the time (4000 of them).


def test_dropout_drops_its_share_and_scales_the_rest():
    out = masks(layers.SlotDropout(0.2, salt=0), tf.distribute.get_strategy(), seed=[0, 0], batch=8, units=5000)
    assert abs((out == 0.0).mean() - 0.2) < 0.01  # 40,000 draws: five standard deviations.
    np.testing.assert_allclose(out[out != 0.0], 1.25, rtol=1e-6)


def test_dropout_is_off_when_not_training_or_of_rate_zero():
    inputs = np.random.default_rng(0).random([4, 10], np.float32)
    np.testing.assert_array_equal(layers.SlotDropout(0.5, salt=0)(inputs, training=False), inputs)
    np.testing.assert_array_equal(layers.SlotDropout(0.0, salt=0)(inputs, training=True), inputs)


def test_dropout_keeps_the_dtype_of_mixed_precision():
    layer = layers.SlotDropout(0.5, salt=0, dtype="mixed_float16")
    with layers.training_on(layers.Shard(tf.constant([0, 0], tf.int64), tf.constant(0), 2, tf.ones([2]))):
        assert layer(tf.ones([2, 4]), training=True).dtype == tf.float16


def test_the_walk_finds_layers_in_lists_and_dictionaries_once():
    first, second = layers.SlotDropout(0.1, salt=0), layers.SlotDropout(0.1, salt=1)
    assert list(layers._layers_in([{"a": [first]}, (second,), "text", 3])) == [first, second]
    first.partner, second.partner = second, first  # A circle.
    assert list(layers.all_layers(first)) == [first, second]
