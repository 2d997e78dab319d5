"""From encoded bytes to ``[S, S, 3]`` uint8 pixels or several views, by content and not by file name.

The same graph runs in training, evaluation and the exported model, so they cannot disagree; what it refuses is read by
``rescue.py`` everywhere but in the export.
Owns: the graph, the resize rule.  Does not own: where windows lie (``input_rule.py``), which image is read when
(``order.py``).
"""

import functools
import os
from typing import Any

import tensorflow as tf

from trainer.core.config import MAX_IMAGE_PIXELS
from trainer.core.config.registries import BILINEAR, NEAREST, PAD, RESIZE
from trainer.data import input_rule
from trainer.data.formats import gif_ops, image_format, orientation_ops
from trainer.data.formats.tensor_bytes import digits, first_bytes, starts_with, value
from trainer.data.input_rule import InputRule

_HEADER = 80  # Bytes that hold the dimensions, masks and flags in every format but JPEG.


def decode(data: tf.Tensor, max_pixels: int = MAX_IMAGE_PIXELS) -> tf.Tensor:
    """Decode one JPEG, PNG, BMP, WebP or GIF (first frame) into ``[H, W, 3]`` uint8 in [0, 255], upright.

    Grayscale, palette, CMYK, 16-bit and alpha images become RGB: alpha is dropped, and the upper 8 of 16 bits are kept.
    The image is rotated according to its EXIF orientation (``orientation.py``).

    The op fails with InvalidArgumentError, which names format and remedy, for
    - other formats;
    - what TensorFlow 2.21 would decode differently from Pillow (``image_format.is_for_graph``): outside of an export
      ``rescue.py`` reads it;
    - more than ``max_pixels`` pixels, before anything is decoded.
    """
    is_jpeg = starts_with(data, b"\xff\xd8\xff")
    image = tf.cond(is_jpeg, lambda: _decode_jpeg(data, max_pixels), lambda: _decode_other(data, max_pixels))
    return tf.ensure_shape(_upright(image, orientation_ops.of(data)), [None, None, 3])


def _decode_jpeg(data: tf.Tensor, max_pixels: int) -> tf.Tensor:
    shape = tf.cast(tf.io.extract_jpeg_shape(data), tf.int64)
    with tf.control_dependencies([_not_too_large(shape[0] * shape[1], "JPEG", max_pixels)]):
        return decode_jpeg(data)


