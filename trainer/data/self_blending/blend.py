"""An image blended with a changed copy of itself: a forgery that differs from its origin by what all forgeries leave.

Shiohara and Yamasaki 2022, "Detecting deepfakes with self-blended images", arXiv:2204.08376, section 3: one of source
and target has its colours and its frequencies changed, the source is resized and moved a little, and a blurred mask
blends it into the target.  Pillow computes it, outside Python's lock.  Imports no TensorFlow.
"""

import dataclasses
import math

import numpy as np
from PIL import Image, ImageFilter

from trainer.data.pixels import Floats, Pixels
from trainer.data.self_blending import masks

# The paper's.
RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)
SHIFT_X, SHIFT_Y = 0.03, 0.015  # Of the image's side.
RESIZE = 0.05
RGB_SHIFT = 20.0  # Grey levels.
SATURATION = 0.3
BRIGHTNESS = 0.1
CONTRAST = 0.1
LARGEST_REDUCTION = 4.0
SHARPEN = (20, 50)  # Percent.

_CHANGE, _GEOMETRY = slice(2, 10), slice(10, 14)
_MASK = 15  # First draw of the mask.
DRAWS = _MASK + masks.DRAWS
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclasses.dataclass(frozen=True, eq=False)
class Pair:
    """What is blended: ``source`` and ``target [S, S, 3] uint8``, and ``mask [S, S] float32``, the source's share."""

    source: Pixels
    target: Pixels
    mask: Floats

    def blend(self) -> Pixels:
        """Return the forgery; where the mask is 0 it is the target."""
        share = self.mask[..., None]
        return np.rint(share * self.source + (np.float32(1.0) - share) * self.target).astype(np.uint8)


def self_blend(image: Pixels, draws: Floats, mask: masks.Mask = masks.random_shape) -> Pixels:
    """Return a forgery ``[S, S, 3]`` of an image by its draws ``[DRAWS]``."""
    return pair(image, draws, mask).blend()


def pair(image: Pixels, draws: Floats, mask: masks.Mask = masks.random_shape) -> Pair:
    """Return source, target and mask of a forgery; ``mask`` makes it from its draws and S."""
    changed = _change_frequencies(_change_colours(image, draws[_CHANGE]), draws[_CHANGE])
    source, target = (changed, image) if draws[0] < 0.5 else (image, changed)
    ratio = RATIOS[int(draws[1] * len(RATIOS))]
    shape = mask(draws[_MASK:], image.shape[0])
    return Pair(_move(source, draws[_GEOMETRY]), target, shape * np.float32(ratio))


def _symmetric(draws: Floats, bound: float) -> Floats:
    return (np.float32(2.0) * draws - np.float32(1.0)) * np.float32(bound)


def _change_colours(image: Pixels, draws: Floats) -> Pixels:
    """Shift each channel, and change saturation, contrast and brightness, each by a draw of its own."""
    values: Floats = image + _symmetric(draws[0:3], RGB_SHIFT)
    luma = (values @ _LUMA)[..., None]
    values = luma + (values - luma) * (1.0 + _symmetric(draws[3], SATURATION))
    slope = 1.0 + _symmetric(draws[4], CONTRAST)
    values = 127.5 + (values - 127.5) * slope + 255.0 * _symmetric(draws[5], BRIGHTNESS)
    return np.asarray(np.rint(values.clip(0.0, 255.0)), np.uint8)


def _change_frequencies(image: Pixels, draws: Floats) -> Pixels:
    """Reduce and enlarge again, or sharpen, each for half of the images."""
    picture = Image.fromarray(image)
    if draws[6] < 0.5:
        side = max(round(image.shape[0] / (1.0 + float(draws[7]) * (LARGEST_REDUCTION - 1.0))), 1)
        small = picture.resize((side, side), Image.Resampling.BILINEAR)
        return np.asarray(small.resize(picture.size, Image.Resampling.BILINEAR))
    percent = round(SHARPEN[0] + float(draws[7]) * (SHARPEN[1] - SHARPEN[0]))
    return np.asarray(picture.filter(ImageFilter.UnsharpMask(radius=2, percent=percent, threshold=0)))


def _move(image: Pixels, draws: Floats) -> Pixels:
    """Resize an image about its middle and shift it, each axis by a draw of its own; edges are repeated."""
    size = image.shape[0]
    margin = math.ceil(size * (max(SHIFT_X, SHIFT_Y) + RESIZE / 2)) + 2
    padded = Image.fromarray(np.pad(image, [[margin, margin], [margin, margin], [0, 0]], mode="edge"))
    scale_x, scale_y = (1.0 + _symmetric(draws[0:2], RESIZE)).tolist()
    shift_x = float(_symmetric(draws[2], SHIFT_X)) * size
    shift_y = float(_symmetric(draws[3], SHIFT_Y)) * size
    middle = size / 2
    rows = (
        scale_x, 0.0, margin + middle * (1.0 - scale_x) + shift_x,
        0.0, scale_y, margin + middle * (1.0 - scale_y) + shift_y,
    )  # fmt: skip
    moved = padded.transform((size, size), Image.Transform.AFFINE, rows, Image.Resampling.BILINEAR)
    return np.asarray(moved)
