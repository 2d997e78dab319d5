"""The interpolation of ``decode.resize`` outside of a graph, with the same pixels to the last bit.

Python's threads do this, so it must neither hold the interpreter's lock nor wait for TensorFlow's thread pools.
NumPy converts between bytes and floats, in memory of the thread's own, and releases the lock meanwhile.  Only the
interpolation itself is TensorFlow's: a single operation runs on the thread that calls it, where a graph would go
through two pools.  It gets a few images at a time, whose floats stay in a core's cache.
"""

import functools

import numpy as np
import tensorflow as tf

from trainer.data.pixels import Floats, Pixels, Scratch

TOGETHER_PIXELS = 2**18  # Of the images that are resized in one call: 3 MB of floats.

_HALF = np.float32(0.5)  # It makes the truncating conversion to bytes round; see ``decode``.

_floats = Scratch()


class Stack:
    """Images of one shape that are resized together; one at a time in each thread."""

    def __init__(self, most: int, height: int, width: int) -> None:
        """Make room for ``most`` images."""
        shape = (most, height, width, 3)
        self._floats = _floats.take(4 * most * height * width * 3).view(np.float32).reshape(shape)
        self._count = 0

    def add(self, image: Pixels) -> None:
        """Add an image ``[H, W, 3]``."""
        floats = self._floats[self._count]
        np.copyto(floats, image)
        np.add(floats, _HALF, out=floats)
        self._count += 1

    def resized(self, height: int, width: int) -> Floats:
        """Return all images ``[N, height, width, 3]``; ``np.copyto(pixels, image, casting="unsafe")`` rounds them.

        The caller has chosen the CPU, because TensorFlow would choose the GPU.
        """
        if not self._count:
            return np.empty((0, height, width, 3), np.float32)
        # Without a copy, and so without the lock; TensorFlow relies on the alignment.
        images = tf.experimental.dlpack.from_dlpack(self._floats[: self._count].__dlpack__())
        shape = self._floats.shape[1:3]
        size = _sides(height, width)
        if max(shape) <= 2 * max(height, width):
            return np.asarray(tf.raw_ops.ResizeBilinear(images=images, size=size, half_pixel_centers=True))
        return np.asarray(
            tf.raw_ops.ScaleAndTranslate(
                images=images, size=size, scale=_scales(*shape, height, width), translation=_scales(1, 1, 0, 0),
                kernel_type="triangle", antialias=True,
            )
        )  # fmt: skip


# Operations that are given anything but tensors convert it first, and then hold the lock while they compute.
@functools.lru_cache(1024)
def _sides(height: int, width: int) -> tf.Tensor:
    with tf.device("/CPU:0"):
        return tf.constant([height, width])


@functools.lru_cache(1024)
def _scales(from_height: int, from_width: int, height: int, width: int) -> tf.Tensor:
    with tf.device("/CPU:0"):
        return tf.constant([height, width], tf.float32) / tf.constant([from_height, from_width], tf.float32)
