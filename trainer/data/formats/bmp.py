"""Rewrite a BMP whose colours stand where bit masks say as a plain one; Pillow reads only some masks.

Imports no TensorFlow.
"""

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.formats import image_format

_HEADERS = 54  # Bytes before the masks: the file's header and a BITMAPINFOHEADER.


def without_masks(content: bytes) -> bytes:
    """Return a BMP of 24 bits per pixel, bottom up.

    Raises:
        ValueError: if it has no masks, or is cut off.
    """
    if len(content) < _HEADERS + 12:
        raise ValueError("cut off")
    (start,) = struct.unpack_from("<I", content, 10)
    width, height, _, bits, compression = struct.unpack_from("<iiHHI", content, 18)
    if compression != image_format.BI_BITFIELDS or bits not in (16, 32) or width < 1 or not height:
        raise ValueError("no bit masks")
    row = -(-width * bits // 32) * 4
    if start + row * abs(height) > len(content):
        raise ValueError("cut off")
    rows = np.frombuffer(content, np.uint8, row * abs(height), start).reshape(abs(height), row)
    values = rows[:, : width * bits // 8].copy().view(f"<u{bits // 8}")[:: -1 if height < 0 else 1]
    masks = struct.unpack_from("<III", content, _HEADERS)
    pixels = np.zeros([abs(height), -(-width * 3 // 4) * 4], np.uint8)  # A row has a multiple of 4 bytes.
    for channel, mask in enumerate(masks):
        pixels[:, 2 - channel : 3 * width : 3] = _to_eight_bits(values, mask)
    header = struct.pack("<IiiHHIIiiII", 40, width, abs(height), 1, 24, image_format.BI_RGB, pixels.size, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", _HEADERS + pixels.size, 0, 0, _HEADERS) + header + pixels.tobytes()


def _to_eight_bits(values: npt.NDArray[Any], mask: int) -> npt.NDArray[np.uint8]:
    """Return the bits under a mask, stretched to 0 to 255."""
    if not mask:
        return np.zeros(values.shape, np.uint8)
    lowest = mask & -mask
    scaled: npt.NDArray[np.float64] = np.rint((values & mask) // lowest * (255 / (mask // lowest)))
    return scaled.astype(np.uint8)
