"""Paint a genuine portrait: body, head, features and light."""

from __future__ import annotations

import numpy as np

from trainer.commands.demo.faces import hair as hair_painter
from trainer.commands.demo.faces.canvas import (
    Image,
    Plane,
    Points,
    colour,
    ellipse,
    full_mask,
    mirrored,
    noise_field,
    paint,
    reflected,
    resize,
    scale,
    smooth_closed,
)
from trainer.commands.demo.faces.features import paint_beard, paint_features, paint_glasses
from trainer.commands.demo.faces.person import Outline, Person
from trainer.commands.demo.faces.scene import Light, Pose, Scene

_PORE_CONTRAST = 0.022
"""Relative standard deviation of the skin's fine texture."""
_BLOTCH_CONTRAST = 0.022
"""Relative standard deviation of the skin's uneven brightness."""
_REDNESS_CONTRAST = 0.011
"""Relative standard deviation of the skin's uneven redness."""
_EDGE = 0.008
"""Softness of the edge of the head, in face units."""
_SHADOW = 0.42
"""Part of the light which the head takes from neck and shoulders."""


def paint_portrait(person: Person, scene: Scene, seed: int) -> Image:
    """Paint the person into the scene as a perfect lens sees it, `[3, S, S]` float32, white being 1.

    `seed` draws the strands of hair, which must agree between two portraits that are to be blended.
    """
    pose, size = scene.pose, scene.background.shape[-1]
    rng = np.random.default_rng(seed)
    albedo = scene.background.copy()
    shading = np.ones((size, size), dtype=np.float32)
    sheet = hair_painter.strands(person, pose, rng, size)
    outline = head_outline(person.outline, pose)
    head = full_mask(outline, size, _EDGE * pose.unit)

    hair_painter.paint_back(albedo, person, pose, sheet)
    body = _paint_body(albedo, shading, person, scene)
    _paint_ears(albedo, person, pose)
    skin = _skin(person, size)
    paint_beard(skin, person.features, pose)
    paint(albedo, outline, skin, _EDGE * pose.unit)
    shading += (_head_light(pose, scene.light, size) - shading) * head
    paint_features(albedo, shading, person.features, pose)
    hair_painter.paint_front(albedo, person, pose, sheet, rng)
    lit = np.maximum(body, head, out=head)
    for plane, tint in zip(albedo, scene.light.tint.ravel().tolist(), strict=True):
        plane *= shading * (1 + (tint - 1) * lit)
    if person.glasses is not None:
        paint_glasses(albedo, person.glasses, person.features, pose)
    return albedo


def head_outline(outline: Outline, pose: Pose) -> Points:
    """Outline the head in pixels; the chin stands out of the plane and so turns with the head."""
    length = outline.length
    half = np.array(
        [
            (0.0, -1.42, 0.0),
            (0.55, -1.36, 0.0),
            (0.9, -0.95, 0.0),
            (1.0, -0.3, 0.0),
            (outline.cheek, 0.25, 0.1),
            (outline.jaw, 0.8, 0.2),
            (outline.chin + 0.14, length - 0.08, 0.3),
            (outline.chin * 0.5, length + 0.03, 0.35),
        ]
    )
    points = np.concatenate([half, (half * (-1, 1, 1))[::-1]])
    return smooth_closed(pose.project_at(points[:, :2], points[:, 2]))


def _skin(person: Person, size: int) -> Image:
    """Paint a sheet of skin: the tone with pores and with uneven redness."""
    rng = np.random.default_rng(person.features.texture_seed)
    pores = noise_field(rng, size, 0.6 * size / 256)
    blotches = noise_field(rng, size, size / 32)
    gain = 1 + np.float32(_PORE_CONTRAST) * pores + np.float32(_BLOTCH_CONTRAST) * blotches
    sheet: Image = person.features.skin * gain
    sheet[1:] *= 1 - np.float32(_REDNESS_CONTRAST) * blotches
    return sheet


