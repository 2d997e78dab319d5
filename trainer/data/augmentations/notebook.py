"""The notebook's augmentation: rotation, shift, shear, zoom and flip as one affine map, applied on the device.

The host turns the draws of each example into a matrix, in NumPy: TensorFlow's operations, one example at a time, took
as long as decoding the image.  The device applies it (``device``): one fused affine that XLA compiles into a gather,
several times faster than ImageProjectiveTransform on a CPU.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.data.pixels import Floats

HELP = "rotation 15 degrees, shear 0.1 degrees, zoom 0.2, shifts 0.1, horizontal flip."
ORDER = 0

# The notebook's ImageDataGenerator.  Its shear_range is in degrees (Keras converts it with deg2rad).
ROTATION_DEGREES = 15.0
SHEAR_DEGREES = 0.1
ZOOM = 0.2
SHIFT = 0.1


def transform_parameters(draws: Floats, size: int) -> dict[str, npt.NDArray[Any]]:
    """Turn ``[N, DRAWS]`` uniforms into the parameters of Keras's ``apply_transform``, each ``[N]`` float64.

    ``theta`` and ``shear`` are in degrees, ``tx`` and ``ty`` in pixels, ``zx`` and ``zy`` factors,
    ``flip_horizontal`` bool.
    """

    def symmetric(column: int, bound: float) -> npt.NDArray[np.float64]:
        return (2.0 * draws[:, column].astype(np.float64) - 1.0) * bound

    return {
        "theta": symmetric(0, ROTATION_DEGREES),
        "tx": symmetric(1, SHIFT * size),
        "ty": symmetric(2, SHIFT * size),
        "shear": symmetric(3, SHEAR_DEGREES),
        "zx": 1.0 + symmetric(4, ZOOM),
        "zy": 1.0 + symmetric(5, ZOOM),
        "flip_horizontal": draws[:, 6] < 0.5,
    }


def affine_matrix(transform: dict[str, npt.NDArray[Any]], size: int) -> Floats:
    """Return ``[N, 2, 3]``: the source (x, y) of output pixel (x, y, 1), as Keras composes it.

    Rotation, then shift, shear and zoom, about the centre at ``size / 2 - 0.5``
    (``keras.src.legacy.preprocessing.image.apply_affine_transform``); the flip comes last, so the output column is
    mirrored first.
    """
    theta, shear = (np.deg2rad(transform[name]) for name in ("theta", "shear"))
    cos, sin = _each(math.cos, theta), _each(math.sin, theta)
    zx, zy = transform["zx"], transform["zy"]
    tx, ty = transform["tx"], transform["ty"]
    cos_shear, sin_shear = _each(math.cos, shear), _each(math.sin, shear)
    # The linear part: rotation x shear x zoom.
    a, b = cos * zx, (-cos * sin_shear - sin * cos_shear) * zy
    c, d = sin * zx, (-sin * sin_shear + cos * cos_shear) * zy
    # The offset keeps the centre in its place, then shifts.
    centre = size / 2 - 0.5
    offset_x = cos * tx - sin * ty + centre * (1.0 - a - b)
    offset_y = sin * tx + cos * ty + centre * (1.0 - c - d)
    # The flip reads output column x at size - 1 - x.
    flip = transform["flip_horizontal"]
    row_x = np.stack([np.where(flip, -a, a), b, np.where(flip, offset_x + a * (size - 1), offset_x)], axis=1)
    row_y = np.stack([np.where(flip, -c, c), d, np.where(flip, offset_y + c * (size - 1), offset_y)], axis=1)
    return np.stack([row_x, row_y], axis=1).astype(np.float32)


def _each(function: Callable[[float], float], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Apply a function to one value at a time.

    Vectorised sines may round differently in a batch of 32 and in two of 16, and training would notice.
    """
    return np.array([function(value) for value in values.tolist()], np.float64)


def parameters(draws: Floats, size: int) -> Floats:
    """Return the affine matrices ``[N, 2, 3]`` for ``[N, DRAWS]`` uniforms; see ``affine_matrix``."""
    return affine_matrix(transform_parameters(draws, size), size)


@tf.function(jit_compile=True, autograph=False)
def device(images: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Sample ``[N, S, S, 3]`` uint8 images at affine source positions: bilinear, nearest pixel outside.

    Args:
        images: [N, S, S, 3] uint8.
        matrix: [N, 2, 3] float32, see ``affine_matrix``.

    Returns:
        [N, S, S, 3] float32 in [0, 255].
    """
    # Where each output pixel comes from; outside the image the nearest pixel counts.
    size = images.shape[1]
    flat = tf.reshape(images, [-1, size * size, 3])
    grid = tf.range(size, dtype=tf.float32)
    x, y = grid[None, None, :], grid[None, :, None]
    part = matrix[:, :, :, None, None]
    limit = float(size - 1)
    source_x = tf.clip_by_value(part[:, 0, 0] * x + part[:, 0, 1] * y + part[:, 0, 2], 0.0, limit)
    source_y = tf.clip_by_value(part[:, 1, 0] * x + part[:, 1, 1] * y + part[:, 1, 2], 0.0, limit)
    # Its four neighbours and their weights.
    left, top = tf.floor(source_x), tf.floor(source_y)
    right_weight, bottom_weight = (source_x - left)[..., None], (source_y - top)[..., None]
    left, top = tf.cast(left, tf.int32), tf.cast(top, tf.int32)
    right, bottom = tf.minimum(left + 1, size - 1), tf.minimum(top + 1, size - 1)

    def pixel(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather(flat, row * size + column, batch_dims=1), tf.float32)

    upper = pixel(top, left) * (1.0 - right_weight) + pixel(top, right) * right_weight
    lower = pixel(bottom, left) * (1.0 - right_weight) + pixel(bottom, right) * right_weight
    return upper * (1.0 - bottom_weight) + lower * bottom_weight
