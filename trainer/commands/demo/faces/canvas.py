"""Painting of soft, anti-aliased shapes into float images.

Every painter works inside the bounding box of its shape only, which is what makes a portrait of some sixty
shapes cost a few milliseconds.
"""

from __future__ import annotations

import functools
import math

import cv2
import numpy as np
import numpy.typing as npt

Image = npt.NDArray[np.float32]
"""An image in planes, `[3, H, W]` float32 RGB, nominally in [0, 1]; planes broadcast fast over masks."""
Plane = npt.NDArray[np.float32]
"""A single-channel image or mask, `[H, W]` float32."""
Points = npt.NDArray[np.float64]
"""A polygon or curve, `[N, 2]` float64 coordinates (x, y)."""
Polygons = Points | list[Points]
"""One polygon, or several which do not overlap and are painted as one."""
Colour = npt.NDArray[np.float32]
"""One colour, `[3, 1, 1]` float32 RGB in [0, 1]."""
Box = tuple[slice, slice]
"""The rows and columns of a part of an image."""

_SUBPIXEL_BITS = 4
"""OpenCV's fixed-point drawing coordinates carry this many fractional bits, here 1/16 of a pixel."""
_BANK_SIZE = 768
"""Side of a field of prepared noise; it must exceed the side of a picture."""
_TURN = np.linspace(0, 2 * np.pi, 24, endpoint=False)
CIRCLE: Points = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)
"""The unit circle as a polygon."""


def colour(red: float, green: float, blue: float) -> Colour:
    """Build a colour from its three components in [0, 1]."""
    return np.array([red, green, blue], dtype=np.float32).reshape(3, 1, 1)


def blur(plane: Plane, sigma: float) -> Plane:
    """Smooth a plane by a Gaussian of `sigma` pixels; below 0.2 pixels it is returned as it is."""
    if sigma < 0.2:
        return plane
    width = 2 * math.ceil(2.5 * sigma) + 1
    return np.asarray(cv2.GaussianBlur(plane, (width, width), sigma), dtype=np.float32)


def blur_image(image: Image, sigma: float) -> Image:
    """Smooth all planes of an image like `blur`."""
    return np.stack([blur(plane, sigma) for plane in image])


def resize(image: npt.NDArray[np.float32], size: int) -> npt.NDArray[np.float32]:
    """Interpolate a plane or an image linearly to `size` x `size` pixels."""
    planes = image.reshape(-1, *image.shape[-2:])
    scaled = [cv2.resize(plane, (size, size), interpolation=cv2.INTER_LINEAR) for plane in planes]
    return np.stack(scaled).astype(np.float32).reshape(*image.shape[:-2], size, size)


@functools.cache
def _noise_bank(sigma: float) -> Plane:
    """Hold a large field of noise of unit variance and correlation length `sigma`, the same in all runs."""
    rng = np.random.default_rng(round(sigma * 1000))
    field = blur(rng.standard_normal((_BANK_SIZE, _BANK_SIZE), dtype=np.float32), sigma)
    return np.asarray(field / field.std(), dtype=np.float32)


def noise_field(rng: np.random.Generator, size: int, sigma: float) -> Plane:
    """Cut a random `[size, size]` out of a bank of noise of correlation length `sigma` pixels, to read.

    Drawing fresh noise for each texture would take a third of a portrait's time.
    """
    bank = _noise_bank(round(sigma, 2))
    top, left = rng.integers(0, _BANK_SIZE - size, 2)
    return bank[top : top + size, left : left + size]


