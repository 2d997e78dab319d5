"""The identity of a drawn person: shapes, colours, hair and accessories.

Lengths are in face units, half the width of an average head; y runs down from between the eyes and the nose.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trainer.commands.demo.faces.canvas import Colour, colour

# The ten tones of the Monk Skin Tone scale (Monk, E., 2019, doi:10.31235/osf.io/pdf4c), as sRGB.
_SKIN_TONES = np.array(
    [
        (0xF6, 0xED, 0xE4),
        (0xF3, 0xE7, 0xDB),
        (0xF7, 0xEA, 0xD0),
        (0xEA, 0xDA, 0xBA),
        (0xD7, 0xBD, 0x96),
        (0xA0, 0x7E, 0x56),
        (0x82, 0x5C, 0x43),
        (0x60, 0x41, 0x34),
        (0x3A, 0x31, 0x2A),
        (0x29, 0x24, 0x20),
    ],
    dtype=np.float32,
) / np.float32(255)

# The scale's swatches look grey and yellow as large lit surfaces; blood moves living skin towards red.
_UNDERTONE = np.array([1.02, 0.92, 0.87])

_HAIR_COLOURS = (
    colour(0.07, 0.06, 0.06),
    colour(0.16, 0.10, 0.07),
    colour(0.30, 0.19, 0.11),
    colour(0.46, 0.31, 0.17),
    colour(0.72, 0.58, 0.36),
    colour(0.47, 0.25, 0.15),
    colour(0.62, 0.61, 0.60),
)

_IRIS_COLOURS = (
    colour(0.22, 0.13, 0.07),
    colour(0.33, 0.21, 0.10),
    colour(0.38, 0.36, 0.18),
    colour(0.30, 0.42, 0.30),
    colour(0.30, 0.45, 0.60),
    colour(0.42, 0.48, 0.52),
)

HAIR_STYLES = ("bald", "cropped", "parted", "fringe", "bob", "long", "curly", "bun")
"""The styles `hair` can paint."""


@dataclass(frozen=True)
class Hair:
    """Style (one of `HAIR_STYLES`), colour and where the forehead ends (`line`, a y coordinate)."""

    style: str
    colour: Colour
    line: float
    volume: float
    parting: float


@dataclass(frozen=True)
class Glasses:
    """Frames: roundness of the lenses in [0, 1], colour, thickness in face units, darkness of the lenses."""

    roundness: float
    colour: Colour
    thickness: float
    tint: float


@dataclass(frozen=True)
class Outline:
    """The outline of head, ears and body, which a face swap leaves as the target has it."""

    jaw: float
    chin: float
    cheek: float
    length: float
    ear: float
    neck: float
    shoulder: float
    clothes: Colour
    stripes: bool
    collar: float


@dataclass(frozen=True)
class Features:
    """The inner face, which a face swap takes from the donor."""

    skin: Colour
    eye_distance: float
    eye_width: float
    eye_opening: float
    eye_tilt: float
    iris: Colour
    gaze: float
    lid: float
    brow_thickness: float
    brow_height: float
    brow_arch: float
    brow: Colour
    nose_width: float
    nose_length: float
    mouth_width: float
    mouth_y: float
    lips: float
    smile: float
    teeth: float
    blush: float
    beard: float
    moustache: float
    freckles: int
    wrinkles: float
    texture_seed: int


@dataclass(frozen=True)
class Person:
    """A drawn person."""

    features: Features
    outline: Outline
    hair: Hair
    glasses: Glasses | None


def draw_skin(rng: np.random.Generator) -> Colour:
    """Draw a skin colour anywhere on the Monk scale, with a small variation of its own."""
    place = rng.uniform(0.5, len(_SKIN_TONES) - 1.8)
    below = int(place)
    tone = _SKIN_TONES[below] + (place - below) * (_SKIN_TONES[below + 1] - _SKIN_TONES[below])
    return colour(*np.clip(tone * _UNDERTONE * rng.normal(1, 0.02, 3), 0.05, 1))


def draw_person(rng: np.random.Generator) -> Person:
    """Draw a person; darker skin goes with dark hair and eyes, as in people."""
    skin = draw_skin(rng)
    dark = skin.mean() < 0.5
    hair_colour = _HAIR_COLOURS[rng.integers(2) if dark else rng.integers(len(_HAIR_COLOURS))]
    hair_colour = np.clip(hair_colour * rng.uniform(0.85, 1.2), 0, 1).astype(np.float32)
    iris = _IRIS_COLOURS[rng.integers(2) if dark else rng.integers(len(_IRIS_COLOURS))]
    style = str(rng.choice(HAIR_STYLES, p=(0.08, 0.15, 0.15, 0.14, 0.13, 0.15, 0.1, 0.1)))
    bearded = style in ("bald", "cropped", "parted") and rng.random() < 0.45
    return Person(
        features=_draw_features(rng, skin, hair_colour, iris, bearded),
        outline=_draw_outline(rng),
        hair=Hair(style, hair_colour, rng.uniform(-1.05, -0.85), rng.uniform(0.06, 0.2), rng.uniform(-0.5, 0.5)),
        glasses=_draw_glasses(rng) if rng.random() < 0.22 else None,
    )


def _draw_features(rng: np.random.Generator, skin: Colour, hair: Colour, iris: Colour, bearded: bool) -> Features:
    """Draw the inner face of a person whose colours are given."""
    return Features(
        skin=skin,
        eye_distance=rng.uniform(0.37, 0.44),
        eye_width=rng.uniform(0.18, 0.225),
        eye_opening=rng.uniform(0.36, 0.56),
        eye_tilt=rng.normal(0.04, 0.07),
        iris=iris,
        gaze=float(np.clip(rng.normal(0, 0.2), -0.4, 0.4)),
        lid=rng.uniform(0.0, 1.0),
        brow_thickness=rng.uniform(0.05, 0.11),
        brow_height=rng.uniform(0.25, 0.34),
        brow_arch=rng.uniform(0.02, 0.1),
        brow=np.clip(hair * 0.8, 0.03, 0.6).astype(np.float32),
        nose_width=rng.uniform(0.19, 0.29),
        nose_length=rng.uniform(0.36, 0.48),
        mouth_width=rng.uniform(0.3, 0.43),
        mouth_y=rng.uniform(0.74, 0.84),
        lips=rng.uniform(0.05, 0.12),
        smile=rng.uniform(-0.02, 0.1),
        teeth=rng.uniform(0.03, 0.09) if rng.random() < 0.3 else 0.0,
        blush=rng.uniform(0, 0.16),
        beard=rng.uniform(0.25, 0.85) if bearded else 0.0,
        moustache=rng.uniform(0.3, 0.9) if bearded and rng.random() < 0.7 else 0.0,
        freckles=int(rng.integers(25, 80)) if rng.random() < 0.14 else 0,
        wrinkles=rng.uniform(0, 0.22),
        texture_seed=int(rng.integers(2**31)),
    )


def _draw_outline(rng: np.random.Generator) -> Outline:
    """Draw the head's outline and the body."""
    return Outline(
        jaw=rng.uniform(0.68, 0.84),
        chin=rng.uniform(0.2, 0.36),
        cheek=rng.uniform(0.9, 1.0),
        length=rng.uniform(1.27, 1.42),
        ear=rng.uniform(0.8, 1.15),
        neck=rng.uniform(0.5, 0.7),
        shoulder=rng.uniform(1.7, 2.3),
        clothes=colour(*np.clip(rng.uniform(0.1, 0.85) + rng.normal(0, 0.13, 3), 0.03, 0.95)),
        stripes=bool(rng.random() < 0.25),
        collar=rng.uniform(0.1, 0.5),
    )


def _draw_glasses(rng: np.random.Generator) -> Glasses:
    """Draw frames, now and then with tinted lenses."""
    frame = colour(*np.clip(rng.choice([0.08, 0.12, 0.3]) + rng.normal(0, 0.04, 3), 0.02, 0.8))
    return Glasses(rng.uniform(0, 1), frame, rng.uniform(0.03, 0.07), float(rng.choice([0.0, 0.06, 0.2])))
