"""Baseline JPEGs become pixels by libjpeg-turbo itself, written straight into the caller's memory.

TensorFlow decodes with the same library, so the pixels are the same to the last bit (``loading.py`` makes sure of it
before it relies on this module); but it takes memory of its own for each image, and copies it.
Imports no TensorFlow.
"""

import numpy as np
import simplejpeg

from trainer.data.pixels import Pixels

NOT_PLAIN = (0, 0)

# ITU-T T.81 (JPEG), table B.1: frame headers hold the dimensions.  All others, among them progressive ones, whose
# unfinished scans versions of the library smooth in different ways, are none of this module's.
_BASELINE, _EXTENDED = 0xC0, 0xC1
_COMPONENTS = (1, 3)  # Of a frame: grey, and colours that are not CMYK.
_START, _START_OF_SCAN = b"\xff\xd8", 0xDA


def plain_shape(content: bytes) -> tuple[int, int]:
    """Return height and width of a baseline JPEG from its frame header; ``NOT_PLAIN`` for anything else."""
    at = len(_START) if content.startswith(_START) else len(content)
    while at + 10 <= len(content) and content[at] == 0xFF and content[at + 1] != _START_OF_SCAN:
        if content[at + 1] in (_BASELINE, _EXTENDED):
            precision, components = content[at + 4], content[at + 9]
            if precision != 8 or components not in _COMPONENTS:
                break
            return int.from_bytes(content[at + 5 : at + 7]), int.from_bytes(content[at + 7 : at + 9])
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return NOT_PLAIN


def decode_into(pixels: Pixels, content: bytes) -> bool:
    """Decode a JPEG into ``pixels [H, W, 3] uint8``, RGB, with the accurate inverse DCT and smooth chroma.

    Returns False, with ``pixels`` in an unknown state, if the JPEG is damaged in any way or has another shape.
    """
    try:
        decoded = simplejpeg.decode_jpeg(content, "RGB", buffer=pixels, strict=True)
    except ValueError:
        return False
    return bool(decoded.shape == pixels.shape)


def examples() -> list[bytes]:
    """Return small JPEGs of noise, one for each way that chroma is usually stored, for comparing decoders."""
    noise = np.random.default_rng(0).integers(0, 256, [37, 53, 3], np.uint8)
    colours = [simplejpeg.encode_jpeg(noise, colorsubsampling=way) for way in ("444", "422", "420", "440", "411")]
    grey = simplejpeg.encode_jpeg(np.ascontiguousarray(noise[:, :, :1]), colorspace="GRAY", colorsubsampling="Gray")
    return [*colours, grey]
