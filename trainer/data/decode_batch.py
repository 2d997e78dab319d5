"""Decode the encoded images of a batch, many in one call; images that cannot be decoded are reported.

The pixels equal those of ``decode.decode_batch``, which an export contains, to the last bit.  That graph decodes every
format, but it reads each header with a dozen small operations and copies each image twice.  So baseline JPEGs, which
nearly all images are, go through ``decoding/plain.py``.  Crops are cut out without a graph; at random places only so,
for an export never needs that.
All other images go through ``decode.decode_batch``, and what that graph does not take through ``rescue.py``.
Owns: which decoder reads an image.  Does not own: the graph and the resize rule (``decode.py``), where windows lie
(``input_rule.py``).
"""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.core.config import MAX_IMAGE_PIXELS
from trainer.data import decode, resample
from trainer.data.decoding import plain
from trainer.data.formats import image_format, rescue
from trainer.data.formats.image_format import Unreadable
from trainer.data.input_rule import Draws, InputRule
from trainer.data.pixels import DecodedBatch, Pixels, aligned_empty

log = logging.getLogger(__name__)


def load_batch(
    contents: Sequence[bytes | OSError],
    rule: InputRule,
    max_pixels: int = MAX_IMAGE_PIXELS,
    draws: Draws | None = None,
) -> DecodedBatch:
    """Decode images; one that could not be read or cannot be decoded becomes zeros and an entry in ``errors``.

    Args:
        contents: encoded images, or why there are none.
        rule: how an image becomes model input.
        max_pixels: larger images are not decoded.
        draws: ``[N, 2]``, the places of random crops (``input_rule.draw``); None: the rule's own views.
    """
    images = aligned_empty((len(contents), *rule.shape))
    errors = {at: one.strerror or str(one) for at, one in enumerate(contents) if isinstance(one, OSError)}
    others = {at: one for at, one in enumerate(contents) if isinstance(one, bytes)}
    with tf.device("/CPU:0"):
        # The fast path: baseline JPEGs.
        if decoders_agree():
            for at in plain.decode(others, images, rule, max_pixels, draws):
                del others[at]
        # Everything else, damaged JPEGs too, so that TensorFlow decides what is valid.
        errors |= _decode_others(others, images, rule, max_pixels, draws)
    for at in errors:
        images[at] = 0
    return DecodedBatch(images, errors)


@functools.cache
def decoders_agree() -> bool:
    """Return whether both decoders give the same pixels in this process; versions and processors might differ."""
    for content in plain.examples():
        with tf.device("/CPU:0"):
            expected = decode.decode_jpeg(content).numpy()  # Without the graph, whose tracing takes a second.
        pixels = aligned_empty(expected.shape)
        if not plain.decode_into(pixels, content) or not np.array_equal(pixels, expected):
            log.warning("simplejpeg and TensorFlow decode JPEGs differently here; decoding with TensorFlow, slower")
            return False
    return True


def _decode_others(
    contents: dict[int, bytes], images: Pixels, rule: InputRule, max_pixels: int, draws: Draws | None
) -> dict[int, str]:
    """Decode images into their places in ``images [N, *rule.shape]`` and return the reasons of those that fail.

    Those for the graph are decoded together; only if that fails, one at a time to find the bad ones.  So are random
    crops, which the graph does not make.
    """
    together = {at: content for at, content in contents.items() if image_format.is_for_graph(content)}
    if draws is not None:
        together = {}
    if together:
        decoder = _decoder(rule, max_pixels)
        try:
            images[list(together)] = decoder(tf.constant(list(together.values()), tf.string))
        except tf.errors.InvalidArgumentError:
            together = {}
    errors = {}
    for at, content in contents.items():
        if at not in together:
            try:
                _convert(decode_image(content, max_pixels), at, images, rule, draws)
            except Unreadable as error:
                errors[at] = str(error)
    return errors


def _convert(image: Pixels, at: int, images: Pixels, rule: InputRule, draws: Draws | None) -> None:
    """Write the input of a decoded image of any size into ``images [N, *rule.shape]``."""
    shape, pixels = image.shape[:2], image[np.newaxis]
    sides = rule.sides(*shape)
    if sides == shape:
        plain.place(pixels, [at], images, rule, draws)
        return
    stack = resample.Stack(1, *shape)
    stack.pixels[:] = pixels
    plain.place(stack.resized(1, *sides, rule.interpolation), [at], images, rule, draws)


def decode_image(content: bytes, max_pixels: int = MAX_IMAGE_PIXELS) -> Pixels:
    """Return ``[H, W, 3]`` uint8 of one image, upright; the pixels that ``load_batch`` starts from.

    Raises:
        Unreadable: with format and remedy.
    """
    if not image_format.is_for_graph(content):
        return rescue.decode(content, max_pixels)
    try:
        return np.asarray(decode.decode_one(max_pixels)(tf.constant(content)))
    except tf.errors.InvalidArgumentError as error:
        reason = decode.reason(error)
    if "--max_image_pixels" in reason:
        raise Unreadable(reason)
    try:  # Pillow reads some unusual ones.
        return rescue.decode(content, max_pixels)
    except Unreadable as error:
        raise Unreadable(image_format.damaged(image_format.name(content), reason)) from error


@functools.cache
def _decoder(rule: InputRule, max_pixels: int) -> Any:
    """Return the compiled ``decode_batch``; one for each rule."""
    signature = [tf.TensorSpec([None], tf.string)]
    with tf.device("/CPU:0"):
        function = tf.function(
            lambda encoded: decode.decode_batch(encoded, rule, max_pixels), input_signature=signature, autograph=False
        )
        return function.get_concrete_function()