def shape_mask(points: Polygons, height: int, width: int, softness: float) -> tuple[Box, Plane] | None:
    """Rasterise polygons with an edge blurred by `softness` pixels.

    Returns the bounding box inside the `height` x `width` image and the coverage in [0, 1] within it, or None
    where the polygons lie outside the image.
    """
    polygons = points if isinstance(points, list) else [points]
    every = np.concatenate(polygons) if len(polygons) > 1 else polygons[0]
    margin = 3.0 * softness + 2.0
    (low_x, low_y), (high_x, high_y) = every.min(axis=0).tolist(), every.max(axis=0).tolist()
    left, top = max(int(low_x - margin), 0), max(int(low_y - margin), 0)
    right, bottom = min(math.ceil(high_x + margin), width), min(math.ceil(high_y + margin), height)
    if right <= left or bottom <= top:
        return None
    coverage = np.zeros((bottom - top, right - left), dtype=np.uint8)
    fixed = [((polygon - (left, top)) * (1 << _SUBPIXEL_BITS) + 0.5).astype(np.int32) for polygon in polygons]
    cv2.fillPoly(coverage, fixed, (255,), lineType=cv2.LINE_AA, shift=_SUBPIXEL_BITS)
    mask = blur(coverage.astype(np.float32) * np.float32(1 / 255), softness)
    return (slice(top, bottom), slice(left, right)), mask


def full_mask(points: Polygons, size: int, softness: float) -> Plane:
    """Rasterise polygons like `shape_mask`, as a plane of the whole image, `[size, size]`."""
    plane = np.zeros((size, size), dtype=np.float32)
    shape = shape_mask(points, size, size, softness)
    if shape is not None:
        box, mask = shape
        plane[box] = mask
    return plane


def paint(
    image: Image, points: Polygons, paint_colour: Colour | Image, softness: float = 0.0, opacity: float = 1.0
) -> None:
    """Fill polygons in place with one colour, or with the same place of an image of the same size."""
    shape = shape_mask(points, image.shape[1], image.shape[2], softness)
    if shape is None:
        return
    (rows, columns), mask = shape
    mask *= np.float32(opacity)
    source = paint_colour if paint_colour.size == 3 else paint_colour[:, rows, columns]
    region = image[:, rows, columns]
    region += (source - region) * mask


def scale(plane: Plane, points: Polygons, factor: float, softness: float) -> None:
    """Multiply polygons of a plane, or of an image, in place to darken (`factor` < 1) or lighten them."""
    shape = shape_mask(points, plane.shape[-2], plane.shape[-1], softness)
    if shape is None:
        return
    (rows, columns), mask = shape
    plane[..., rows, columns] *= 1 + mask * np.float32(factor - 1)


def mix(image: Image, other: Image | Colour, mask: Plane) -> None:
    """Move an image in place towards another one, or a colour, where the mask `[H, W]` in [0, 1] is set."""
    image += (other - image) * mask


def stroke(points: Points, width: float, taper: float = 0.0) -> Points:
    """Turn a curve into the polygon of a line `width` pixels wide, its ends narrowed by `taper` in [0, 1]."""
    tangent = np.gradient(points, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    along = np.linspace(-1, 1, len(points))
    half = (width / 2) * (1 - taper * along**2)
    return np.concatenate([points + normal * half[:, None], (points - normal * half[:, None])[::-1]])


def smooth_closed(points: Points, rounds: int = 3) -> Points:
    """Round the corners of a closed polygon by Chaikin's corner cutting (Chaikin 1974, CGIP 3:346)."""
    for _ in range(rounds):
        following = np.roll(points, -1, axis=0)
        cut = np.stack([0.75 * points + 0.25 * following, 0.25 * points + 0.75 * following], axis=1)
        points = cut.reshape(-1, 2)
    return points


def ellipse(x: float, y: float, half_width: float, half_height: float, tilt: float = 0.0) -> Points:
    """Outline an ellipse around (x, y), turned by `tilt` radians."""
    cos, sin = math.cos(tilt), math.sin(tilt)
    axes = np.array([[half_width * cos, half_width * sin], [-half_height * sin, half_height * cos]])
    outline: Points = CIRCLE @ axes + (x, y)
    return outline


def reflected(points: Points) -> list[Points]:
    """Pair a polygon in face units with its mirror image on the other side of the face."""
    return [points, points * (-1, 1)]


def mirrored(half: list[tuple[float, float]]) -> Points:
    """Close a polygon given by its right half, top to bottom, with the mirror image of that half."""
    right = np.array(half)
    return np.concatenate([right, (right * (-1, 1))[::-1]])
