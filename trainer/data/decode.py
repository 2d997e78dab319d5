"""From encoded bytes to ``[S, S, 3]`` uint8 pixels, by content and not by file name.

The same graph runs in training, evaluation and the exported model, so they cannot disagree.
Owns: which formats are valid, the resize rule.  Does not own: which image is read when (``order.py``).
"""

import functools
import os
from typing import Any

import tensorflow as tf

from trainer.core.config import MAX_IMAGE_PIXELS

_JPEG = b"\xff\xd8\xff"
_PNG = b"\x89PN"
_GIF = b"GIF"
_BMP = b"BM"
_HEADER = 32  # Bytes that hold the dimensions in every format but JPEG.

# Where "Exif" stands if its segment is the first of a JPEG, or the first after JFIF's; a TIFF header follows.
EXIF_AT = (6, 24)
_EXIF_BYTES = 2048
# Tag 0x0112, type 3 (16 bits), count 1: the orientation's entry, the value follows (TIFF 6.0, Exif 2.3).
_ORIENTATION = {b"II": b"\x12\x01\x03\x00\x01\x00\x00\x00", b"MM": b"\x01\x12\x00\x03\x00\x00\x00\x01\x00"}


def decode(data: tf.Tensor, max_pixels: int = MAX_IMAGE_PIXELS) -> tf.Tensor:
    """Decode one JPEG, PNG, BMP, WebP or GIF (first frame) into ``[H, W, 3]`` uint8 in [0, 255], upright.

    Grayscale, palette, CMYK, 16-bit and alpha images become RGB: alpha is dropped, and the upper 8 of 16 bits are kept.
    A JPEG is rotated according to its EXIF orientation.

    The op fails with InvalidArgumentError for
    - anything else;
    - WebPs with alpha or animation: TensorFlow 2.21 accepts them with other numbers of channels only, and corrupts its
      memory with ``channels=0``;
    - BMPs of 8 bits: TensorFlow ignores their palette, so the pixels would silently be palette indices;
    - headers that announce more than ``max_pixels`` pixels, before anything is decoded.
    """
    is_jpeg = tf.strings.substr(data, 0, 3) == _JPEG
    image = tf.cond(is_jpeg, lambda: _decode_jpeg(data, max_pixels), lambda: _decode_other(data, max_pixels))
    return tf.ensure_shape(image, [None, None, 3])


def _decode_jpeg(data: tf.Tensor, max_pixels: int) -> tf.Tensor:
    shape = tf.cast(tf.io.extract_jpeg_shape(data), tf.int64)
    with tf.control_dependencies([_not_too_large(shape[0] * shape[1], max_pixels)]):
        # TensorFlow's default is the fast inverse DCT, which is one grey level off libjpeg's accurate one on average;
        # traces of forgery are of that size.
        image = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    header = _first_bytes(data, _EXIF_BYTES)
    has_exif = tf.reduce_any([tf.strings.substr(header, place, 4) == b"Exif" for place in EXIF_AT])
    return tf.cond(has_exif, lambda: _upright(image, _orientation(header)), lambda: image)


def _first_bytes(data: tf.Tensor, count: int) -> tf.Tensor:
    """Return the first ``count`` bytes, zero-padded, because ``substr`` fails beyond the end."""
    return tf.strings.join([tf.strings.substr(data, 0, count), tf.constant(b"\0" * _HEADER)])


