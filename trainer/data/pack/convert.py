"""Prepare one image for a packed set: keep its bytes, convert it, or report it as bad."""

import io

import numpy as np
import tensorflow as tf
from PIL import Image, ImageOps

from trainer.data import decode
from trainer.data.pack.request import PackFlags
from trainer.data.tfrecord import Array


def convert(content: bytes | OSError, request: PackFlags) -> tuple[bytes, str]:
    """Return the bytes to store and, if the image is bad, the reason; the bytes of a bad image are not changed."""
    if isinstance(content, OSError):
        return b"", content.strerror or str(content)
    try:
        pixels = decode.decode_one(request.max_image_pixels)(tf.constant(content))
    except tf.errors.InvalidArgumentError as error:  # Pillow may read it, unless it is too large.
        reason = decode.reason(error)
        rescued = None if "max_image_pixels" in reason else _decode_with_pillow(content)
        if rescued is None:
            return content, reason
        pixels, plain = tf.constant(rescued), False
    else:
        plain = _is_plain(content)
    if plain and request.encode == "keep" and not request.resize:
        return content, ""
    if request.resize:
        pixels = decode.resize(pixels, request.resize)
    if request.encode == "jpeg":
        return tf.io.encode_jpeg(pixels, quality=request.jpeg_quality).numpy(), ""
    return tf.io.encode_png(pixels).numpy(), ""


def _is_plain(content: bytes) -> bool:
    """Return whether an image that TensorFlow reads is a JPEG or PNG that every reader decodes alike."""
    with Image.open(io.BytesIO(content)) as image:
        upright = image.getexif().get(0x0112, 1) == 1
        return image.format == "PNG" or (image.format == "JPEG" and image.mode != "CMYK" and upright)


def _decode_with_pillow(content: bytes) -> Array | None:
    """Return ``[H, W, 3]`` uint8 of an image that only Pillow reads, upright; None if it cannot read it either."""
    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
