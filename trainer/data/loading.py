"""The encoded images of a batch become pixels, many in one call; one that cannot be decoded is named.

The pixels are those of ``decode.decode_batch``, which an export holds, to the last bit.  That graph looks at each
image's header with a dozen small operations and decodes in a loop, which together cost a quarter of a small JPEG's
decoding.  Here Python reads the header, and images that go the same way are decoded by a graph without conditions or
loops; what is not a plain JPEG goes through ``decode_batch`` itself.
"""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.config import MAX_IMAGE_PIXELS
from trainer.data import decode
from trainer.data.pixels import Loaded, aligned_zeros

# Ways for an image: whatever it is, or a plain JPEG of the right size, of another, or of one more than twice as large.
_ANY, _STORED, _BILINEAR, _ANTIALIASED = range(4)
_TOGETHER = 64  # Images of one call: each number of them is a graph of its own.
_TOGETHER_PIXELS = 2**24  # Of their decoded pixels, 48 MB.

# ITU-T T.81 (JPEG), table B.1: frame headers, which hold the dimensions; all of SOF0 to SOF15 but DHT, JPG and DAC.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_APP1 = 0xE1


def load_batch(contents: Sequence[bytes | OSError], size: int, max_pixels: int = MAX_IMAGE_PIXELS) -> Loaded:
    """Decode images; one that could not be read or cannot be decoded becomes zeros and an entry in ``errors``.

    Only where one fails are those that were to be decoded with it taken one at a time.
    """
    images = aligned_zeros((len(contents), size, size, 3))
    errors = {at: one.strerror or str(one) for at, one in enumerate(contents) if isinstance(one, OSError)}
    for way, positions in _parts(contents, size, max_pixels):
        try:
            pixels = _decode(way, [contents[position] for position in positions], size, max_pixels)
        except tf.errors.InvalidArgumentError:
            errors |= _one_by_one(contents, positions, images, max_pixels)
            continue
        if len(positions) == len(contents):
            return Loaded(pixels, {})
        images[positions] = pixels
    return Loaded(images, errors)


def _one_by_one(
    contents: Sequence[bytes | OSError], positions: list[int], images: Any, max_pixels: int
) -> dict[int, str]:
    """Decode some images into their places in ``images [N, S, S, 3]``; return why others have none."""
    errors = {}
    for position in positions:
        try:
            images[position] = _decode(_ANY, [contents[position]], images.shape[1], max_pixels)[0]
        except tf.errors.InvalidArgumentError as error:
            errors[position] = decode.reason(error)
    return errors


def _parts(contents: Sequence[bytes | OSError], size: int, max_pixels: int) -> Iterator[tuple[int, list[int]]]:
    """Divide the positions of a batch by way, into parts that can be decoded in one call."""
    waiting: dict[int, list[int]] = {}
    room: dict[int, int] = {}
    for position, content in enumerate(contents):
        if isinstance(content, OSError):
            continue
        way, pixels = _way(content, size, max_pixels)
        if way in waiting and (len(waiting[way]) == _TOGETHER or room[way] < pixels):
            yield way, waiting.pop(way)
        if way not in waiting:
            waiting[way], room[way] = [], _TOGETHER_PIXELS
        waiting[way].append(position)
        room[way] -= pixels
    yield from waiting.items()


def _way(content: bytes, size: int, max_pixels: int) -> tuple[int, int]:
    """Return an image's way, and how many pixels are decoded at once on it."""
    height, width = _plain_jpeg(content)
    if not 0 < height * width <= max_pixels:
        return _ANY, 0
    if height == width == size:
        return _STORED, height * width
    return (_ANTIALIASED if max(height, width) > 2 * size else _BILINEAR), height * width


def _plain_jpeg(content: bytes) -> tuple[int, int]:
    """Return height and width of a JPEG from its frame header; zeros for one with EXIF, and for anything else."""
    at = 2 if content.startswith(b"\xff\xd8") else len(content)
    while at + 9 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker in _FRAMES:
            return int.from_bytes(content[at + 5 : at + 7]), int.from_bytes(content[at + 7 : at + 9])
        if marker == _APP1 and content[at + 4 : at + 8] == b"Exif":
            break
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return 0, 0


def _decode(way: int, data: Sequence[bytes | OSError], size: int, max_pixels: int) -> Any:
    """Return ``[N, size, size, 3] uint8``: a view, TensorFlow keeps the pixels as long as NumPy knows them."""
    decoder = _decoder(size, max_pixels) if way == _ANY else _plain_decoder(way, size, len(data))
    return np.asarray(decoder(tf.constant(data, tf.string)))


@functools.cache
def _decoder(size: int, max_pixels: int) -> Any:
    """Return the compiled ``decode_batch``; one for each image size."""
    return _compiled(lambda encoded: decode.decode_batch(encoded, size, max_pixels), None)


@functools.cache
def _plain_decoder(way: int, size: int, count: int) -> Any:
    """Return a compiled function for ``count`` plain JPEGs that go the same way."""
    resize = {_BILINEAR: decode.bilinear, _ANTIALIASED: decode.antialiased}.get(way, lambda image, _: image)

    def decode_all(encoded: tf.Tensor) -> tf.Tensor:
        images = [resize(decode.jpeg_pixels(data), size) for data in tf.unstack(encoded, count)]
        return tf.ensure_shape(tf.stack(images), [count, size, size, 3])

    return _compiled(decode_all, count)


def _compiled(function: Any, count: int | None) -> Any:
    with tf.device("/CPU:0"):
        signature = [tf.TensorSpec([count], tf.string)]
        return tf.function(function, input_signature=signature, autograph=False).get_concrete_function()