def _head_light(pose: Pose, light: Light, size: int) -> Plane:
    """Shade an ellipsoid by Lambert's law, gains `[S, S]`; the head turns, its shape hardly changes."""
    x, y = pose.shrunk(2).face_grid(size // 2)
    nx, ny = x / 1.06, (y - 0.02) / 1.55
    nz = np.sqrt(np.maximum(1 - nx * nx - ny * ny, 0.02))
    cosine = np.clip(nx * light.direction[0] + ny * light.direction[1] + nz * light.direction[2], 0, 1)
    rim = 0.75 + 0.25 * np.minimum(nz * 2, 1)
    return resize((light.ambient + light.key * cosine) * rim, size)


def _paint_body(albedo: Image, shading: Plane, person: Person, scene: Scene) -> Plane:
    """Paint shoulders and neck, and the shadow which the head throws on them; return where they are."""
    pose, outline = scene.pose, person.outline
    size, softness = albedo.shape[-1], 0.01 * pose.unit
    upright = Pose(0.5 * pose.yaw, 0.0, 0.4 * pose.roll, pose.unit, pose.x, pose.y)
    neck, shoulder = outline.neck, outline.shoulder
    torso = mirrored([(neck, 1.5), (shoulder * 0.6, 1.68), (shoulder, 2.0), (shoulder + 0.25, 3.6)])
    throat = mirrored([(neck, 0.4), (neck, 1.38), (neck + 0.14, 1.6), (0.4, 1.62 + outline.collar)])
    torso = upright.project_at(smooth_closed(torso), -0.2)
    throat = upright.project_at(smooth_closed(throat, 2), -0.2)
    paint(albedo, torso, _cloth(person, upright, size), softness)
    paint(albedo, throat, person.features.skin * np.float32(0.96), softness)
    body = np.maximum(full_mask(torso, size, softness), full_mask(throat, size, softness))
    low = slice(max(int(pose.y), 0), size)

    x = upright.face_grid(size)[0][low]
    side = 1 + 0.3 * scene.light.direction[0] * np.clip(x, -1.2, 1.2)
    gain = 0.72 * side + 0.2 * np.maximum(1 - (x / (neck + 0.1)) ** 2, 0)
    shading[low] += (gain - shading[low]) * body[low]
    shadow = head_outline(outline, pose) + np.array([-0.25 * scene.light.direction[0], 0.2]) * pose.unit
    shade = full_mask(shadow / 4, size // 4, 0.07 * pose.unit / 4)
    shading[low] *= 1 - _SHADOW * resize(shade, size)[low] * body[low]
    return body


def _cloth(person: Person, upright: Pose, size: int) -> Image:
    """Paint a sheet of cloth: a weave of fine noise, sometimes striped."""
    outline = person.outline
    rng = np.random.default_rng(person.features.texture_seed + 1)
    gain = 1 + np.float32(0.03) * noise_field(rng, size, 0.6) + np.float32(0.06) * noise_field(rng, size, size / 20)
    if outline.stripes:
        _, y = upright.face_grid(size)
        gain *= 1 + np.float32(0.22) * np.sign(np.sin(y * (14 + 12 * outline.collar)))
    return np.asarray(outline.clothes * gain, dtype=np.float32)


def _paint_ears(albedo: Image, person: Person, pose: Pose) -> None:
    """Paint both ears behind the head's outline; turning the head hides one of them."""
    skin, size = person.features.skin, person.outline.ear
    ears = [pose.project_at(ear, -0.25) for ear in reflected(ellipse(1.02, 0.05, 0.15 * size, 0.32 * size, 0.15))]
    paint(albedo, ears, skin * colour(0.97, 0.9, 0.88), 0.01 * pose.unit)
    inner = [pose.project_at(ear, -0.25) for ear in reflected(ellipse(1.05, 0.02, 0.07 * size, 0.2 * size, 0.15))]
    scale(albedo, inner, 0.72, 0.03 * pose.unit)
