"""Masks of the part of an image that a forgery replaces, without landmarks: warped ellipses and polygons.

A mask is a function (draws ``[DRAWS]``, S) -> ``[S, S] float32`` in [0, 1] with smooth edges: what a source of
landmarks provides in place of ``random_shape``.  Imports no TensorFlow.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from trainer.data.pixels import Floats

Mask = Callable[[Floats, int], Floats]
Points = npt.NDArray[np.float64]

DRAWS = 32

# As shares of the image's side.
_CENTRE = (0.38, 0.62)
_RADIUS = (0.16, 0.4)
_WARP = 0.05
_BLUR = (0.01, 0.05)
_CORNERS = (5, 10)
_INWARDS = 0.6  # How near to the centre a corner may be, as a share of the radius.
_OUTLINE = 96  # Points.
_FINER = 2  # The outline is drawn at this many times the size, and averaged.


def random_shape(draws: Floats, size: int) -> Floats:
    """Return an ellipse or a polygon about the middle, turned, warped and blurred: ``[S, S]`` in [0, 1]."""
    values = draws.astype(np.float64)
    outline = _polygon(values[7:18]) if values[0] < 0.5 else _circle()
    placed = _place(outline, values[1:6])
    return _fill(_warp(placed, values[18:30]), _between(_BLUR, values[6]), size)


def _between(bounds: tuple[float, float], draw: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * float(draw)


def _circle() -> Points:
    """Return the outline ``[P, 2]`` of a circle of radius 1."""
    angles = np.linspace(0.0, 2.0 * math.pi, _OUTLINE, endpoint=False)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _polygon(draws: Points) -> Points:
    """Return points on the edges of a polygon inside the circle; its corners stand at regular angles."""
    corners = min(int(_between((_CORNERS[0], _CORNERS[1] + 1), draws[0])), _CORNERS[1])
    angles = np.linspace(0.0, 2.0 * math.pi, corners, endpoint=False)
    radii = _INWARDS + (1.0 - _INWARDS) * draws[1 : corners + 1]
    points = np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)
    closed = np.concatenate([points, points[:1]])
    places = np.linspace(0.0, corners, _OUTLINE, endpoint=False)
    return np.stack([np.interp(places, np.arange(corners + 1), closed[:, axis]) for axis in (0, 1)], axis=1)


def _place(outline: Points, draws: Points) -> Points:
    """Stretch, turn and move an outline, to shares of the image's side."""
    stretched = outline * [_between(_RADIUS, draws[2]), _between(_RADIUS, draws[3])]
    cos, sin = math.cos(math.pi * draws[4]), math.sin(math.pi * draws[4])
    x, y = stretched[:, 0], stretched[:, 1]
    turned = np.stack([cos * x - sin * y, sin * x + cos * y], axis=1)
    centre = np.array([_between(_CENTRE, draws[0]), _between(_CENTRE, draws[1])])
    return np.asarray(turned + centre, np.float64)


def _warp(points: Points, draws: Points) -> Points:
    """Move points by two slow waves along each axis: an elastic deformation of the plane."""
    amplitudes, phases, lengths = draws[0:4], draws[4:8], draws[8:12]
    moved = points.copy()
    for wave in range(4):
        along, across = wave % 2, 1 - wave % 2
        angle = 2.0 * math.pi * ((1.0 + 2.0 * lengths[wave]) * points[:, across] + phases[wave])
        moved[:, along] += _WARP * amplitudes[wave] * np.sin(angle)
    return moved


def _fill(points: Points, blur: float, size: int) -> Floats:
    """Return ``[S, S]``: 1 inside the outline, 0 outside, and a slope of ``blur`` (a share of S) between them."""
    finer = Image.new("L", (_FINER * size, _FINER * size))
    ImageDraw.Draw(finer).polygon([(x, y) for x, y in (points * _FINER * size).tolist()], fill=255)
    mask = finer.reduce(_FINER).filter(ImageFilter.GaussianBlur(max(blur * size, 1.0)))
    return np.asarray(mask, np.float32) / np.float32(255.0)
