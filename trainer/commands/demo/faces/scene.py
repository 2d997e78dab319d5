"""Pose, light and background: all of a portrait that is not the person."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import numpy as np

from trainer.commands.demo.faces.canvas import (
    Colour,
    Image,
    Plane,
    Points,
    blur_image,
    colour,
    ellipse,
    noise_field,
    paint,
    reflected,
    resize,
)

HEAD_DEPTH = 0.9
"""How far the face stands out of the plane of its outline, in face units (half a head's width)."""


@dataclass(frozen=True)
class Pose:
    """How the head lies in the picture; a face unit is half the width of the head.

    `yaw`, `pitch` and `roll` are in radians, `unit` in pixels per face unit, `x` and `y` the pixel at which
    the point between the eyes and the nose lies when the head looks straight ahead.
    """

    yaw: float
    pitch: float
    roll: float
    unit: float
    x: float
    y: float

    def project(self, points: Points, lift: float = 0.0) -> Points:
        """Project points `[N, 2]` of the face's surface, in face units, to pixels.

        `lift` moves them out of the surface towards the viewer, as the tip of the nose is.
        """
        inside = 1 - (points[:, 0] / 1.08) ** 2 - (points[:, 1] / 1.7) ** 2
        return self.project_at(points, HEAD_DEPTH * np.sqrt(np.maximum(inside, 0)) + lift)

    def project_both(self, points: Points, lift: float = 0.0) -> list[Points]:
        """Project a polygon of one side of the face and its mirror image on the other."""
        return [self.project(side, lift) for side in reflected(points)]

    def project_at(self, points: Points, depth: Points | float) -> Points:
        """Project points `[N, 2]` in face units that lie at `depth` in front of the head's outline."""
        matrix = self._matrix
        shift = depth * matrix[2] if isinstance(depth, float) else depth[:, None] * matrix[2]
        projected: Points = points @ matrix[:2] + shift + (self.x, self.y)
        return projected

    @functools.cached_property
    def _matrix(self) -> Points:
        """Turn (x, y, depth) by yaw, pitch and roll and drop the depth: `[3, 2]`, pixels a face unit."""
        yaw_cos, yaw_sin = math.cos(self.yaw), math.sin(self.yaw)
        pitch_cos, pitch_sin = math.cos(self.pitch), math.sin(self.pitch)
        upright = np.array([[yaw_cos, -yaw_sin * pitch_sin], [0.0, pitch_cos], [yaw_sin, yaw_cos * pitch_sin]])
        cos, sin = math.cos(self.roll) * self.unit, math.sin(self.roll) * self.unit
        turned: Points = upright @ np.array([[cos, sin], [-sin, cos]])
        return turned

    def shrunk(self, factor: int) -> Pose:
        """Return the same pose in a picture smaller by `factor`."""
        return Pose(self.yaw, self.pitch, self.roll, self.unit / factor, self.x / factor, self.y / factor)

    def face_grid(self, size: int) -> tuple[Plane, Plane]:
        """Return each pixel's place in the plane of the head's outline, in face units, two `[size, size]`."""
        dx = np.arange(size, dtype=np.float32)[None, :] - np.float32(self.x)
        dy = np.arange(size, dtype=np.float32)[:, None] - np.float32(self.y)
        cos, sin = math.cos(self.roll) / self.unit, math.sin(self.roll) / self.unit
        return dx * cos + dy * sin, dy * cos - dx * sin


@dataclass(frozen=True)
class Light:
    """One key light over an ambient one: unit direction towards the light (x right, y down, z viewer)."""

    direction: tuple[float, float, float]
    ambient: float
    key: float
    tint: Colour


@dataclass(frozen=True)
class Scene:
    """Everything around the person."""

    pose: Pose
    light: Light
    background: Image


def draw_pose(rng: np.random.Generator, size: int) -> Pose:
    """Draw a head pose as in a loosely cropped portrait of `size` pixels."""
    return Pose(
        yaw=float(np.clip(rng.normal(0, 0.17), -0.4, 0.4)),
        pitch=float(np.clip(rng.normal(0, 0.07), -0.15, 0.15)),
        roll=float(np.clip(rng.normal(0, 0.09), -0.25, 0.25)),
        unit=float(rng.uniform(0.235, 0.275) * size),
        x=float((0.5 + rng.normal(0, 0.02)) * size),
        y=float((0.485 + rng.normal(0, 0.02)) * size),
    )


def draw_light(rng: np.random.Generator) -> Light:
    """Draw a key light from above, of any side, between warm and cool."""
    direction = np.array([rng.uniform(-0.8, 0.8), rng.uniform(-0.75, 0.05), rng.uniform(0.55, 1.0)])
    direction /= np.linalg.norm(direction)
    warmth = rng.normal(0, 0.035)
    ambient = float(rng.uniform(0.5, 0.72))
    tint = colour(1 + warmth, 1 + rng.normal(0, 0.008), 1 - warmth)
    x, y, z = (float(part) for part in direction)
    return Light((x, y, z), ambient, float(rng.uniform(1.02, 1.15)) - ambient, tint)


def draw_background(rng: np.random.Generator, size: int) -> Image:
    """Paint a background out of focus: a gradient with bokeh discs, with furniture-like blocks, or a wall.

    It is painted at half the resolution, which being out of focus it does not show.
    """
    half = size // 2
    image = _gradient(rng, half)
    kind = rng.integers(3)
    if kind == 0:
        for _ in range(rng.integers(8, 22)):
            disc = ellipse(*rng.uniform(0, half, 2), *([rng.uniform(0.02, 0.09) * half] * 2))
            paint(image, disc, _any_colour(rng), softness=size / 256, opacity=rng.uniform(0.15, 0.6))
    elif kind == 1:
        for _ in range(rng.integers(4, 10)):
            paint(image, _block(rng, half), _any_colour(rng), opacity=rng.uniform(0.3, 0.9))
    else:
        image *= 1 + rng.uniform(0.01, 0.06) * noise_field(rng, half, size / 80)
    return resize(blur_image(image, rng.uniform(0.3, 1.2) * size / 256), size)


def _gradient(rng: np.random.Generator, size: int) -> Image:
    """Interpolate four random corner colours of similar hue over the picture."""
    base, spread = rng.uniform(0.1, 0.9), 0.09
    hue = rng.normal(0, spread, (3, 1, 1))
    corners = np.clip(base + hue + rng.normal(0, spread, (3, 2, 2)), 0.03, 0.97)
    return resize(corners.astype(np.float32), size)


def _block(rng: np.random.Generator, size: int) -> Points:
    """Draw an upright rectangle, as shelves, frames and windows are."""
    left, top = rng.uniform(-0.2, 0.9, 2) * size
    width, height = rng.uniform(0.08, 0.5, 2) * size
    return np.array([[left, top], [left + width, top], [left + width, top + height], [left, top + height]])


def _any_colour(rng: np.random.Generator) -> Colour:
    """Draw a muted colour of any hue and brightness."""
    value = rng.uniform(0.12, 0.88)
    return colour(*np.clip(value + rng.normal(0, 0.09, 3), 0.03, 0.97))
