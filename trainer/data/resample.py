"""The interpolation of ``decode.resize`` outside of a graph, with the same pixels to the last bit.

Python's threads do this, so it must neither hold the interpreter's lock nor wait for TensorFlow's thread pools.
NumPy converts between bytes and floats, in memory of the thread's own, and releases the lock meanwhile.  Only the
interpolation itself is TensorFlow's: a single operation runs on the thread that calls it, where a graph would go
through two pools.  It gets a few images at a time, whose floats stay in a core's cache.
Imports TensorFlow only when it is needed, because processes that decode seldom need it.
"""

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core.config.registries import NEAREST
from trainer.data import input_rule
from trainer.data.pixels import Floats, Pixels, Scratch

TOGETHER_PIXELS = 2**18  # Of the images that are resized in one call: 3 MB of floats.

_HALF = np.float32(0.5)  # It makes the truncating conversion to bytes round; see ``decode``.

_pixels, _floats = Scratch(), Scratch()


class Stack:
    """Room for images of one shape that are resized together; one stack at a time in each thread."""

    def __init__(self, most: int, height: int, width: int) -> None:
        """Make room for ``most`` images: ``pixels [most, H, W, 3]``."""
        shape, count = (most, height, width, 3), most * height * width * 3
        self.pixels = _pixels.take(count).reshape(shape)
        self._floats = _floats.take(4 * count).view(np.float32).reshape(shape)

    def resized(self, count: int, height: int, width: int, interpolation: str) -> Pixels | Floats:
        """Return the first ``count`` images ``[count, height, width, 3]``; ``casting="unsafe"`` rounds them.

        The caller has chosen the CPU, because TensorFlow would choose the GPU.
        """
        shape = self.pixels.shape[1:3]
        shrinks = max(shape) > 2 * max(height, width)
        if interpolation == NEAREST and not shrinks:
            rows, columns = _nearest(shape[0], height), _nearest(shape[1], width)
            # Byte by byte, which NumPy does in two thirds of the time that it needs for groups of three.
            places = (3 * columns[:, np.newaxis] + np.arange(3)).ravel()
            chosen = self.pixels[:count].take(rows, axis=1).reshape(count, height, -1)
            return chosen.take(places, axis=2, mode="clip").reshape(count, height, width, 3)
        floats = self._floats[:count]
        np.copyto(floats, self.pixels[:count])
        np.add(floats, _HALF, out=floats)
        return _interpolated(floats, height, width, shrinks=shrinks)


@functools.lru_cache(1024)
def _nearest(length: int, size: int) -> npt.NDArray[np.int64]:
    """Return for each of ``size`` pixels the one of ``length`` that it becomes."""
    return np.asarray(input_rule.nearest(np.arange(size), length, size))


def _interpolated(floats: Floats, height: int, width: int, *, shrinks: bool) -> Floats:
    """Return images ``[N, H, W, 3]`` as ``[N, height, width, 3]``: bilinear, or averaged if one side shrinks much."""
    import tensorflow as tf

    # Without a copy, and so without the lock; TensorFlow relies on the alignment.
    images = tf.experimental.dlpack.from_dlpack(floats.__dlpack__())
    size = _sides(height, width)
    if not shrinks:
        return np.asarray(tf.raw_ops.ResizeBilinear(images=images, size=size, half_pixel_centers=True))
    return np.asarray(
        tf.raw_ops.ScaleAndTranslate(
            images=images, size=size, scale=_scales(*floats.shape[1:3], height, width), translation=_scales(1, 1, 0, 0),
            kernel_type="triangle", antialias=True,
        )
    )  # fmt: skip


# Operations that are given anything but tensors convert it first, and then hold the lock while they compute.
@functools.lru_cache(1024)
def _sides(height: int, width: int) -> Any:
    import tensorflow as tf

    with tf.device("/CPU:0"):
        return tf.constant([height, width])


@functools.lru_cache(1024)
def _scales(from_height: int, from_width: int, height: int, width: int) -> Any:
    import tensorflow as tf

    with tf.device("/CPU:0"):
        return tf.constant([height, width], tf.float32) / tf.constant([from_height, from_width], tf.float32)
