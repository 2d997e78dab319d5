"""ReLU after pooling: the same function and the same gradient as before it, to the last bit."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.jobs import float32_policy, precision_policy  # noqa: F401  (the fixture acts on every test here)
from trainer.models import pooled_relu


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_the_order_changes_no_bit_of_values_and_gradients(policy):
    images = tf.constant(np.random.default_rng(0).normal(size=[2, 15, 15, 3]), tf.float32)

    def of(kind, training):
        keras.utils.set_random_seed(1)
        inputs = keras.Input([15, 15, 3])
        convolution = kind.Conv2D(4, 3, activation="relu", bias_initializer="random_normal")
        model = keras.Model(inputs, kind.MaxPooling2D(2)(convolution(inputs)))
        with tf.GradientTape() as tape:
            tape.watch(images)
            outputs = model(images, training=training)
            target = tf.reduce_sum(tf.cast(outputs, tf.float32) ** 2)
        return [outputs, *tape.gradient(target, [images, *model.trainable_variables])], convolution(images)

    with precision_policy(policy):
        usual, _ = of(keras.layers, True)
        ours, rectified = of(pooled_relu, True)
        for one, two in zip(usual, ours, strict=True):
            np.testing.assert_array_equal(np.float32(one), np.float32(two))
        np.testing.assert_array_equal(np.float32(of(pooled_relu, False)[0][0]), np.float32(usual[0]))
    assert np.mean(np.float32(usual[0]) == 0) > 0.01, "nothing was rectified"
    assert np.min(np.float32(rectified)) == 0  # What exports and explanations see.
