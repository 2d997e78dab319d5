"""The maximum of 2 x 2 pixels as compiled training takes it: Keras's values and gradients, to the last bit."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.models import layers, max_pooling
from trainer.models.layers import Shard


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(("height", "width"), [(8, 6), (7, 9)])  # The last row and column of odd sides see no window.
@pytest.mark.parametrize("compiled", [False, True])
def test_values_and_gradients_are_those_of_keras(dtype, height, width, compiled):
    random = np.random.default_rng(0)
    # Small whole numbers: most windows hold their largest value more than once.
    images = tf.cast(random.integers(0, 4, [3, height, width, 5]), dtype)
    upstream = tf.cast(random.normal(size=[3, height // 2, width // 2, 5]), dtype)

    def of(function):
        with tf.GradientTape() as tape:
            tape.watch(images)
            values = function(images)
        return values, tape.gradient(values, images, upstream)

    expected = of(keras.layers.MaxPooling2D(2, dtype=dtype))
    received = tf.function(lambda: of(max_pooling.largest), jit_compile=compiled)()
    for one, two in zip(expected, received, strict=True):
        np.testing.assert_array_equal(np.float32(one), np.float32(two))


def test_only_compiled_training_takes_it(monkeypatch):
    calls = []
    monkeypatch.setattr(max_pooling, "largest", lambda images: calls.append(1) or images[:, ::2, ::2])
    layer, images = max_pooling.MaxPooling2D(), tf.ones([1, 4, 4, 1])
    shard = Shard(tf.zeros([2], tf.int64), tf.constant(0), 1, tf.ones([1]))
    for compiled, training, expected in ((True, True, 1), (True, False, 0), (False, True, 0)):
        calls.clear()
        with layers.training_on(shard, compiled=compiled):
            layer(images, training=training)
        assert len(calls) == expected
    assert not layers.is_compiled()


def test_other_windows_are_refused():
    with pytest.raises(AssertionError, match="2 x 2"):
        max_pooling.MaxPooling2D(3)
