"""Paint the inner face: eyes, brows, nose, mouth, beard, freckles, and glasses over them."""

from __future__ import annotations

import numpy as np

from trainer.commands.demo.faces.canvas import (
    Colour,
    Image,
    Plane,
    Points,
    colour,
    ellipse,
    noise_field,
    paint,
    resize,
    scale,
    stroke,
)
from trainer.commands.demo.faces.person import Features, Glasses
from trainer.commands.demo.faces.scene import Pose

EYE_Y = -0.06
"""Height of the eyes in face units."""

_FOLD = np.array([[0.27, 0.42], [0.36, 0.53], [0.43, 0.66], [0.46, 0.76]])
"""The fold from the wing of the nose to the corner of the mouth."""
_BRIDGE = np.array([[0.0, -0.1], [0.0, 0.1], [0.0, 0.3]])

_WHITE = colour(0.9, 0.88, 0.86)
_MOUTH_INSIDE = colour(0.2, 0.06, 0.06)
_PUPIL = colour(0.02, 0.02, 0.02)
_TEETH = colour(0.88, 0.86, 0.8)


def paint_features(albedo: Image, shading: Plane, features: Features, pose: Pose) -> None:
    """Paint the inner face into the colours in place, its relief into the shading `[H, W]`."""
    _paint_relief(shading, features, pose)
    if features.freckles:
        _paint_freckles(albedo, features, pose)
    _paint_mouth(albedo, shading, features, pose)
    _paint_nose(albedo, shading, features, pose)
    _paint_eyes(albedo, features, pose)
    _paint_brows(albedo, features, pose)


def paint_beard(skin: Image, features: Features, pose: Pose) -> None:
    """Darken chin and upper lip of a sheet of skin by stubble or a beard of speckled density."""
    if not features.beard:
        return
    unit, y = pose.unit, features.mouth_y
    rng = np.random.default_rng(features.texture_seed + 2)
    sheet = features.brow * np.maximum(1 + 0.22 * noise_field(rng, skin.shape[1], 0.0), 0)
    half = [(0.9, 0.25), (0.86, 0.75), (0.55, 1.22), (0.2, 1.42)]
    inner = [(0.2, y + 0.16), (0.5, y + 0.08), (0.62, y - 0.12), (0.82, 0.2)]
    right, back = np.array(half), np.array(inner)
    jaw = np.concatenate([right, (right * (-1, 1))[::-1], (back * (-1, 1))[::-1], back])
    paint(skin, pose.project(jaw), sheet, 0.05 * unit, features.beard)
    if features.moustache:
        lip = np.array([[0.0, y - 0.2], [0.34, y - 0.14], [0.42, y + 0.02], [0.3, y - 0.06], [0.0, y - 0.09]])
        lip = np.concatenate([lip, (lip[1:-1] * (-1, 1))[::-1]])
        paint(skin, pose.project(lip), sheet, 0.03 * unit, features.moustache)


