"""Random changes of training images, as functions of (seed, pass, example) alone.

The host draws ``DRAWS`` uniform numbers for each example (``draw``); everything else follows from them.  It does so in
NumPy: TensorFlow's operations, one example at a time, took as long as decoding the image.
``forensic_batch`` works on the host (it needs a JPEG encoder); the notebook's augmentation works on the device: one
fused affine (``warp``) that XLA compiles into a gather, several times faster than ImageProjectiveTransform on a CPU.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.data.pixels import Pixels

Floats = npt.NDArray[np.float32]

DRAWS = 8

# The notebook's ImageDataGenerator.  Its shear_range is in degrees (Keras converts it with deg2rad).
ROTATION_DEGREES = 15.0
SHEAR_DEGREES = 0.1
ZOOM = 0.2
SHIFT = 0.1

# Wang et al. 2020, "CNN-generated images are surprisingly easy to spot... for now", arXiv:1912.11035, section 3.2:
# "Blur+JPEG (0.5)": sigma ~ U[0, 3] pixels and quality ~ U{30, ..., 100}, each with probability 0.5.
BLUR_PROBABILITY = JPEG_PROBABILITY = 0.5
MAX_BLUR_SIGMA = 3.0
JPEG_QUALITY = (30, 100)
_BLUR_RADIUS = 9  # Three times the largest sigma: the tail left out weighs less than 0.3 %.


def draw(seed: int, pass_number: int, index: npt.NDArray[np.int64]) -> Floats:
    """Draw ``[N, DRAWS]`` uniform in [0, 1) for examples ``index [N]`` of a pass.

    One block of Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), whose key is the seed and
    the pass, and whose counter is the example.
    """
    key = [seed, int(pass_number)]
    blocks = [np.random.Philox(key=key, counter=[number, 0, 0, 0]).random_raw(DRAWS // 2) for number in index.tolist()]
    bits = np.array(blocks, np.uint64).reshape(-1, DRAWS // 2).view(np.uint32)
    return (bits >> 8).astype(np.float32) / np.float32(2**24)  # The 24 bits that a float32 holds.


def notebook_parameters(draws: Floats, size: int) -> dict[str, npt.NDArray[Any]]:
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


def affine_matrix(parameters: dict[str, npt.NDArray[Any]], size: int) -> Floats:
    """Return ``[N, 2, 3]``: the source (x, y) of output pixel (x, y, 1), as Keras composes it.

    Rotation, then shift, shear and zoom, about the centre at ``size / 2 - 0.5``
    (``keras.src.legacy.preprocessing.image.apply_affine_transform``); the flip comes last, so the output column is
    mirrored first.
    """
    theta, shear = (np.deg2rad(parameters[name]) for name in ("theta", "shear"))
    cos, sin, zx, zy = _each(math.cos, theta), _each(math.sin, theta), parameters["zx"], parameters["zy"]
    tx, ty = parameters["tx"], parameters["ty"]
    cos_shear, sin_shear = _each(math.cos, shear), _each(math.sin, shear)
    a, b = cos * zx, (-cos * sin_shear - sin * cos_shear) * zy
    c, d = sin * zx, (-sin * sin_shear + cos * cos_shear) * zy
    centre = size / 2 - 0.5
    offset_x = cos * tx - sin * ty + centre * (1.0 - a - b)
    offset_y = sin * tx + cos * ty + centre * (1.0 - c - d)
    flip = parameters["flip_horizontal"]
    row_x = np.stack([np.where(flip, -a, a), b, np.where(flip, offset_x + a * (size - 1), offset_x)], axis=1)
    row_y = np.stack([np.where(flip, -c, c), d, np.where(flip, offset_y + c * (size - 1), offset_y)], axis=1)
    return np.stack([row_x, row_y], axis=1).astype(np.float32)


def _each(function: Callable[[float], float], values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Apply a function to one value after the other.

    Vectorised sines may round differently in a batch of 32 and in two of 16, and training would notice.
    """
    return np.array([function(value) for value in values.tolist()], np.float64)


def notebook_affine(draws: Floats, size: int) -> Floats:
    """Return the notebook's ``[N, 2, 3]`` source positions for ``[N, DRAWS]`` uniforms."""
    return affine_matrix(notebook_parameters(draws, size), size)


