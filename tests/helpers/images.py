"""Small folders of images that a network can learn to tell apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

# What the square adds to red, green and blue: the first class has a red one, the second none.
_SQUARES = ((110, 0, 0), (0, 0, 0), (0, 0, 110), (0, 110, 0))


def write_image_set(
    root: Path,
    *,
    train: int,
    validation: int,
    test: int,
    size: int = 64,
    classes: Sequence[str] = ("Fake", "Real"),
    seed: int = 0,
) -> str:
    """Write ``root/{Train,Validation,Test}/<class>/<number>.jpg`` and return ``root`` as data_dir takes it.

    Args:
        root: folder to write into, made if needed.
        train: images of each class in Train; 0 makes no folder (also below).
        validation: images of each class in Validation.
        test: images of each class in Test.
        size: height and width, pixels.
        classes: folder names; each has a square of its own colour at a random place, the second has none.
        seed: decides every pixel.
    """
    for split_number, (split, count) in enumerate({"Train": train, "Validation": validation, "Test": test}.items()):
        for label, name in enumerate(classes):
            random = np.random.default_rng([seed, split_number, label])
            for number in range(count):
                path = Path(root) / split / name / f"{number:05d}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(_picture(random, size, _SQUARES[label % len(_SQUARES)])).save(path, quality=90)
    return str(root)


def _picture(random: np.random.Generator, size: int, square: tuple[int, int, int]) -> np.ndarray:
    """Return a smooth random colour field with a little noise and, somewhere, a square: [size, size, 3] uint8."""
    coarse = random.integers(40, 140, [4, 4, 3], dtype=np.uint8)
    field = np.asarray(Image.fromarray(coarse).resize([size, size], Image.Resampling.BICUBIC), np.float64)
    field = field + random.normal(0, 4, field.shape)
    side = size * 3 // 8
    top, left = random.integers(0, size - side, 2)
    field[top : top + side, left : left + side] += square
    return field.clip(0, 255).astype(np.uint8)
