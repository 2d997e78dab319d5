"""Write a data set's pictures to its folders, person by person."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2

from trainer.commands.demo.faces.camera import encode_jpeg
from trainer.commands.demo.faces.example import CLASSES, draw_subject, take_picture

_FORMAT = 1
"""Raised whenever the same arguments come to draw other pictures."""


@dataclass(frozen=True)
class DataSet:
    """The arguments that determine a data set; `counts` holds the pictures per class of each split."""

    counts: dict[str, int]
    seed: int
    size: int
    difficulty: float

    def total(self) -> int:
        """Count the pictures of all splits and classes."""
        return len(CLASSES) * sum(self.counts.values())

    def description(self) -> dict[str, object]:
        """Describe the set as JSON can hold it."""
        return {"format": _FORMAT, **asdict(self)}

    def paths(self, out: Path) -> Iterator[Path]:
        """List the files of the complete set under `out`."""
        for split, count in self.counts.items():
            for index in range(count):
                for label in CLASSES:
                    yield picture_path(out, split, label, index)


def picture_path(out: Path, split: str, label: str, index: int) -> Path:
    """Return the file name of a picture; only its folder shows the class."""
    return out / split / label / f"{index:06d}.jpg"


def prepare_worker(pooled: bool = False) -> None:
    """Keep OpenCV to one thread, for the processes share the cores already.

    A process of a pool (`pooled`) leaves an interrupt to its parent, which ends it without a traceback.
    """
    cv2.setNumThreads(1)
    if pooled:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def write_subject(out: Path, data: DataSet, split: str, index: int) -> None:
    """Draw one person and write the picture of each class, unless it exists; no file is ever seen in part."""
    missing = [label for label in CLASSES if not picture_path(out, split, label, index).is_file()]
    if not missing:
        return
    subject = draw_subject(data.seed, split, index, data.size)
    for label in missing:
        pixels = take_picture(subject, label, data.difficulty)
        path = picture_path(out, split, label, index)
        part = path.with_suffix(".part")
        part.write_bytes(encode_jpeg(pixels, subject.camera.jpeg_quality))
        os.replace(part, path)
