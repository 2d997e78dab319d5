"""Forge a portrait: swap the inner face, or re-render it by a generator's up-sampling.

Both leave what detectors of real forgeries look for: the seam and the mismatch of a blended face (Li et al.
2020, "Face X-ray", arXiv:1912.13458; Roessler et al. 2019, FaceForensics++, arXiv:1901.08971; Shiohara and
Yamasaki 2022, arXiv:2204.08376) and the periodic traces of up-convolution (Odena et al. 2016,
doi:10.23915/distill.00003; Durall et al. 2020, arXiv:2003.01826; Frank et al. 2020, arXiv:2003.08685).
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from trainer.commands.demo.faces.canvas import (
    Colour,
    Image,
    Plane,
    Points,
    blur_image,
    colour,
    full_mask,
    mix,
    resize,
    smooth_closed,
)
from trainer.commands.demo.faces.scene import Pose

KINDS = ("swap", "rerender")
"""The two kinds of forgery."""

_INNER_FACE = (
    (0.0, -0.52),
    (0.42, -0.52),
    (0.74, -0.3),
    (0.78, 0.15),
    (0.66, 0.62),
    (0.4, 1.02),
    (0.0, 1.12),
)
"""Right half of the region from above the brows to the chin, in face units."""

_CAST = np.array([0.07, -0.052, 0.087])
"""Relative colour cast, red to blue, which the generator leaves at strength 1.

A generator's colours have statistics of their own (McCloskey and Albright 2018, arXiv:1812.08247). The cast
runs across the axis of daylight's warmth, along which cameras err, and keeps the luminance of grey.
"""
_COLOUR_MISMATCH = 0.035
"""Relative error of each channel's level in a forged face at strength 1, besides the cast."""
_SEAM_WIDTH = (0.012, 0.06)
"""Narrowest and widest feather of the seam, in face units (one is a quarter of the picture's side)."""
_SOFTENING = 1.3
"""Gaussian blur, in pixels of a 256-pixel picture, of a swapped face of low resolution at strength 1."""
_SHARPENING = 1.4
"""Amount of unsharp masking of a swapped face that is sharper than its target at strength 1."""
_UNEVENNESS = 0.12
"""Relative error of the outer taps of a transposed convolution at strength 1; 0 leaves no checkerboard."""
_LAYERS = 2
"""Number of transposed convolutions of the generator that re-renders a face."""
_ENLARGEMENT = 2
"""How many pixels of the picture a pixel of the generator covers; early deepfakes were 64 pixels wide."""
_REACH = _ENLARGEMENT * 2**_LAYERS
"""How many pixels of the picture a pixel of the generator's smallest layer covers."""
_OFFSET = (_REACH - _ENLARGEMENT) // 2
"""How far up and left the convolutions move the face: from the middle of a cell to its first pixel."""
_DETAIL_KEPT = 0.7
"""Part of the fine detail a generator restores besides what its up-sampling interpolates."""


def strength_range(difficulty: float) -> tuple[float, float]:
    """Return the least and greatest strength at a difficulty in [0, 1], far apart so that some are hard."""
    middle = 2 * (1 - difficulty) * 0.95 + 0.05
    return 0.08 * middle, 2.0 * middle


def inner_face(pose: Pose, rng: np.random.Generator, size: int) -> Plane:
    """Draw the mask `[S, S]` in [0, 1] of the region a forger replaces, with a feathered edge."""
    half = np.array(_INNER_FACE) * rng.uniform(0.92, 1.08, 2)
    points: Points = np.concatenate([half, (half[1:-1] * (-1, 1))[::-1]])
    points += rng.normal(0, 0.012, points.shape)
    outline = pose.project(smooth_closed(points, rounds=int(rng.integers(1, 4))))
    return full_mask(outline, size, rng.uniform(*_SEAM_WIDTH) * pose.unit)


def swap_face(target: Image, donor: Image, mask: Plane, strength: float, rng: np.random.Generator) -> Image:
    """Blend the donor's inner face into the target, both `[3, S, S]` in the same pose.

    The donor's colours are first moved to the target's, as face-swapping tools do, and then off again by the
    error such tools make; half of the faces come out softer than their target and half sharper, so that the
    sharpness of a picture as a whole says nothing.
    """
    size, weight = target.shape[-1], float(mask.sum()) + 1e-6
    want = (target * mask).sum(axis=(1, 2)) / weight
    have = (donor * mask).sum(axis=(1, 2)) / weight
    gain = (want / (have + 1e-6)).astype(np.float32)[:, None, None]
    face = donor * gain * _colour_error(strength, rng)
    if rng.random() < 0.5:
        face = blur_image(face, _SOFTENING * strength * size / 256)
    else:
        face += np.float32(_SHARPENING * strength) * (face - blur_image(face, 1.2 * size / 256))
    forged = target.copy()
    mix(forged, np.clip(face, 0, 1), mask)
    return forged


def rerender_face(target: Image, mask: Plane, strength: float, rng: np.random.Generator) -> Image:
    """Pass the inner face of `[3, S, S]` through down-sampling and a stack of transposed convolutions."""
    signs = rng.choice((-1.0, 1.0), _LAYERS)
    taps = 0.5 * (1 + _UNEVENNESS * strength * signs * rng.uniform(0.7, 1.3, _LAYERS))
    down, right = (int(part) for part in rng.integers(0, _REACH, 2))
    planes = [_up_convolved(np.roll(plane, (down, right), axis=(0, 1)), taps) for plane in target]
    generated = np.roll(np.stack(planes), (_OFFSET - down, _OFFSET - right), axis=(1, 2))
    generated += np.float32(_DETAIL_KEPT) * (target - blur_image(target, 0.4 * _REACH))
    generated *= _colour_error(strength, rng)
    forged = target.copy()
    mix(forged, np.clip(generated, 0, 1), mask)
    return forged


def _colour_error(strength: float, rng: np.random.Generator) -> Colour:
    """Draw the gain of each channel by which a generator misses the target's colours."""
    return colour(*np.exp(strength * (_CAST + _COLOUR_MISMATCH * rng.normal(0, 1, 3))))


def _up_convolved(plane: Plane, taps: npt.NDArray[np.float64]) -> Plane:
    """Shrink a plane and grow it again by transposed convolutions of stride 2 and kernel 3, one for each tap.

    The kernel `[t, 1, t]` interpolates linearly for t = 1/2; any other t weights odd and even pixels
    unequally, which is the checkerboard of Odena et al. Each layer's kernel is scaled to a mean gain of 1.
    The last layer's output is enlarged to the picture, as the small faces of a generator are.
    """
    size = plane.shape[0]
    small = cv2.resize(plane, (size // _REACH, size // _REACH), interpolation=cv2.INTER_AREA)
    grown = np.asarray(small, dtype=np.float32)
    for tap in taps:
        spread = np.zeros((2 * grown.shape[0], 2 * grown.shape[1]), dtype=np.float32)
        spread[::2, ::2] = grown
        kernel = np.array([tap, 1.0, tap]) / (0.5 + tap)
        grown = np.asarray(cv2.sepFilter2D(spread, cv2.CV_32F, kernel, kernel), dtype=np.float32)
    return resize(grown, size)