def _orientation(header: tf.Tensor) -> tf.Tensor:
    """Return the EXIF orientation (1 to 8, int32) from a JPEG's first bytes; 1 if there is none."""
    begin = tf.where(tf.strings.substr(header, EXIF_AT[0], 4) == b"Exif", *EXIF_AT)
    tiff = tf.strings.substr(header, begin + 6, _EXIF_BYTES)
    entry = tf.where(tf.strings.substr(tiff, 0, 2) == b"II", *_ORIENTATION.values())
    # The byte after the entry's first bytes; without such an entry b"\x01", which means upright.
    parts = tf.concat([tf.strings.split([tiff], entry).values[1:], [b"\x01"]], 0)
    return tf.cast(tf.io.decode_raw(tf.strings.substr(parts[0], 0, 1), tf.uint8)[0], tf.int32)


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Rotate ``[H, W, 3]`` by EXIF orientation 1 to 8: transpose 5 to 8, then mirror horizontally and vertically."""

    def is_one_of(*values: int) -> tf.Tensor:
        return tf.reduce_any(orientation == tf.constant(values))

    image = tf.cond(is_one_of(5, 6, 7, 8), lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
    image = tf.cond(is_one_of(2, 3, 6, 7), lambda: image[:, ::-1], lambda: image)
    return tf.cond(is_one_of(3, 4, 7, 8), lambda: image[::-1], lambda: image)


def _decode_other(data: tf.Tensor, max_pixels: int) -> tf.Tensor:
    header = _first_bytes(data, _HEADER)
    palette_bmp = tf.logical_and(tf.strings.substr(header, 0, 2) == _BMP, _number(header, 28, 2) <= 8)
    not_palette = tf.debugging.Assert(
        tf.logical_not(palette_bmp), ["BMP with a palette is not supported; save it as PNG"], summarize=1
    )
    with tf.control_dependencies([not_palette, _not_too_large(_pixels(header), max_pixels)]):
        return tf.io.decode_image(data, channels=3, expand_animations=False)


def _not_too_large(pixels: tf.Tensor, limit: int) -> tf.Operation:
    message = tf.strings.join(
        [f"expected at most {limit} pixels (--max_image_pixels), received ", tf.as_string(pixels)]
    )
    return tf.debugging.Assert(pixels <= limit, [message], summarize=1)


def _pixels(header: tf.Tensor) -> tf.Tensor:
    """Return height times width, int64, of a PNG, GIF, BMP or WebP from its first 32 bytes; 0 for others."""
    vp8 = tf.strings.substr(header, 12, 4)
    lossless = _number(header, 21, 4)
    cases = [
        (tf.strings.substr(header, 0, 3) == _PNG, _number(header, 16, 4, big=True) * _number(header, 20, 4, big=True)),
        (tf.strings.substr(header, 0, 3) == _GIF, _number(header, 6, 2) * _number(header, 8, 2)),
        (tf.strings.substr(header, 0, 2) == _BMP, _number(header, 18, 4) * tf.abs(_signed(_number(header, 22, 4)))),
        (vp8 == b"VP8X", (_number(header, 24, 3) + 1) * (_number(header, 27, 3) + 1)),
        (vp8 == b"VP8L", (lossless % 2**14 + 1) * (lossless // 2**14 % 2**14 + 1)),
        (vp8 == b"VP8 ", _number(header, 26, 2) % 2**14 * (_number(header, 28, 2) % 2**14)),
    ]
    pixels = tf.constant(0, tf.int64)
    for matches, count in cases:
        pixels = tf.where(matches, count, pixels)
    return pixels


def _number(header: tf.Tensor, at: int, count: int, *, big: bool = False) -> tf.Tensor:
    """Return ``count`` bytes from ``at`` as an unsigned number, int64."""
    weights = [256**power for power in range(count)]
    digits = tf.cast(tf.io.decode_raw(tf.strings.substr(header, at, count), tf.uint8), tf.int64)
    return tf.reduce_sum(digits * tf.constant(weights[::-1] if big else weights, tf.int64))


def _signed(number: tf.Tensor) -> tf.Tensor:
    """Reinterpret 32 unsigned bits as a signed number: a BMP stored top down has a negative height."""
    return tf.where(number >= 2**31, number - 2**32, number)


def resize(image: tf.Tensor, size: int) -> tf.Tensor:
    """Resize ``[H, W, 3]`` or ``[N, H, W, 3]`` uint8 to ``size`` by ``size`` pixels, uint8.

    Bilinear, with antialiasing if a side shrinks to less than half, where plain bilinear would skip source pixels.
    """
    shape = tf.shape(image)
    height, width = shape[-3], shape[-2]
    shrinks = tf.maximum(height, width) > 2 * size
    same = tf.logical_and(tf.equal(height, size), tf.equal(width, size))
    resized = tf.cond(
        same,
        lambda: image,
        lambda: tf.cond(shrinks, lambda: _bilinear(image, size, True), lambda: _bilinear(image, size, False)),
    )
    return tf.ensure_shape(resized, [*image.shape[:-3], size, size, 3])


def _bilinear(image: tf.Tensor, size: int, antialias: bool) -> tf.Tensor:
    # Adding one half makes the truncating cast round; means of bytes need no clipping.  TensorFlow resizes floats
    # faster than bytes.
    halfway = tf.cast(image, tf.float32) + 0.5
    return tf.cast(tf.image.resize(halfway, [size, size], antialias=antialias), tf.uint8)


def decode_batch(encoded: tf.Tensor, size: int, max_pixels: int = MAX_IMAGE_PIXELS) -> tf.Tensor:
    """Decode and resize ``[N]`` encoded images into ``[N, size, size, 3]`` uint8, on all cores."""
    return tf.map_fn(
        lambda data: resize(decode(data, max_pixels), size),
        encoded,
        fn_output_signature=tf.TensorSpec([size, size, 3], tf.uint8),
        parallel_iterations=max(os.cpu_count() or 1, 4),
    )


@functools.cache
def decode_one(max_pixels: int) -> Any:
    """Return ``decode``, compiled, for one image at a time."""
    with tf.device("/CPU:0"):
        signature = [tf.TensorSpec([], tf.string)]
        function = tf.function(lambda data: decode(data, max_pixels), input_signature=signature, autograph=False)
        return function.get_concrete_function()


# What TensorFlow writes around the reason: where in the graph and the program the op was created.
_PLACES = ("Graph execution error", "Detected at", 'File "', "[[", "Original stack trace", "Stack trace for op")


def reason(error: tf.errors.OpError) -> str:
    """Return the line of a TensorFlow error that gives the reason, without node names."""
    lines = [line.strip() for line in str(error.message).splitlines()]
    useful = [line for line in lines if line and not line.startswith(_PLACES) and "root error(s) found" not in line]
    text = (useful or [type(error).__name__])[0].removeprefix("(0) ")
    text = text.split("}} ", 1)[-1].split(" [Op:", 1)[0]
    if text.startswith("assertion failed: ["):
        text = text.removeprefix("assertion failed: [").rstrip("]")
    return text[:300]
