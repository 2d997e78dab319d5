"""Videos of drawn people who move before a grey wall."""

import functools
from pathlib import Path

import cv2
import numpy as np

from trainer.commands.demo.faces.example import draw_subject, take_picture

HEIGHT, WIDTH, SIDE = 160, 240, 128  # Pixels of the frames and of the portrait in them.
RATE = 10.0  # Frames a second.


@functools.cache
def portrait(person: int, label: str = "Real", side: int = SIDE):
    """Return ``[side, side, 3]`` RGB of a person of the demonstration's Train split."""
    return take_picture(draw_subject(3, "Train", person, side), label, 0.0)


def frame(person: int, label: str, left: int, top: int):
    """Return a frame in RGB with a portrait at a place."""
    picture = np.full([HEIGHT, WIDTH, 3], 128, np.uint8)
    picture[top : top + SIDE, left : left + SIDE] = portrait(person, label)
    return picture


def place(number: int) -> tuple[int, int]:
    """Return where the portrait of a frame is, left and top."""
    return 8 + 2 * (number % 40), 10 + number % 12


def write_frames(path: Path, frames) -> Path:
    """Write frames in RGB as a video."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), RATE, (WIDTH, HEIGHT))
    for picture in frames:
        writer.write(np.ascontiguousarray(picture[..., ::-1]))
    writer.release()
    return path


def write_video(path: Path, person: int, label: str = "Real", frames: int = 20) -> Path:
    """Write a video of one person."""
    return write_frames(path, [frame(person, label, *place(number)) for number in range(frames)])
