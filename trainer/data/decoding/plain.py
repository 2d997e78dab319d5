"""Decode upright baseline JPEGs, which nearly all images are, without TensorFlow.

They are decoded by simplejpeg, and resized while their pixels are still in a core's cache (``resample.py``).  Crops are
cut out here.  The pixels equal those of ``decode.decode_batch``.
Does not own: all other images (``decode_batch.py``), processes that do this (``pool.py``).  Imports no TensorFlow, but
``resample.py`` does for other interpolations than ``nearest``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg

from trainer.core.config.registries import RESIZE
from trainer.data import resample
from trainer.data.formats import orientation
from trainer.data.input_rule import Draws, InputRule
from trainer.data.pixels import Pixels

NOT_PLAIN = (0, 0)

# ITU-T T.81 (JPEG), table B.1: the frame headers that hold the dimensions of baseline JPEGs.  All others are left to
# TensorFlow, among them progressive ones, whose unfinished scans are smoothed differently by versions of the library.
_BASELINE, _EXTENDED = 0xC0, 0xC1
_COMPONENTS = (1, 3)  # Of a frame: grey, and colours that are not CMYK.
_START = b"\xff\xd8"
_START_OF_SCAN = 0xDA


def decode(
    contents: Mapping[int, bytes], images: Pixels, rule: InputRule, max_pixels: int, draws: Draws | None
) -> list[int]:
    """Decode plain JPEGs into their places in ``images [N, *rule.shape]``; return the places of those that are whole.

    Args:
        contents: encoded images of any kind by place; those that are no plain JPEGs are left out.
        images: what a damaged image leaves there is undefined.
        rule: how an image becomes model input.
        max_pixels: larger images are left out.
        draws: ``[N, 2]``, the places of random crops; None: the rule's own views.
    """
    groups = _group_by_shape(contents, max_pixels)
    return [at for shape, places in groups for at in _decode_group(contents, places, shape, images, rule, draws)]


def _group_by_shape(contents: Mapping[int, bytes], max_pixels: int) -> list[tuple[tuple[int, int], list[int]]]:
    """Return positions of plain JPEGs by height and width, in groups that can be resized in one call."""
    groups: list[tuple[tuple[int, int], list[int]]] = []
    open_groups: dict[tuple[int, int], list[int]] = {}  # By shape, the one that has room.
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
    contents: Mapping[int, bytes],
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
        place(stack.pixels[: len(whole)], whole, images, rule, draws)
    elif whole:
        place(stack.resized(len(whole), *sides, rule.interpolation), whole, images, rule, draws)
    return whole


def place(pixels: npt.NDArray[Any], positions: list[int], images: Pixels, rule: InputRule, draws: Draws | None) -> None:
    """Write the input of images that are resized already into ``images [N, *rule.shape]``."""
    if rule.mode == RESIZE:
        first, last = positions[0], positions[-1]
        where = slice(first, last + 1) if last - first + 1 == len(positions) else positions  # Nearly always a slice.
        images[where] = pixels
        return
    for at, image in zip(positions, pixels, strict=True):
        views = rule.views_of(image) if draws is None else rule.random_view(image, draws[at])
        np.copyto(images[at], views, casting="unsafe")


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
