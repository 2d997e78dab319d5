"""The encoded images of a batch become pixels, many in one call; one that cannot be decoded is named.

The pixels are those of ``decode.decode_batch``, which an export holds, to the last bit.  That graph decodes anything,
but on the way it looks at each header with a dozen small operations and copies each image twice.  So baseline JPEGs,
which nearly all images are, are decoded into the batch's own memory (``jpeg.py``), and those of one size resized
together; what is left goes through ``decode_batch`` itself.
"""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config import MAX_IMAGE_PIXELS
from trainer.data import decode, jpeg
from trainer.data.pixels import Loaded, Pixels, aligned_empty

log = logging.getLogger(__name__)

_TOGETHER_PIXELS = 2**24  # Of the images that are resized in one call: 48 MB, and four times that as floats.


def load_batch(contents: Sequence[bytes | OSError], size: int, max_pixels: int = MAX_IMAGE_PIXELS) -> Loaded:
    """Decode images; one that could not be read or cannot be decoded becomes zeros and an entry in ``errors``."""
    images = aligned_empty((len(contents), size, size, 3))
    errors = {at: one.strerror or str(one) for at, one in enumerate(contents) if isinstance(one, OSError)}
    others = {at: one for at, one in enumerate(contents) if isinstance(one, bytes)}
    for shape, positions in _alike(others, max_pixels):
        pixels = aligned_empty((len(positions), *shape, 3))
        done = [jpeg.decode_into(slot, others[at]) for at, slot in zip(positions, pixels, strict=True)]
        if all(done) and len(positions) == len(contents):
            return Loaded(_resized(pixels, size), {})
        if any(done):
            decoded = np.compress(done, positions)
            images[decoded] = _resized(pixels[done], size)
            for at in decoded.tolist():
                del others[at]
    errors |= _decode_others(others, images, max_pixels)
    images[list(errors)] = 0
    return Loaded(images, errors)


def _alike(contents: dict[int, bytes], max_pixels: int) -> list[tuple[tuple[int, int], list[int]]]:
    """Return positions of plain JPEGs by height and width, in parts that can be resized in one call."""
    parts: list[tuple[tuple[int, int], list[int]]] = []
    filling: dict[tuple[int, int], list[int]] = {}
    for position, content in contents.items():
        height, width = shape = jpeg.plain_shape(content)
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
    for content in jpeg.examples():
        expected = decode.decode_one(MAX_IMAGE_PIXELS)(tf.constant(content)).numpy()
        pixels = aligned_empty(expected.shape)
        if not jpeg.decode_into(pixels, content) or not np.array_equal(pixels, expected):
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
