"""The encoded images of a batch become pixels, many in one call; one that cannot be decoded is named.

The pixels are those of ``decode.decode_batch``, which an export holds, to the last bit.  That graph decodes anything,
but on the way it looks at each header with a dozen small operations and copies each image twice.  So baseline JPEGs,
which nearly all images are, are decoded into the batch's own memory (``decode_batch.py``), and those of one size resized
together; what is left goes through ``decode_batch`` itself.
"""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import simplejpeg
import tensorflow as tf

from trainer.core.config import MAX_IMAGE_PIXELS
from trainer.data import decode
from trainer.data.pixels import DecodedBatch, Pixels, aligned_empty

log = logging.getLogger(__name__)

_TOGETHER_PIXELS = 2**24  # Of the images that are resized in one call: 48 MB, and four times that as floats.


def load_batch(contents: Sequence[bytes | OSError], size: int, max_pixels: int = MAX_IMAGE_PIXELS) -> DecodedBatch:
    """Decode images; one that could not be read or cannot be decoded becomes zeros and an entry in ``errors``."""
    images = aligned_empty((len(contents), size, size, 3))
    errors = {at: one.strerror or str(one) for at, one in enumerate(contents) if isinstance(one, OSError)}
    others = {at: one for at, one in enumerate(contents) if isinstance(one, bytes)}
    for shape, positions in _alike(others, max_pixels):
        pixels = aligned_empty((len(positions), *shape, 3))
        done = [decode_into(slot, others[at]) for at, slot in zip(positions, pixels, strict=True)]
        if all(done) and len(positions) == len(contents):
            return DecodedBatch(_resized(pixels, size), {})
        if any(done):
            decoded = np.compress(done, positions)
            images[decoded] = _resized(pixels[done], size)
            for at in decoded.tolist():
                del others[at]
    errors |= _decode_others(others, images, max_pixels)
    images[list(errors)] = 0
    return DecodedBatch(images, errors)


def _alike(contents: dict[int, bytes], max_pixels: int) -> list[tuple[tuple[int, int], list[int]]]:
    """Return positions of plain JPEGs by height and width, in parts that can be resized in one call."""
    parts: list[tuple[tuple[int, int], list[int]]] = []
    filling: dict[tuple[int, int], list[int]] = {}
    for position, content in contents.items():
        height, width = shape = plain_shape(content)
        turned = any(content[place : place + 4] == b"Exif" for place in decode.EXIF_AT)
        if not 0 < height * width <= max_pixels or turned or not _decoders_agree():
            continue
        part = filling.get(shape)
        if part is None or (len(part) + 1) * height * width > _TOGETHER_PIXELS:
            part = filling[shape] = []
            parts.append((shape, part))
        part.append(position)
    return parts


@functools.cache
def _decoders_agree() -> bool:
    """Tell whether both decoders give the same pixels here: versions or processors might differ."""
    for content in examples():
        expected = decode.decode_one(MAX_IMAGE_PIXELS)(tf.constant(content)).numpy()
        pixels = aligned_empty(expected.shape)
        if not decode_into(pixels, content) or not np.array_equal(pixels, expected):
            log.warning("simplejpeg and TensorFlow decode JPEGs differently here; decoding with TensorFlow, slower")
            return False
    return True


def _decode_others(contents: dict[int, bytes], images: Pixels, max_pixels: int) -> dict[int, str]:
    """Decode images into their places in ``images [N, S, S, 3]``; return why others have none.

    Only where one fails are they taken one at a time.
    """
    if not contents:
        return {}
    decoder = _decoder(images.shape[1], max_pixels)
    try:
        images[list(contents)] = decoder(tf.constant(list(contents.values()), tf.string))
        return {}
    except tf.errors.InvalidArgumentError:
        errors = {}
    for at, content in contents.items():
        try:
            images[at] = decoder(tf.constant([content], tf.string))[0]
        except tf.errors.InvalidArgumentError as error:
            errors[at] = decode.reason(error)
    return errors


def _resized(images: Pixels, size: int) -> Pixels:
    """Return ``[N, S, S, 3]``; a view, TensorFlow keeps the pixels as long as NumPy knows them."""
    if images.shape[1:3] == (size, size):
        return images
    return np.asarray(_resizer(size)(tf.constant(images)))


@functools.cache
def _decoder(size: int, max_pixels: int) -> Any:
    """Return the compiled ``decode_batch``; one for each image size."""
    return _compiled(lambda encoded: decode.decode_batch(encoded, size, max_pixels), tf.TensorSpec([None], tf.string))


@functools.cache
def _resizer(size: int) -> Any:
    """Return the compiled ``resize`` of ``[N, H, W, 3]`` uint8."""
    return _compiled(lambda images: decode.resize(images, size), tf.TensorSpec([None, None, None, 3], tf.uint8))


def _compiled(function: Any, signature: tf.TensorSpec) -> Any:
    with tf.device("/CPU:0"):
        return tf.function(function, input_signature=[signature], autograph=False).get_concrete_function()


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
