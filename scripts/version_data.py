"""The data set that ``compare_versions.py`` runs both versions on: drawn anew each time, the same for both."""

import dataclasses
import shutil
from pathlib import Path

import cv2
import numpy as np
from PIL import Image


@dataclasses.dataclass(frozen=True)
class Data:
    """What all commands read; see ``draw_data``."""

    data: Path
    train_only: Path
    groups: Path
    video: Path


def draw_data(root: Path) -> Data:
    """Draw 24, 12 and 12 images of each class in Train, Validation and Test, one of them broken; and two videos."""
    generator = np.random.default_rng(0)
    data = Data(root / "faces", root / "train_only", root / "groups.csv", root / "videos")
    for split, count in (("Train", 24), ("Validation", 12), ("Test", 12)):
        for label in ("Fake", "Real"):
            folder = data.data / split / label
            folder.mkdir(parents=True)
            for number in range(count):
                draw_image(generator, folder / f"{number:03d}", red=60 if label == "Fake" else 0)
    shutil.copy(data.data / "Train" / "Real" / "001.jpg", data.data / "Test" / "Real" / "012.jpg")  # For the audit.
    shutil.copytree(data.data / "Train", data.train_only / "Train")
    (data.data / "Train" / "Real" / "024.jpg").write_bytes(b"no image")
    paths = sorted(path.relative_to(data.data) for path in (data.data / "Test").rglob("*.*"))
    rows = [f"{path},{number % 5}" for number, path in enumerate(paths)]
    data.groups.write_text("\n".join(["path,source", *rows]) + "\n")
    data.video.mkdir()
    for name in ("a", "b"):
        draw_video(generator, data.video / f"{name}.avi")
    return data


def draw_image(generator: np.random.Generator, path: Path, *, red: int) -> None:
    """Write one image of 46 to 64 pixels: every eighth a PNG, every seventh gray, the others colour JPEGs."""
    number = int(path.name)
    height, width = generator.integers(46, 65, 2).tolist()
    pixels = generator.integers(0, 180, (8, 8, 3), np.uint8)
    pixels[2:6, 2:6, 0] += red
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC)
    image = image.convert("L") if number % 7 == 6 else image
    image.save(path.with_suffix(".png" if number % 8 == 7 else ".jpg"))


def draw_video(generator: np.random.Generator, path: Path) -> None:
    """Write 12 frames of noise, five a second."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (64, 64))
    for _ in range(12):
        writer.write(generator.integers(0, 255, (64, 64, 3), np.uint8))
    writer.release()
