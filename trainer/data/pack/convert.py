"""Prepare one image for a packed set: keep its bytes, convert it, or report it as bad."""

import tensorflow as tf

from trainer.data import decode, decode_batch
from trainer.data.formats import image_format, orientation
from trainer.data.formats.image_format import Unreadable
from trainer.data.pack.request import PackFlags

_CMYK = 4  # Components of a JPEG.


def convert(content: bytes | OSError, request: PackFlags) -> tuple[bytes, str]:
    """Return the bytes to store and, if the image is bad, the reason; the bytes of a bad image are not changed."""
    if isinstance(content, OSError):
        return b"", content.strerror or str(content)
    try:
        pixels = tf.constant(decode_batch.decode_image(content, request.max_image_pixels))
    except Unreadable as error:
        return content, str(error)
    if _is_plain(content) and request.encode == "keep" and not request.resize:
        return content, ""
    if request.resize:
        pixels = decode.resize(pixels, request.resize, request.interpolation)
    if request.encode == "jpeg":
        return tf.io.encode_jpeg(pixels, quality=request.jpeg_quality).numpy(), ""
    return tf.io.encode_png(pixels).numpy(), ""


def _is_plain(content: bytes) -> bool:
    """Return whether a readable image is a JPEG or PNG that every reader decodes alike."""
    if not image_format.is_for_graph(content) or orientation.of(content) != 1:
        return False
    name = image_format.name(content)
    return name == "PNG" or (name == "JPEG" and orientation.jpeg_components(content) != _CMYK)
