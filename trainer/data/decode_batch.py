"""Decode the encoded images of a batch, many in one call; images that cannot be decoded are reported.

The pixels equal those of ``decode.decode_batch``, which an export contains, to the last bit.  That graph decodes every
format, but it reads each header with a dozen small operations and copies each image twice.  So baseline JPEGs, which
nearly all images are, are decoded by simplejpeg, and resized while their pixels are still in a core's cache
(``resample.py``).  Crops are cut out here, without a graph; at random places only here, for an export never needs that.
All other images go through ``decode.decode_batch``, and what that graph does not take through ``rescue.py``.
Owns: which decoder reads an image.  Does not own: the graph and the resize rule (``decode.py``), where windows lie
(``input_rule.py``).
"""

import functools
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
import tensorflow as tf

from trainer.core.config import MAX_IMAGE_PIXELS
from trainer.core.config.registries import RESIZE
from trainer.data import decode, resample
from trainer.data.formats import image_format, orientation, rescue
from trainer.data.formats.image_format import Unreadable
from trainer.data.input_rule import Draws, InputRule
from trainer.data.pixels import DecodedBatch, Pixels, aligned_empty

log = logging.getLogger(__name__)

NOT_PLAIN = (0, 0)

# ITU-T T.81 (JPEG), table B.1: the frame headers that hold the dimensions of baseline JPEGs.  All others are left to
# TensorFlow, among them progressive ones, whose unfinished scans are smoothed differently by versions of the library.
_BASELINE, _EXTENDED = 0xC0, 0xC1
_COMPONENTS = (1, 3)  # Of a frame: grey, and colours that are not CMYK.
_START = b"\xff\xd8"
_START_OF_SCAN = 0xDA


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
        # The fast path: baseline JPEGs; those of equal size are resized together.
        for shape, positions in _group_by_shape(others, max_pixels):
            for at in _decode_group(others, positions, shape, images, rule, draws):
                del others[at]
        # Everything else, damaged JPEGs too, so that TensorFlow decides what is valid.
        errors |= _decode_others(others, images, rule, max_pixels, draws)
    for at in errors:
        images[at] = 0
    return DecodedBatch(images, errors)


def _group_by_shape(contents: dict[int, bytes], max_pixels: int) -> list[tuple[tuple[int, int], list[int]]]:
    """Return positions of plain JPEGs by height and width, in groups that can be resized in one call."""
    groups: list[tuple[tuple[int, int], list[int]]] = []
    open_groups: dict[tuple[int, int], list[int]] = {}  # By shape, the one that has room.
    if not _decoders_agree():
        return groups
    for position, content in contents.items():
        shape = plain_shape(content)
        pixels = shape[0] * shape[1]
        if not 0 < pixels <= max_pixels:
            continue
        group = open_groups.get(shape)
        if group is None or (len(group) + 1) * pixels > resample.TOGETHER_PIXELS:
            group = open_groups[shape] = []
            groups.append((shape, group))
        group.append(position)
    return groups


def _decode_group(
    contents: dict[int, bytes],
    positions: list[int],
    shape: tuple[int, int],
    images: Pixels,
    rule: InputRule,
    draws: Draws | None,
) -> list[int]:
    """Decode JPEGs of one shape into their places in ``images [N, *rule.shape]`` and return those that are whole."""
    if rule.mode == RESIZE and shape == (rule.size, rule.size):
        return [at for at in positions if decode_into(images[at], contents[at])]
    stack, sides = resample.Stack(len(positions), *shape), rule.sides(*shape)
    whole: list[int] = []
    for at in positions:
        if decode_into(stack.pixels[len(whole)], contents[at]):  # The next one overwrites a damaged one.
            whole.append(at)
    if whole and sides == shape:
        _place(stack.pixels[: len(whole)], whole, images, rule, draws)
    elif whole:
        _place(stack.resized(len(whole), *sides, rule.interpolation), whole, images, rule, draws)
    return whole


def _place(
    pixels: npt.NDArray[Any], positions: list[int], images: Pixels, rule: InputRule, draws: Draws | None
) -> None:
    """Write the input of images that are resized already into ``images [N, *rule.shape]``."""
    if rule.mode == RESIZE:
        first, last = positions[0], positions[-1]
        where = slice(first, last + 1) if last - first + 1 == len(positions) else positions  # Nearly always a slice.
        images[where] = pixels
        return
    for at, image in zip(positions, pixels, strict=True):
        views = rule.views_of(image) if draws is None else rule.random_view(image, draws[at])
        np.copyto(images[at], views, casting="unsafe")


@functools.cache
def _decoders_agree() -> bool:
    """Return whether both decoders give the same pixels in this process; versions and processors might differ."""
    for content in examples():
        with tf.device("/CPU:0"):
            expected = decode.decode_jpeg(content).numpy()  # Without the graph, whose tracing takes a second.
        pixels = aligned_empty(expected.shape)
        if not decode_into(pixels, content) or not np.array_equal(pixels, expected):
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
        _place(pixels, [at], images, rule, draws)
        return
    stack = resample.Stack(1, *shape)
    stack.pixels[:] = pixels
    _place(stack.resized(1, *sides, rule.interpolation), [at], images, rule, draws)


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


def plain_shape(content: bytes) -> tuple[int, int]:
    """Return height and width of an upright baseline JPEG from its frame header; ``NOT_PLAIN`` for anything else."""
    shape, has_metadata = NOT_PLAIN, False
    last = len(content) - 10
    at = len(_START) if content.startswith(_START) else len(content)
    while at <= last and content[at] == 0xFF:  # Few words, because this holds the interpreter's lock.
        marker = content[at + 1]
        if marker == _START_OF_SCAN:
            return NOT_PLAIN if has_metadata and orientation.of(content) != 1 else shape
        if marker in (_BASELINE, _EXTENDED):
            precision, components = content[at + 4], content[at + 9]
            if precision != 8 or components not in _COMPONENTS:
                break
            shape = int.from_bytes(content[at + 5 : at + 7]), int.from_bytes(content[at + 7 : at + 9])
        elif marker == orientation.APP1:
            has_metadata = True
        at += 2 + (content[at + 2] << 8) + content[at + 3]
    return NOT_PLAIN


def decode_into(pixels: Pixels, content: bytes) -> bool:
    """Decode a JPEG into ``pixels [H, W, 3] uint8``, RGB, with the accurate inverse DCT and smooth chroma.

    Returns False, with ``pixels`` undefined, if the JPEG is damaged in any way or has another shape.
    """
    try:
        decoded = simplejpeg.decode_jpeg(content, "RGB", buffer=pixels, strict=True)
    except ValueError:
        return False
    return bool(decoded.shape == pixels.shape)


def examples() -> list[bytes]:
    """Return small JPEGs of noise, one for each common chroma subsampling, to compare decoders."""
    noise = np.random.default_rng(0).integers(0, 256, [37, 53, 3], np.uint8)
    colours = [simplejpeg.encode_jpeg(noise, colorsubsampling=way) for way in ("444", "422", "420", "440", "411")]
    grey = simplejpeg.encode_jpeg(np.ascontiguousarray(noise[:, :, :1]), colorspace="GRAY", colorsubsampling="Gray")
    return [*colours, grey]
