"""Decoded images as NumPy arrays.  Imports no TensorFlow."""

import dataclasses
import math

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class DecodedBatch:
    """A batch of pixels, zeros for bad images, and the ``errors`` by position.

    The pixels are ``images [N, S, S, 3] uint8``, or with several views of each ``[N, V, S, S, 3]``.
    """

    images: Pixels
    errors: dict[int, str]


def aligned_empty(shape: tuple[int, ...]) -> Pixels:
    """Return uninitialised memory aligned to 64 bytes (EIGEN_MAX_ALIGN_BYTES), which TensorFlow uses without a copy."""
    count = math.prod(shape)
    room = np.empty(count + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + count].reshape(shape)
