"""The only place that scales pixels: 8-bit grey levels to the [0, 1] that every model takes.

A network that expects another range says so by ``INPUT_RANGE``; ``registry.build`` then puts the change of range into
the model, so that training, evaluation and exports all feed [0, 1].
"""

from collections.abc import Callable

import keras
import tensorflow as tf

UNIT_RANGE = (0.0, 1.0)
_LARGEST = 255.0  # Of 8 bits.


def to_unit_range(images: tf.Tensor) -> tf.Tensor:
    """Return float32 in [0, 1] for ``[N, S, S, 3]`` grey levels in [0, 255], uint8 or float32 (augmented)."""
    return tf.cast(images, tf.float32) / _LARGEST


def probabilities(model: Callable[..., tf.Tensor], images: tf.Tensor) -> tf.Tensor:
    """Return ``[N, C]``: of ``images [N, S, S, 3]`` uint8, or the mean over the views of ``[N, V, S, S, 3]``.

    Args:
        model: from ``[N, S, S, 3]`` in [0, 1] to probabilities; called for one view after another, so that memory does
            not grow.
        images: the views.
    """

    def score(view: tf.Tensor) -> tf.Tensor:
        return model(to_unit_range(view), training=False)

    if images.shape.rank == 4:
        return score(images)
    by_view = tf.transpose(images, [1, 0, 2, 3, 4])
    scores = tf.map_fn(score, by_view, fn_output_signature=tf.float32, parallel_iterations=1)
    return tf.reduce_mean(scores, axis=0)


def to_input_range(pixels: keras.KerasTensor, input_range: tuple[float, float]) -> keras.KerasTensor:
    """Return what a network sees of a model's inputs in [0, 1]; adds a layer only for another range."""
    if tuple(input_range) == UNIT_RANGE:
        return pixels
    low, high = input_range
    # In float32, because bfloat16 rounds the upper grey levels of [0, 1] by up to half of one.
    return InputRange(high - low, low, dtype="float32", name="input_range")(pixels)


@keras.saving.register_keras_serializable("deepdetect")
class InputRange(keras.layers.Rescaling):  # type: ignore[misc]
    """Change of range that TensorFlow does not merge with the division before it, see ``front_ends.py``."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the pixels in the other range."""
        return super().call(tf.clip_by_value(inputs, *UNIT_RANGE))