def _paint_relief(shading: Plane, features: Features, pose: Pose) -> None:
    """Shade eye sockets, cheeks, forehead, chin and folds."""
    size, mouth = shading.shape[-1], features.mouth_y
    soft, small = np.ones((size // 4, size // 4), dtype=np.float32), pose.shrunk(4)
    socket = ellipse(features.eye_distance, EYE_Y - 0.04, 0.27, 0.17)
    scale(soft, small.project_both(socket), 0.82, 0.07 * small.unit)
    scale(soft, small.project_both(ellipse(0.56, 0.34, 0.2, 0.15)), 1.07, 0.1 * small.unit)
    scale(soft, small.project_both(ellipse(0.8, 0.6, 0.14, 0.3)), 0.9, 0.1 * small.unit)
    scale(soft, small.project(ellipse(0, -0.6, 0.5, 0.22)), 1.05, 0.12 * small.unit)
    scale(soft, small.project(ellipse(0, mouth + 0.17, 0.22, 0.05)), 0.86, 0.04 * small.unit)
    scale(soft, small.project(ellipse(0, mouth + 0.33, 0.16, 0.1)), 1.05, 0.06 * small.unit)
    shading *= resize(soft, size)
    bag = stroke(_arc(features.eye_distance, EYE_Y + 0.17, 0.18, 0.07), 0.04)
    scale(shading, pose.project_both(bag), 1 - 0.9 * features.wrinkles, 0.025 * pose.unit)
    scale(shading, pose.project_both(stroke(_FOLD, 0.03)), 0.95 - 0.8 * features.wrinkles, 0.02 * pose.unit)


def _paint_freckles(albedo: Image, features: Features, pose: Pose) -> None:
    """Scatter freckles over nose and cheeks."""
    rng = np.random.default_rng(features.texture_seed)
    spots = []
    for _ in range(features.freckles):
        x, y, radius = rng.uniform(-0.72, 0.72), 0.25 + rng.normal(0, 0.12), rng.uniform(0.008, 0.02)
        spots.append(pose.project(ellipse(x, y, radius, radius)))
    paint(albedo, spots, features.skin * colour(0.72, 0.6, 0.5), 0.4, rng.uniform(0.3, 0.8))


def _paint_nose(albedo: Image, shading: Plane, features: Features, pose: Pose) -> None:
    """Shade bridge, tip and wings and darken the nostrils."""
    unit, tip, wide = pose.unit, features.nose_length, features.nose_width
    flank = np.array([[0.1, -0.1], [0.1, 0.2], [wide, tip - 0.03], [wide * 0.6, tip + 0.03], [0.06, 0.2]])
    scale(shading, pose.project_both(flank, 0.1), 0.86, 0.03 * unit)
    wing = stroke(np.array([[wide * 0.8, tip - 0.13], [wide, tip - 0.04], [wide * 0.85, tip + 0.04]]), 0.03)
    scale(shading, pose.project_both(wing, 0.1), 0.68, 0.012 * unit)
    nostril = ellipse(wide * 0.45, tip + 0.03, 0.055, 0.025, -0.3)
    paint(albedo, pose.project_both(nostril, 0.12), features.skin * 0.25, 0.008 * unit, 0.85)
    scale(shading, pose.project(ellipse(0, tip + 0.09, wide * 0.9, 0.05)), 0.8, 0.03 * unit)
    scale(shading, pose.project(stroke(_BRIDGE, 0.09), 0.15), 1.1, 0.03 * unit)
    scale(shading, pose.project(ellipse(0, tip - 0.07, 0.08, 0.06), 0.2), 1.14, 0.03 * unit)
    blush = features.skin * colour(1.0, 0.62, 0.58)
    cheeks = pose.project_both(ellipse(0.55, 0.32, 0.24, 0.19))
    paint(albedo, cheeks, blush, 0.08 * unit, features.blush)
    paint(albedo, pose.project(ellipse(0, tip - 0.05, 0.13, 0.1)), blush, 0.05 * unit, features.blush)


def _paint_mouth(albedo: Image, shading: Plane, features: Features, pose: Pose) -> None:
    """Paint the lips, open over the teeth when the person shows them."""
    unit, half, y = pose.unit, features.mouth_width, features.mouth_y
    smile, lips, gape = features.smile, features.lips, features.teeth
    x = np.linspace(-1, 1, 13)
    bend = -smile * x**2
    bow = 1 - 0.25 * np.exp(-((x / 0.18) ** 2))
    round_off = np.sqrt(np.clip(1 - x**2, 0, 1))
    middle = y + bend + 0.02 * smile
    upper = middle - gape * 0.4 * round_off - lips * 0.85 * round_off * bow
    lower = middle + gape * 0.6 * round_off + lips * 1.25 * round_off
    lip_colour = np.clip(features.skin * colour(0.86, 0.58, 0.56) + colour(0.05, 0, 0.01), 0, 1)
    outline = _between(x * half, upper, lower)
    paint(albedo, pose.project(outline), lip_colour, 0.014 * unit, 0.9)
    scale(shading, pose.project(_between(x * half * 0.9, upper, middle)), 0.88, 0.015 * unit)
    scale(
        shading,
        pose.project(ellipse(0, y + lips * 0.7 + gape * 0.6, half * 0.4, lips * 0.25)),
        1.14,
        0.02 * unit,
    )
    line = np.stack([x * half, middle], axis=1)
    if gape:
        inside = _between(x * half * 0.9, middle - gape * 0.4 * round_off, middle + gape * 0.6 * round_off)
        paint(albedo, pose.project(inside), _MOUTH_INSIDE, 0.008 * unit)
        teeth = _between(x * half * 0.8, middle - gape * 0.38 * round_off, middle + gape * 0.3 * round_off)
        paint(albedo, pose.project(teeth), _TEETH, 0.01 * unit)
    else:
        paint(albedo, pose.project(stroke(line, 0.03, 0.6)), lip_colour * 0.4, 0.008 * unit, 0.9)
    scale(shading, pose.project_both(ellipse(half, y - smile, 0.04, 0.03)), 0.75, 0.02 * unit)


def _paint_eyes(albedo: Image, features: Features, pose: Pose) -> None:
    """Paint the eyes: white, iris, pupil, highlight, lids and lashes."""
    unit, wide = pose.unit, features.eye_width
    opening, skin = wide * features.eye_opening, features.skin
    x = np.linspace(-1, 1, 13)
    tilt = EYE_Y - features.eye_tilt * x * wide
    across = features.eye_distance + x * wide
    upper = np.stack([across, tilt - opening * 1.1 * (1 - np.abs(x) ** 2.2)], axis=1)
    lower = np.stack([across, tilt + opening * 0.75 * (1 - x**2)], axis=1)
    white = np.concatenate([upper, lower[::-1]])
    paint(albedo, pose.project_both(white), _WHITE * (0.8 + 0.2 * float(skin.mean())), 0.006 * unit)

    discs = ((0.48, features.iris * 0.5), (0.4, features.iris * 1.25), (0.21, _PUPIL))
    for radius, disc_colour in discs:
        paint(albedo, _discs(features, pose, radius * wide, upper, lower), disc_colour, 0.005 * unit)
    gaze, height = features.gaze * wide * 0.6, EYE_Y - 0.1 * opening
    sparks = [ellipse(s * features.eye_distance + gaze + 0.03, height - 0.035, 0.024, 0.024) for s in (-1, 1)]
    paint(albedo, [pose.project(spark) for spark in sparks], colour(1, 1, 1), 0.004 * unit, 0.95)

    paint(albedo, pose.project_both(stroke(upper, 0.035, 0.3)), skin * 0.22, 0.006 * unit, 0.9)
    paint(albedo, pose.project_both(stroke(lower, 0.016)), skin * 0.5, 0.008 * unit, 0.6)
    crease = stroke(upper - (0, 0.05 + 0.02 * features.lid), 0.022, 0.7)
    paint(albedo, pose.project_both(crease), skin * 0.5, 0.012 * unit, 0.3 + 0.4 * features.lid)


def _discs(features: Features, pose: Pose, radius: float, upper: Points, lower: Points) -> list[Points]:
    """Outline the part of both irises, or pupils, which the lids `upper` and `lower` leave free."""
    discs = []
    for side in (-1, 1):
        centre = side * features.eye_distance + features.gaze * features.eye_width * 0.6
        disc = ellipse(centre, EYE_Y - 0.1 * features.eye_width * features.eye_opening, radius, radius)
        top = np.interp(side * disc[:, 0], upper[:, 0], upper[:, 1])
        bottom = np.interp(side * disc[:, 0], lower[:, 0], lower[:, 1])
        disc[:, 1] = np.clip(disc[:, 1], top, bottom)
        discs.append(pose.project(disc))
    return discs


def _paint_brows(albedo: Image, features: Features, pose: Pose) -> None:
    """Paint the eyebrows, thick at the nose and thin at the temple."""
    x = np.linspace(0, 1, 8)
    place = features.eye_distance - 0.24 + 0.5 * x
    y = EYE_Y - features.brow_height - features.brow_arch * np.sin(np.pi * np.minimum(x * 1.1, 1)) + 0.05 * x
    half = features.brow_thickness * (1 - 0.75 * x**1.5) * np.minimum(0.5 + 4 * x, 1) / 2
    paint(albedo, pose.project_both(_between(place, y - half, y + half)), features.brow, 0.014 * pose.unit, 0.85)


def paint_glasses(image: Image, glasses: Glasses, features: Features, pose: Pose) -> None:
    """Paint frames, bridge and temples, and darken the lenses, over the lit picture."""
    unit, line = pose.unit, glasses.thickness
    corner = 0.29 * (1 - 0.15 * glasses.roundness)
    for side in (-1.0, 1.0):
        angle = np.linspace(0, 2 * np.pi, 28, endpoint=False)
        power = 0.5 + 0.5 * glasses.roundness
        cos, sin = np.cos(angle), np.sin(angle)
        lens = np.stack([np.sign(cos) * np.abs(cos) ** power * 0.33, np.sign(sin) * np.abs(sin) ** power * corner], 1)
        lens += (side * (features.eye_distance + 0.02), EYE_Y + 0.06)
        scale(image, pose.project(lens, 0.1), 1 - glasses.tint, 0.01 * unit)
        _paint_ring(image, pose.project(lens, 0.1), glasses.colour, line * unit)
        temple = np.array([[0.76, EYE_Y], [0.9, EYE_Y - 0.02], [1.0, EYE_Y - 0.02]]) * (side, 1)
        paint(image, pose.project(stroke(temple, line * 0.9), 0.05), glasses.colour, 0.006 * unit)
    bridge = _arc(0, EYE_Y + 0.02, features.eye_distance - 0.3, -0.05)
    paint(image, pose.project(stroke(bridge, line), 0.12), glasses.colour, 0.006 * unit)


def _paint_ring(image: Image, points: Points, ring_colour: Colour, width: float) -> None:
    """Paint a closed line of `width` pixels along a polygon of pixel coordinates."""
    centre = points.mean(axis=0)
    inner = centre + (points - centre) * (1 - width / np.linalg.norm(points - centre, axis=1, keepdims=True))
    closed = np.concatenate([points, points[:1], inner[:1], inner[::-1]])
    paint(image, closed, ring_colour, 0.4)


def _arc(x: float, y: float, half_width: float, sag: float) -> Points:
    """Sample a parabola around (x, y) that hangs down by `sag` in its middle."""
    along = np.linspace(-1, 1, 9)
    return np.stack([x + half_width * along, y + sag * (1 - along**2)], axis=1)


def _between(x: Points, upper: Points, lower: Points) -> Points:
    """Close the polygon between two curves over the same `x`."""
    return np.concatenate([np.stack([x, upper], 1), np.stack([x, lower], 1)[::-1]])
