"""Frames of a video file by OpenCV, a few at a time.

Owns: opening, sampling, and telling a whole video from a broken one.  Does not own: what becomes of the frames.
OpenCV is an optional extra and imported on use.
"""

import contextlib
import dataclasses
import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.core.tables import Row
from trainer.data.pixels import Pixels
from trainer.serving import exported_model
from trainer.serving.predictor import Predictor, first_line

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


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which frames, and what is made of them.

    Attributes:
        every: take each so many-th frame; 0: about one a second.
        most: take at most so many; 0: all.
        top: how many frames the second score is of: a number, or a share as "10%".
        batch_size: frames scored at a time by each device.
        threshold: another one than the export's; 0.0: the export's.
    """

    every: int
    most: int
    top: str
    batch_size: int
    threshold: float

    def top_of(self, frames: int) -> int:
        """Return how many of so many frames count for the top score, one at least.

        Raises:
            RequestError: if ``top`` is neither a number nor a share.
        """
        text = self.top.strip()
        try:
            number = float(text.removesuffix("%")) if text.endswith("%") else int(text)
        except ValueError:
            number = 0
        if not (0 < number <= 100 if text.endswith("%") else number > 0):
            raise RequestError(f"--top_k: expected a number of frames or a share such as 10%, received {self.top!r}")
        return min(max(math.ceil(number / 100 * frames) if text.endswith("%") else int(number), 1), frames)


def predict(
    export: exported_model.ExportedModel, scorer: Predictor, paths: Sequence[str], sampling: Sampling
) -> tuple[list[Row], list[Row]]:
    """Return a row for each video, in order, and a row for each frame that was scored.

    A video that cannot be read has an ``error`` and None elsewhere; one that breaks off has an ``error`` beside what
    the frames before it say.

    Raises:
        RequestError: if ``sampling.top`` is wrong.
    """
    sampling.top_of(1)
    rows: list[Row] = []
    frames: list[Row] = []
    with tqdm.tqdm(total=len(paths), unit="video", file=sys.stderr, disable=None, leave=False) as bar:
        for path in paths:
            scored = _score(scorer, path, sampling)
            rows.append(_row(export, path, scored, sampling))
            frames += _frame_rows(export, path, scored, sampling)
            bar.update()
    return rows, frames


@dataclasses.dataclass
class _Scored:
    """What became of one video: numbers of frames, their ``[C]`` probabilities or None, length in seconds."""

    numbers: list[int] = dataclasses.field(default_factory=list)
    probabilities: list[exported_model.Probabilities | None] = dataclasses.field(default_factory=list)
    rate: float = 0.0
    decoded: int = 0
    error: str = ""

    @property
    def good(self) -> list[exported_model.Probabilities]:
        return [row for row in self.probabilities if row is not None]

    def seconds(self, frames: int) -> float | None:
        """Return how long so many frames last; None if the file does not tell."""
        return round(frames / self.rate, 3) if self.rate else None


def _score(scorer: Predictor, path: str, sampling: Sampling) -> _Scored:
    scored = _Scored()
    try:
        with files.local_file(path) as local, contextlib.closing(Video(local, sampling.every, sampling.most)) as video:
            scored.rate = video.rate
            for answers in scorer.score_pixels(_pixels(video, scored.numbers, sampling.batch_size)):
                scored.probabilities += [
                    None if n in answers.errors else row for n, row in enumerate(answers.probabilities)
                ]
            scored.decoded, scored.error = video.decoded, video.missing
    except OSError as error:
        scored.error = first_line(error)
    if not scored.good and not scored.error:
        scored.error = "no frame of it could be scored" if scored.numbers else "a video without frames"
    return scored


def _pixels(video: Video, numbers: list[int], count: int) -> Iterator[Any]:
    """Yield the frames, and note their numbers."""
    for part, images in video.batches(count):
        numbers += part
        yield images


def _row(export: exported_model.ExportedModel, path: str, scored: _Scored, sampling: Sampling) -> Row:
    row: Row = {"path": files.printable(path), "label": None, "p_fake": None, "p_fake_top": None,
                "frames": len(scored.good), "seconds": None, "error": scored.error or None}  # fmt: skip
    mean = None
    if scored.good:
        every = np.stack(scored.good)
        mean = every.mean(axis=0, dtype=np.float64).astype(np.float32)
        p_fake = np.sort(every[:, export.positive])[::-1]
        top = p_fake[: sampling.top_of(len(p_fake))]
        row |= {
            "label": export.decide(mean, sampling.threshold),
            "p_fake": _digits(mean[export.positive]),
            "p_fake_top": _digits(top.mean(dtype=np.float64)),
            "seconds": scored.seconds(scored.decoded),
        }
    return row | _by_class(export, mean)


def _frame_rows(export: exported_model.ExportedModel, path: str, scored: _Scored, sampling: Sampling) -> Iterator[Row]:
    # A video that broke off while it was read may have numbers of frames that were not scored.
    for number, probabilities in zip(scored.numbers, scored.probabilities, strict=False):
        row: Row = {"path": files.printable(path), "frame": number, "seconds": scored.seconds(number),
                    "label": None, "p_fake": None, "error": "the model's answer is not a number"}  # fmt: skip
        if probabilities is not None:
            label = export.decide(probabilities, sampling.threshold)
            row |= {"label": label, "p_fake": _digits(probabilities[export.positive]), "error": None}
        yield row | _by_class(export, probabilities)


def _by_class(export: exported_model.ExportedModel, probabilities: exported_model.Probabilities | None) -> Row:
    if len(export.class_names) == 2:
        return {}
    numbers = [None] * len(export.class_names) if probabilities is None else [_digits(p) for p in probabilities]
    return {f"p_{name}": number for name, number in zip(export.class_names, numbers, strict=True)}


def _digits(value: Any) -> float:
    """Return a float32 with the nine digits that give it back exactly."""
    return float(f"{value:.9g}")
