"""Hair: what lies behind the head, what lies on it, and its strands."""

from __future__ import annotations

import math

import cv2
import numpy as np

from trainer.commands.demo.faces.canvas import Image, Points, ellipse, mirrored, noise_field, paint, smooth_closed
from trainer.commands.demo.faces.person import Person
from trainer.commands.demo.faces.scene import Pose

_BACK_ENDS = {"bob": 1.15, "long": 2.6, "curly": 0.75}
"""How far down, in face units, the hair behind the head hangs."""

_SIDE_ENDS = {
    "cropped": -0.1,
    "parted": 0.0,
    "fringe": 0.15,
    "bob": 0.75,
    "long": 1.1,
    "curly": 0.3,
    "bun": -0.1,
}
"""How far down the hair at the temples covers the side of the face."""


def strands(person: Person, pose: Pose, rng: np.random.Generator, size: int) -> Image:
    """Paint a sheet of hair as large as the picture: strands along the head's axis, with a sheen."""
    field = noise_field(rng, size, 0.7 * size / 256)
    if person.hair.style != "curly":
        field = np.asarray(cv2.blur(field, (1, max(size // 14, 1))), dtype=np.float32)
    coarse = noise_field(rng, size, size / 36)
    _, y = pose.face_grid(size)
    sheen = 0.22 * np.exp(-(((y + 1.15) / 0.22) ** 2)) * (0.6 + 0.4 * coarse)
    gain = 1 + 0.16 * field / np.float32(field.std()) + 0.1 * coarse + sheen
    return np.asarray(person.hair.colour * gain, dtype=np.float32)


def paint_back(image: Image, person: Person, pose: Pose, sheet: Image) -> None:
    """Paint the hair that lies behind head and neck."""
    hair = person.hair
    softness = 0.015 * pose.unit
    if hair.style == "bun":
        bun = np.array([[-0.45, -1.5], [-0.4, -2.0], [0.4, -2.0], [0.45, -1.5]])
        paint(image, pose.project_at(smooth_closed(bun), -0.4), sheet, softness)
    end = _BACK_ENDS.get(hair.style)
    if end is None:
        return
    wide = 1.12 + hair.volume * (2.0 if hair.style == "curly" else 1.0)
    half = [(0.0, -1.5), (0.6, -1.45), (wide - 0.08, -0.85), (wide, 0.0), (wide, end * 0.6), (0.8, end)]
    paint(image, pose.project_at(smooth_closed(mirrored(half)), -0.3), sheet, softness)


def paint_front(image: Image, person: Person, pose: Pose, sheet: Image, rng: np.random.Generator) -> None:
    """Paint the hair that grows over the skull, the forehead and the temples."""
    hair = person.hair
    if hair.style == "bald":
        return
    softness = (0.012 if hair.style != "cropped" else 0.03) * pose.unit
    paint(image, _cap(person, pose), sheet, softness)
    if hair.style == "fringe":
        ends = np.linspace(-0.92, 0.92, 12)
        bottom = -0.42 + rng.uniform(-0.07, 0.07, 12) + 0.1 * ends**2
        top = np.array([[0.9, -1.1], [0.0, -1.3], [-0.9, -1.1]])
        paint(image, pose.project(np.concatenate([np.stack([ends, bottom], axis=1), top])), sheet, softness)
    if hair.style == "curly":
        for angle in np.linspace(-0.08, math.pi + 0.08, 17).tolist():
            radius = (hair.volume + 0.13) * rng.uniform(0.8, 1.15)
            curl = ellipse(1.02 * math.cos(angle), -0.62 - 0.75 * math.sin(angle), radius, radius)
            paint(image, pose.project_at(curl, 0.15), sheet, softness)


def _cap(person: Person, pose: Pose) -> Points:
    """Outline the hair from the hairline over the skull: outer edge behind, hairline on the surface."""
    hair = person.hair
    end = _SIDE_ENDS[hair.style]
    rise = 0.03 if hair.style == "cropped" else hair.volume
    outer_half = [(0.0, -1.42 - rise), (0.62, -1.33 - rise), (0.98 + 0.6 * rise, -0.9)]
    outer_half += [(1.06 + 0.5 * rise, -0.3), (1.03 + 0.4 * rise, end)]
    right = np.array(outer_half[::-1])
    left = np.array(outer_half[1:]) * (-1, 1)
    outer = pose.project_at(np.concatenate([right, left]), 0.05)
    temple, shift = hair.line, hair.parting if hair.style in ("parted", "bob", "long") else 0.0
    line = [(-0.93, end), (-0.9, -0.35), (-0.72, temple + 0.2), (-0.35 + 0.5 * shift, temple)]
    line += [(shift, temple - 0.08), (0.35 + 0.5 * shift, temple), (0.72, temple + 0.2)]
    line += [(0.9, -0.35), (0.93, end)]
    inner = pose.project(np.array(line))
    return smooth_closed(np.concatenate([outer, inner]), rounds=2)
