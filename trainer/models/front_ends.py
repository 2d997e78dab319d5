"""Fixed filters before a network, for traces that it would have to learn first: residuals and block DCT.

All compute in float32 on grey levels, because the traces are a few of them.  The filters are constants, no weights.
Owns: the filters and their source.  Does not own: what learns from their outputs (``networks/``).
"""

import functools
from typing import Any

import keras
import numpy as np
import tensorflow as tf

LEVELS = 255.0  # Grey levels in a unit of the pixels.

# Of Fridrich and Kodovsky 2012, "Rich Models for Steganalysis of Digital Images", IEEE TIFS 7(3), table 1: SQUARE 5x5,
# SQUARE 3x3 and the second order in both directions, each divided by its central weight, as the quantisation there
# does.  Zhou et al. 2018, "Learning Rich Features for Image Manipulation Detection", CVPR, take the first three.
_SQUARE5 = (
    (-1, 2, -2, 2, -1), (2, -6, 8, -6, 2), (-2, 8, -12, 8, -2), (2, -6, 8, -6, 2), (-1, 2, -2, 2, -1)
)  # fmt: skip
_SQUARE3 = ((-1, 2, -1), (2, -4, 2), (-1, 2, -1))
_SECOND = ((1, -2, 1),)
_SRM = tuple(np.array(each) for each in (_SQUARE5, _SQUARE3, _SECOND, np.transpose(_SECOND)))
CENTRAL = np.array([12, 4, 2, 2], np.float32)

# Residuals of more grey levels are edges of the picture; the sources cut them at 2 quanta of 1 to 2.
TRUNCATION = 3.0

BLOCK = 8  # Side of JPEG's blocks, pixels.
STRIDE = 4  # From block to block: every other one lies on JPEG's grid.


@keras.saving.register_keras_serializable("deepdetect")
class Residuals(keras.layers.Layer):  # type: ignore[misc]
    """Truncated SRM residuals of each colour: what a pixel differs by from what its neighbours predict."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return ``[N, S - 4, S - 4, 12]`` in [-1, 1] of pixels ``[N, S, S, 3]`` in [0, 1]."""
        # Divided at the end: GPUs multiply with 10 bits, which hold whole numbers but no twelfths.
        residuals = tf.nn.conv2d(_levels(inputs), residual_filters(), 1, "VALID") / np.tile(CENTRAL, 3)
        return tf.clip_by_value(residuals, -TRUNCATION, TRUNCATION) / TRUNCATION


@keras.saving.register_keras_serializable("deepdetect")
class BlockDct(keras.layers.Layer):  # type: ignore[misc]
    """Logarithmic magnitudes of the DCT of each colour in overlapping blocks of 8x8 pixels."""

    def __init__(self, **kwargs: object) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return ``[N, S // 4 - 1, S // 4 - 1, 192]`` of pixels ``[N, S, S, 3]`` in [0, 1]."""
        coefficients = tf.nn.conv2d(_levels(inputs), dct_filters(), STRIDE, "VALID")
        return tf.math.log1p(tf.abs(coefficients))


def _levels(pixels: tf.Tensor) -> tf.Tensor:
    """Return whole grey levels, which are exact also where a GPU multiplies with 10 bits.

    Cut to the range first, which changes nothing, so that TensorFlow does not merge this factor with the one before: it
    does so in some graphs and not in others, and one and two devices would then round differently.
    """
    return tf.round(tf.clip_by_value(pixels, 0.0, 1.0) * LEVELS)


@functools.cache
def residual_filters() -> Any:
    """Return ``[5, 5, 3, 12]``: every filter for every colour."""
    filters = np.zeros([5, 5, 3, 3, len(_SRM)], np.float32)
    for number, each in enumerate(_SRM):
        top, left = (5 - each.shape[0]) // 2, (5 - each.shape[1]) // 2
        for colour in range(3):
            filters[top : top + each.shape[0], left : left + each.shape[1], colour, colour, number] = each
    return filters.reshape([5, 5, 3, -1])


@functools.cache
def dct_filters() -> Any:
    """Return ``[8, 8, 3, 192]``: the orthonormal DCT-II of ITU-T T.81, annex A.3.3, in JPEG's three colours."""
    frequencies, places = np.mgrid[:BLOCK, :BLOCK]
    basis = np.cos((2 * places + 1) * frequencies * np.pi / (2 * BLOCK)) * np.sqrt(2 / BLOCK)
    basis[0] /= np.sqrt(2)
    # Luminance and chrominance of JFIF (ITU-T T.871, section 7), rows of RGB.
    colours = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]])
    filters = np.einsum("ux,vy,kc->xyckuv", basis, basis, colours)
    return filters.reshape([BLOCK, BLOCK, 3, -1]).astype(np.float32)
