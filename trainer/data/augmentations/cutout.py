"""A grey square over each image, on the device.

DeVries and Taylor 2017, "Improved regularization of convolutional neural networks with Cutout", arXiv:1708.04552: the
centre is uniform over the image, so the square may reach beyond the edge.
"""

import numpy as np
import tensorflow as tf

from trainer.core.config import AugmentConfig
from trainer.data.pixels import Floats

HELP = "a grey square at a random place (DeVries and Taylor 2017)."
ORDER = 5

GREY = 127.5


def parameters(draws: Floats, size: int, config: AugmentConfig) -> Floats:
    """Return ``[N, 4]``: first and last row and column of each square, the last ones not included."""
    side = round(config.cutout_size * size)
    first = np.floor(draws[:, :2] * np.float32(size)) - side // 2
    return np.concatenate([first, first + side], axis=1).astype(np.float32)


def device(images: tf.Tensor, corners: tf.Tensor) -> tf.Tensor:
    """Return ``[N, S, S, 3]`` float32 in [0, 255] with a grey square where ``corners [N, 4]`` say."""
    places = tf.range(images.shape[1], dtype=tf.float32)[None]
    rows, columns = ((places >= corners[:, i, None]) & (places < corners[:, i + 2, None]) for i in (0, 1))
    covered = rows[:, :, None, None] & columns[:, None, :, None]
    return tf.where(covered, GREY, tf.cast(images, tf.float32))
