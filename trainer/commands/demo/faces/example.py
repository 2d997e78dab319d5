"""Labelled pictures, each of which depends on its seed, split, class and number alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from trainer.commands.demo.faces.camera import Camera, draw_camera, expose, record
from trainer.commands.demo.faces.canvas import Image, Plane
from trainer.commands.demo.faces.face import paint_portrait
from trainer.commands.demo.faces.forgery import KINDS, inner_face, rerender_face, strength_range, swap_face
from trainer.commands.demo.faces.person import Person, draw_person
from trainer.commands.demo.faces.scene import Scene, draw_background, draw_light, draw_pose

SPLITS = ("Train", "Validation", "Test")
"""The parts of the data set, as its folders are named."""
CLASSES = ("Fake", "Real")
"""The classes, as their folders are named, in alphabetical and so in label order."""
_FORGERY_STREAM = len(CLASSES)
"""Number of the random stream of the forgery; those before it draw the classes' noise."""
_DONOR_SKIN_SPREAD = 0.08
"""Relative standard deviation of a donor's skin colour around the target's."""


@dataclass(frozen=True)
class Subject:
    """A person before a camera: what a genuine picture and a forgery made from it have in common.

    `exposure` is the genuine picture before noise and compression, `[3, S, S]`.
    """

    person: Person
    scene: Scene
    camera: Camera
    hair_seed: int
    exposure: Image
    seed: np.random.SeedSequence


@dataclass(frozen=True)
class Forgery:
    """A forged exposure `[3, S, S]`, and where it differs from the genuine one.

    `mask` is `[S, S]` in [0, 1]; `kind` is one of `forgery.KINDS`.
    """

    forged: Image
    mask: Plane
    kind: str


def draw_subject(seed: int, split: str, index: int, size: int) -> Subject:
    """Draw person `index` of a split in a picture of `size` pixels.

    Both classes show the same people, scenes and cameras, as in FaceForensics++ each forged video has the
    genuine one it was made from; so nothing but the forgery can tell the classes apart.
    """
    entropy = np.random.SeedSequence((seed, SPLITS.index(split), index))
    rng = np.random.default_rng(entropy)
    scene = Scene(draw_pose(rng, size), draw_light(rng), draw_background(rng, size))
    person, camera, hair_seed = draw_person(rng), draw_camera(rng, size), int(rng.integers(2**31))
    exposure = expose(paint_portrait(person, scene, hair_seed), camera)
    return Subject(person, scene, camera, hair_seed, exposure, entropy)


def take_picture(subject: Subject, label: str, difficulty: float) -> npt.NDArray[np.uint8]:
    """Photograph the subject for a class, with independent sensor noise, `[S, S, 3]` uint8 RGB."""
    exposure = subject.exposure if label == "Real" else forge(subject, difficulty).forged
    return record(exposure, subject.camera, _stream(subject, CLASSES.index(label)))


def forge(subject: Subject, difficulty: float) -> Forgery:
    """Forge the subject's exposure by one of `forgery.KINDS`, half and half, at a random strength."""
    rng, scene = _stream(subject, _FORGERY_STREAM), subject.scene
    kind = KINDS[int(rng.integers(len(KINDS)))]
    strength = rng.uniform(*strength_range(difficulty))
    mask = inner_face(scene.pose, rng, subject.exposure.shape[-1])
    if kind == "rerender":
        return Forgery(rerender_face(subject.exposure, mask, strength, rng), mask, kind)
    donor = _donor(subject.person, rng)
    portrait = paint_portrait(donor, replace(scene, light=draw_light(rng)), subject.hair_seed)
    forged = swap_face(subject.exposure, expose(portrait, subject.camera), mask, strength, rng)
    return Forgery(forged, mask, kind)


def _stream(subject: Subject, number: int) -> np.random.Generator:
    """Open one of the subject's independent random streams."""
    key = np.random.SeedSequence(subject.seed.entropy, spawn_key=(number,))
    return np.random.default_rng(key)


def _donor(target: Person, rng: np.random.Generator) -> Person:
    """Draw another person of similar skin, whose face lies under the target's hair and glasses.

    Forgers choose donors who resemble the target, and tools align the face to it.
    """
    skin = np.clip(target.features.skin * rng.normal(1, _DONOR_SKIN_SPREAD, (3, 1, 1)), 0, 1)
    return replace(target, features=replace(draw_person(rng).features, skin=skin.astype(np.float32)))
