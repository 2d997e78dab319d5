"""Frames of a video file by OpenCV, a few at a time.

Owns: opening, sampling, and telling a whole video from a broken one.  Does not own: what becomes of the frames.
OpenCV is an optional extra and imported on use.
"""

import math
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from trainer.data.pixels import Pixels
from trainer.errors import RequestError

ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm")

_BATCH_BYTES = 32 * 2**20  # Decoded frames of one batch; a frame in 4K has 25 MB.
_USUAL_RATE = 25.0  # Frames a second, for files that do not say.
_ENOUGH = 0.9  # Of the frames that the header announces; some containers only estimate their number.


def require_opencv() -> None:
    """Import OpenCV, or say how to get it.

    Raises:
        RequestError: if it is not installed.
    """
    _opencv()


def _opencv() -> Any:
    # Before the import: no chatter of FFmpeg about every broken file, and nothing read that a file only refers to.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file")
    try:
        import cv2
    except ImportError as error:
        raise RequestError(
            f"--video: expected OpenCV, received {error}; install it with: pip install -e '.[video]'"
        ) from error
    return cv2


class Video:
    """An open video file.

    Attributes:
        rate: frames a second; 0.0 if the file does not say.
        decoded: frames passed so far, sampled or not.
    """

    def __init__(self, path: str, every: int, most: int) -> None:
        """Open a local file.

        Args:
            path: of the file.
            every: take each so many-th frame, from the first on; 0: about one a second.
            most: take at most so many; 0: all.

        Raises:
            OSError: if it is not there, or no video.
        """
        self._cv2 = _opencv()
        with open(path, "rb"):  # OpenCV does not say what is wrong.
            pass
        try:
            self._capture = self._cv2.VideoCapture(path, self._cv2.CAP_FFMPEG)
        except (UnicodeError, self._cv2.error) as error:
            raise OSError(f"OpenCV cannot open it: {error}") from error
        if not self._capture.isOpened():
            raise OSError("not a video that OpenCV can read (damaged, cut off, or of another kind)")
        rate = float(self._capture.get(self._cv2.CAP_PROP_FPS))
        self.rate = rate if math.isfinite(rate) and rate > 0 else 0.0
        self.decoded = 0
        self._every, self._most = every or max(round(self.rate or _USUAL_RATE), 1), most
        self._announced, self._ended = float(self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT)), False

    @property
    def missing(self) -> str:
        """What to say if the file ended long before its header lets expect; empty if it did not."""
        if not self._ended or self.decoded >= _ENOUGH * self._announced:
            return ""
        return f"ends after {self.decoded} of about {self._announced:.0f} frames"

    def batches(self, count: int) -> Iterator[tuple[list[int], Pixels]]:
        """Yield sampled frames, in order: their numbers in the video, and ``[n, H, W, 3]`` RGB.

        Args:
            count: frames of a batch; fewer if they are large, so that a batch has 32 MB or one frame.
        """
        numbers: list[int] = []
        images: list[Pixels] = []
        for number, image in self._sampled():
            if images and (image.shape != images[0].shape or len(images) == self._room(images[0], count)):
                yield numbers, np.stack(images)
                numbers, images = [], []
            numbers.append(number)
            images.append(image)
        if images:
            yield numbers, np.stack(images)

    def _room(self, image: Pixels, count: int) -> int:
        return max(min(count, _BATCH_BYTES // image.nbytes), 1)

    def _sampled(self) -> Iterator[tuple[int, Pixels]]:
        taken = 0
        while not self._most or taken < self._most:
            if not self._capture.grab():
                self._ended = True
                return
            number, self.decoded = self.decoded, self.decoded + 1
            if number % self._every:
                continue
            whole, frame = self._capture.retrieve()
            if whole:
                taken += 1
                yield number, self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        """Let go of the file."""
        self._capture.release()
