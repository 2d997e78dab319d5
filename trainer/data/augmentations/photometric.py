"""Brightness, contrast, saturation, hue, a gamma-like curve and noise, on the device.

The colour operations of RandAugment (Cubuk et al. 2020, arXiv:1909.13719), drawn independently and all applied, with
one magnitude for all.  They are composed on the host into a matrix and a curve for each image.
"""

import math

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.core.config import AugmentConfig
from trainer.data.pixels import Floats

HELP = "brightness, contrast, saturation, hue, gamma and slight noise (after Cubuk et al. 2020)."
ORDER = 4

# The largest changes, at magnitude 1.
BRIGHTNESS = 0.4  # Of the range of grey levels.
CONTRAST = 0.4
SATURATION = 0.6
HUE_DEGREES = 36.0
CURVE = 0.5  # Of x + CURVE * x * (1 - x), which XLA rounds alike in every place of a batch, as it may not a power.
NOISE = 8.0  # Standard deviation, grey levels.

_MIDDLE = 127.5
_LUMA = np.array([0.299, 0.587, 0.114])
_YIQ = np.array([_LUMA, [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_SEED = 2**24


def parameters(draws: Floats, size: int, config: AugmentConfig) -> Floats:
    """Return ``[N, 15]``: a 3 x 4 colour matrix by rows, the curve, the noise's deviation and its seed."""
    return np.array([_parameters(row, config.photometric_magnitude) for row in draws.tolist()], np.float32).reshape(
        [len(draws), 15]
    )


def _parameters(draws: list[float], magnitude: float) -> list[float]:
    """Return the parameters of one image; by itself, so that they do not depend on its batch."""
    brightness, contrast, saturation, hue, curve = (magnitude * (2.0 * draw - 1.0) for draw in draws[:5])
    slope = 1.0 + CONTRAST * contrast
    colours = slope * _saturation(1.0 + SATURATION * saturation) @ _hue(math.radians(HUE_DEGREES) * hue)
    offset = _MIDDLE * (1.0 - slope) + 255.0 * BRIGHTNESS * brightness
    matrix = np.concatenate([colours, np.full([3, 1], offset)], axis=1)
    return [*matrix.ravel().tolist(), CURVE * curve, NOISE * magnitude * draws[5], draws[6] * _SEED]


def _saturation(factor: float) -> npt.NDArray[np.float64]:
    return factor * np.eye(3) + (1.0 - factor) * np.tile(_LUMA, [3, 1])


def _hue(angle: float) -> npt.NDArray[np.float64]:
    """Return the rotation of the colours about the greys."""
    cos, sin = math.cos(angle), math.sin(angle)
    rotation = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    return np.asarray(np.linalg.inv(_YIQ) @ rotation @ _YIQ, np.float64)


@tf.function(jit_compile=True, autograph=False)
def device(images: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Return ``[N, S, S, 3]`` float32 in [0, 255], changed as ``values [N, 15]`` say."""
    images = tf.cast(images, tf.float32)
    part = values[:, :, None, None]
    red, green, blue = (images[..., channel] for channel in range(3))
    rows = [part[:, k] * red + part[:, k + 1] * green + part[:, k + 2] * blue + part[:, k + 3] for k in (0, 4, 8)]
    share = tf.clip_by_value(tf.stack(rows, axis=-1) / 255.0, 0.0, 1.0)
    curved = share + values[:, 12, None, None, None] * share * (1.0 - share)
    noise = values[:, 13, None, None, None] * _noise(values[:, 14], images.shape[1])
    return tf.clip_by_value(255.0 * curved + noise, 0.0, 255.0)


def _noise(seeds: tf.Tensor, size: int) -> tf.Tensor:
    """Return ``[N, S, S, 3]`` of mean 0 and deviation 1: the sum of four bytes of a hash of (seed, place).

    A hash, as a generator would depend on the place in the batch.  The mixer is MurmurHash3's (Appleby).
    """
    place = tf.reshape(tf.range(size * size * 3, dtype=tf.int32), [1, size, size, 3])
    mixed = tf.cast(place, tf.uint32) * tf.constant(0x9E3779B1, tf.uint32)
    mixed = (
        mixed + (tf.cast(tf.cast(seeds, tf.int32), tf.uint32) * tf.constant(0xC2B2AE3D, tf.uint32))[:, None, None, None]
    )
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        mixed = tf.bitwise.bitwise_xor(mixed, _right(mixed, shift)) * tf.constant(factor, tf.uint32)
    mixed = tf.bitwise.bitwise_xor(mixed, _right(mixed, 16))
    byte = tf.constant(0xFF, tf.uint32)
    total = tf.add_n([tf.cast(tf.bitwise.bitwise_and(_right(mixed, 8 * k), byte), tf.int32) for k in range(4)])
    deviation = math.sqrt(4 * (256**2 - 1) / 12)
    return (tf.cast(total, tf.float32) - 4 * 255 / 2) / deviation


def _right(values: tf.Tensor, shift: int) -> tf.Tensor:
    return tf.bitwise.right_shift(values, tf.constant(shift, tf.uint32))
