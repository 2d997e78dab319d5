"""Horizontal flip of half of the images, on the device."""

import tensorflow as tf

HELP = "horizontal flip of half of the images."
ORDER = 3


def device(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Return ``[N, S, S, 3]`` float32 in [0, 255], each mirrored if its first draw is below a half."""
    images = tf.cast(images, tf.float32)
    return tf.where(draws[:, 0, None, None, None] < 0.5, images[:, :, ::-1], images)