@tf.function(jit_compile=True, autograph=False)
def warp(images: tf.Tensor, matrix: tf.Tensor) -> tf.Tensor:
    """Sample ``[N, S, S, 3]`` uint8 images at affine source positions: bilinear, nearest pixel outside.

    Args:
        images: [N, S, S, 3] uint8.
        matrix: [N, 2, 3] float32, see ``affine_matrix``.

    Returns:
        [N, S, S, 3] float32 in [0, 255].
    """
    size = images.shape[1]
    flat = tf.reshape(images, [-1, size * size, 3])
    grid = tf.range(size, dtype=tf.float32)
    x, y = grid[None, None, :], grid[None, :, None]
    part = matrix[:, :, :, None, None]
    limit = float(size - 1)
    source_x = tf.clip_by_value(part[:, 0, 0] * x + part[:, 0, 1] * y + part[:, 0, 2], 0.0, limit)
    source_y = tf.clip_by_value(part[:, 1, 0] * x + part[:, 1, 1] * y + part[:, 1, 2], 0.0, limit)
    left, top = tf.floor(source_x), tf.floor(source_y)
    right_weight, bottom_weight = (source_x - left)[..., None], (source_y - top)[..., None]
    left, top = tf.cast(left, tf.int32), tf.cast(top, tf.int32)
    right, bottom = tf.minimum(left + 1, size - 1), tf.minimum(top + 1, size - 1)

    def pixel(row: tf.Tensor, column: tf.Tensor) -> tf.Tensor:
        return tf.cast(tf.gather(flat, row * size + column, batch_dims=1), tf.float32)

    upper = pixel(top, left) * (1.0 - right_weight) + pixel(top, right) * right_weight
    lower = pixel(bottom, left) * (1.0 - right_weight) + pixel(bottom, right) * right_weight
    return upper * (1.0 - bottom_weight) + lower * bottom_weight


def preview(name: str, images: Pixels, draws: Floats) -> Pixels:
    """Return ``[N, S, S, 3]`` images as training with augmentation ``name`` would see them."""
    if name == "notebook":
        return np.asarray(tf.round(warp(images, notebook_affine(draws, images.shape[1])))).astype(np.uint8)
    return np.asarray(forensic_batch(tf.constant(images), draws)) if name == "forensic" else images


def forensic_batch(images: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    """Blur, recompress and flip ``[N, S, S, 3]`` uint8 on the host, each for half of the images."""
    return tf.map_fn(
        lambda pair: _forensic(*pair),
        (images, draws),
        fn_output_signature=tf.TensorSpec(images.shape[1:], tf.uint8),
    )


def _forensic(image: tf.Tensor, draws: tf.Tensor) -> tf.Tensor:
    image = tf.cond(draws[0] < BLUR_PROBABILITY, lambda: _blur(image, draws[1] * MAX_BLUR_SIGMA), lambda: image)
    low, high = JPEG_QUALITY
    quality = low + tf.cast(draws[3] * (high - low + 1), tf.int32)
    image = tf.cond(draws[2] < JPEG_PROBABILITY, lambda: _recompress(image, quality), lambda: image)
    return tf.cond(draws[4] < 0.5, lambda: image[:, ::-1], lambda: image)


def _recompress(image: tf.Tensor, quality: tf.Tensor) -> tf.Tensor:
    again = tf.image.adjust_jpeg_quality(image, quality, dct_method="INTEGER_ACCURATE")
    return tf.ensure_shape(again, image.shape)


def _blur(image: tf.Tensor, sigma: tf.Tensor) -> tf.Tensor:
    """Blur ``[S, S, 3]`` uint8 with a separable Gaussian of ``sigma`` pixels; edges are mirrored."""
    taps = tf.range(-_BLUR_RADIUS, _BLUR_RADIUS + 1, dtype=tf.float32)
    weights = tf.exp(-0.5 * tf.square(taps / tf.maximum(sigma, 1e-3)))
    kernel = tf.tile((weights / tf.reduce_sum(weights))[:, None, None, None], [1, 1, 3, 1])
    pad = [[_BLUR_RADIUS, _BLUR_RADIUS], [_BLUR_RADIUS, _BLUR_RADIUS], [0, 0]]
    padded = tf.pad(tf.cast(image, tf.float32), pad, mode="SYMMETRIC")[None]
    rows = tf.nn.depthwise_conv2d(padded, kernel, [1, 1, 1, 1], "VALID")
    both = tf.nn.depthwise_conv2d(rows, tf.transpose(kernel, [1, 0, 2, 3]), [1, 1, 1, 1], "VALID")
    return tf.ensure_shape(tf.cast(tf.clip_by_value(tf.round(both[0]), 0.0, 255.0), tf.uint8), image.shape)