def decode_jpeg(data: tf.Tensor | bytes) -> tf.Tensor:
    """Decode a JPEG into ``[H, W, 3]`` uint8, not turned upright and of any size; ``decode`` decodes it so.

    TensorFlow's default is the fast inverse DCT, which is one grey level off libjpeg's accurate one on average; traces
    of forgery are of that size.
    """
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def _upright(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Rotate ``[H, W, 3]`` by EXIF orientation 1 to 8: transpose 5 to 8, then mirror horizontally and vertically."""

    def is_one_of(*values: int) -> tf.Tensor:
        return tf.reduce_any(orientation == tf.constant(values, tf.int64))

    def turned() -> tf.Tensor:
        upright = tf.cond(is_one_of(5, 6, 7, 8), lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        upright = tf.cond(is_one_of(2, 3, 6, 7), lambda: upright[:, ::-1], lambda: upright)
        return tf.cond(is_one_of(3, 4, 7, 8), lambda: upright[::-1], lambda: upright)

    return tf.cond(orientation == 1, lambda: image, turned)


class _Header:
    """The first bytes of an image, and the name of its format (``image_format.name``)."""

    def __init__(self, data: tf.Tensor) -> None:
        self.text = first_bytes(data, _HEADER)
        self._bytes = tf.ensure_shape(digits(self.text, 0, _HEADER), [_HEADER])
        names, places, magics = zip(*image_format.MAGIC, ("", 0, b""), strict=True)  # The last one fits all.
        pieces = tf.strings.substr(tf.fill([len(names)], self.text), places, [len(magic) for magic in magics])
        self.name = tf.gather(names, tf.argmax(pieces == magics))

    def number(self, at: int, count: int, *, big: bool = False) -> tf.Tensor:
        """Return ``count`` bytes from ``at`` as an unsigned number, int64."""
        return value(self._bytes[at : at + count], big=big)


def _decode_other(data: tf.Tensor, max_pixels: int) -> tf.Tensor:
    header = _Header(data)
    with tf.control_dependencies([_supported(header)]):
        limited = _not_too_large(_pixels(header), header.name, max_pixels)
    with tf.control_dependencies([limited]):
        frame = tf.cond(header.name == "GIF", lambda: gif_ops.first_frame(data, header.text), lambda: data)
        return tf.io.decode_image(frame, channels=3, expand_animations=False)


def _supported(header: _Header) -> tf.Operation:
    """Fail for what is not for the graph (``image_format.is_for_graph``); ``gif_ops`` checks GIFs."""
    name, kind = header.name, tf.strings.substr(header.text, 12, 4)
    compression, bits = header.number(30, 4), header.number(28, 2)
    is_masked = (compression == image_format.BI_BITFIELDS) & (bits == 32)
    is_masked &= starts_with(header.text, image_format.BGR_MASKS, 54)
    is_plain_bmp = ((compression == image_format.BI_RGB) & ((bits == 24) | (bits == 32))) | is_masked
    is_plain_bmp &= header.number(14, 4) >= 40
    fancy = tf.bitwise.bitwise_and(header.number(20, 1), image_format.ALPHA | image_format.ANIMATED) != 0
    is_fancy = ((kind == b"VP8X") & fancy) | ((kind == b"VP8L") & (header.number(24, 1) // 16 % 2 == 1))
    problem = tf.where(name == "", image_format.UNKNOWN, "")
    for is_refused, text in (
        (tf.reduce_all(name != tf.constant(["", *image_format.GRAPH])), image_format.unsupported("")),
        ((name == "PNG") & (kind != b"IHDR"), " whose first chunk is not IHDR is not supported here; save it again"),
        (
            (name == "BMP") & ~is_plain_bmp,
            " with a palette, compression or unusual masks is not supported here; save it as PNG",
        ),
        ((name == "WebP") & is_fancy, " with alpha or animation is not supported here; save it as PNG"),
    ):
        problem = tf.where(is_refused, tf.strings.join([name, text]), problem)
    return tf.debugging.Assert(problem == "", [problem], summarize=1)


def _not_too_large(pixels: tf.Tensor, name: tf.Tensor | str, limit: int) -> tf.Operation:
    message = tf.strings.join(image_format.too_large(limit, tf.as_string(pixels), name))
    return tf.debugging.Assert(pixels <= limit, [message], summarize=1)


def _pixels(header: _Header) -> tf.Tensor:
    """Return height times width, int64, of a PNG, GIF, BMP or WebP; 0 for others."""
    number = header.number
    vp8 = tf.where(header.name == "WebP", tf.strings.substr(header.text, 12, 4), b"")
    lossless, height = number(21, 4), number(22, 4)
    height = tf.where(height >= 2**31, 2**32 - height, height)  # Negative in a BMP that is stored top down.
    cases = [
        (header.name == "PNG", number(16, 4, big=True) * number(20, 4, big=True)),
        (header.name == "GIF", number(6, 2) * number(8, 2)),
        (header.name == "BMP", number(18, 4) * height),
        (vp8 == b"VP8X", (number(24, 3) + 1) * (number(27, 3) + 1)),
        (vp8 == b"VP8L", (lossless % 2**14 + 1) * (lossless // 2**14 % 2**14 + 1)),
        (vp8 == b"VP8 ", number(26, 2) % 2**14 * (number(28, 2) % 2**14)),
    ]
    return tf.reduce_sum(tf.where([matches for matches, _ in cases], [count for _, count in cases], 0))


def to_input(image: tf.Tensor, rule: InputRule) -> tf.Tensor:
    """Return what the model sees of ``[H, W, 3]`` or ``[N, H, W, 3]`` uint8: ``[..., *rule.shape]``, uint8.

    Equal to ``InputRule.views_of`` of the image, which ``pad`` shrinks first.
    """
    if rule.mode == RESIZE:
        return resize(image, rule.size, rule.interpolation)
    whole = _fit(image, rule) if rule.mode == PAD else image
    views = []
    for row, column, is_mirrored in rule.places:
        rows = _indices(tf.shape(whole)[-3], rule.size, row)
        columns = _indices(tf.shape(whole)[-2], rule.size, column)
        view = tf.gather(tf.gather(whole, rows, axis=-3), columns[::-1] if is_mirrored else columns, axis=-2)
        views.append(view)
    views_or_one = views[0] if rule.views == 1 else tf.stack(views, axis=-4)
    return tf.ensure_shape(views_or_one, [*image.shape[:-3], *rule.shape])


def _indices(length: tf.Tensor, size: int, place: int) -> tf.Tensor:
    """Return the pixels of a window along a side."""
    return input_rule.reflected(input_rule.start(length, size, place) + tf.range(size), length)


def _fit(image: tf.Tensor, rule: InputRule) -> tf.Tensor:
    """Shrink an image whose longer side exceeds S to it, with its proportions; resampled as ``resize`` does."""
    shape = tf.shape(image, tf.int64)
    height, width = shape[-3], shape[-2]
    target = tf.cast(tf.stack(input_rule.fitted(height, width, rule.size)), tf.int32)
    longer = tf.maximum(height, width)
    return tf.cond(
        longer <= rule.size,
        lambda: image,
        lambda: _resample(image, target, longer > 2 * rule.size, rule.interpolation),
    )


def resize(image: tf.Tensor, size: int, interpolation: str = BILINEAR) -> tf.Tensor:
    """Resize ``[H, W, 3]`` or ``[N, H, W, 3]`` uint8 to ``size`` by ``size`` pixels, uint8.

    If a side shrinks to less than half, bilinear with antialiasing, because the rest would skip source pixels.

    Args:
        image: the pixels.
        size: of the result.
        interpolation: ``nearest`` or ``bilinear``.
    """
    shape = tf.shape(image)
    height, width = shape[-3], shape[-2]
    sides = [size, size]
    shrinks = tf.maximum(height, width) > 2 * size
    same = tf.logical_and(tf.equal(height, size), tf.equal(width, size))
    resized = tf.cond(
        same,
        lambda: image,
        lambda: _resample(image, sides, shrinks, interpolation),
    )
    return tf.ensure_shape(resized, [*image.shape[:-3], size, size, 3])


def _resample(image: tf.Tensor, sides: list[int] | tf.Tensor, shrinks: tf.Tensor, interpolation: str) -> tf.Tensor:
    """Resize to other sides; ``shrinks``: whether one of them becomes less than half."""

    def plain() -> tf.Tensor:
        return _nearest(image, sides) if interpolation == NEAREST else _bilinear(image, sides, False)

    return tf.cond(shrinks, lambda: _bilinear(image, sides, True), plain)


def _nearest(image: tf.Tensor, sides: list[int] | tf.Tensor) -> tf.Tensor:
    # In whole numbers: where a middle lies between two pixels, TensorFlow's own kernel and Pillow round differently.
    shape = tf.shape(image)
    rows, columns = (input_rule.nearest(tf.range(sides[i]), shape[i - 3], sides[i]) for i in (0, 1))
    return tf.gather(tf.gather(image, rows, axis=-3), columns, axis=-2)


def _bilinear(image: tf.Tensor, sides: list[int] | tf.Tensor, antialias: bool) -> tf.Tensor:
    # Adding one half makes the truncating cast round; means of bytes need no clipping.  TensorFlow resizes floats
    # faster than bytes.
    halfway = tf.cast(image, tf.float32) + 0.5
    return tf.cast(tf.image.resize(halfway, sides, antialias=antialias), tf.uint8)


def decode_batch(encoded: tf.Tensor, rule: InputRule, max_pixels: int = MAX_IMAGE_PIXELS) -> tf.Tensor:
    """Decode ``[N]`` encoded images into model input ``[N, *rule.shape]`` uint8, on all cores."""
    return tf.map_fn(
        lambda data: to_input(decode(data, max_pixels), rule),
        encoded,
        fn_output_signature=tf.TensorSpec(rule.shape, tf.uint8),
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
