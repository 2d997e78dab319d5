"""Score videos: read and sample their frames with OpenCV, and combine the scores of the frames.

Owns: opening, sampling, detecting a truncated video, the rows of a video and of its frames.  Does not own: the model
(``predictor.py``), writing the rows (``tables.py``).  OpenCV is an optional extra, imported when it is needed.
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
from trainer.serving.predictor import NOT_FINITE, Predictor, first_line

ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm")

_BATCH_BYTES = 32 * 2**20  # Decoded frames of one batch; a 4K frame has 25 MB.
_DEFAULT_RATE = 25.0  # Frames per second, for files that do not state it.
_COMPLETE_SHARE = 0.9  # Of the frames that the header states; some containers only estimate their number.


def require_opencv() -> None:
    """Check that OpenCV is installed.

    Raises:
        RequestError: if it is not installed.
    """
    _opencv()


def _opencv() -> Any:
    # Before the import: FFmpeg must not log about every broken file, nor read other files that a video refers to.
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
        rate: frames per second; 0.0 if the file does not state it.
        decoded: number of frames read so far, sampled or not.
    """

    def __init__(self, path: str, every: int, most: int) -> None:
        """Open a local file.

        Args:
            path: of the file.
            every: use every N-th frame, starting with the first; 0: about one per second.
            most: use at most this many frames; 0: all.

        Raises:
            OSError: if the file does not exist or is not a video.
        """
        self._cv2 = _opencv()
        with open(path, "rb"):  # Raises the reason, which OpenCV does not report.
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
        self._every = every or max(round(self.rate or _DEFAULT_RATE), 1)
        self._most = most
        self._stated_frames = float(self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT))
        self._is_at_end = False

    @property
    def missing(self) -> str:
        """An error message if the file ended long before the end that its header states; empty otherwise."""
        if not self._is_at_end or self.decoded >= _COMPLETE_SHARE * self._stated_frames:
            return ""
        return f"ends after {self.decoded} of about {self._stated_frames:.0f} frames"

    def batches(self, count: int) -> Iterator[tuple[list[int], Pixels]]:
        """Yield sampled frames in order: their numbers in the video, and ``[n, H, W, 3]`` RGB.

        Args:
            count: largest number of frames in a batch; large frames come in batches of 32 MB, or one frame.
        """
        numbers: list[int] = []
        images: list[Pixels] = []
        for number, image in self._sampled():
            if images and (image.shape != images[0].shape or len(images) == self._batch_size(images[0], count)):
                yield numbers, np.stack(images)
                numbers, images = [], []
            numbers.append(number)
            images.append(image)
        if images:
            yield numbers, np.stack(images)

    def _batch_size(self, image: Pixels, count: int) -> int:
        """Return the number of frames of this size in a batch."""
        return max(min(count, _BATCH_BYTES // image.nbytes), 1)

    def _sampled(self) -> Iterator[tuple[int, Pixels]]:
        """Yield the sampled frames and their numbers; frames between them are skipped without decoding."""
        samples = 0
        while not self._most or samples < self._most:
            if not self._capture.grab():
                self._is_at_end = True
                return
            number = self.decoded
            self.decoded += 1
            if number % self._every:
                continue
            is_intact, frame = self._capture.retrieve()
            if is_intact:
                samples += 1
                yield number, self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB)

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Which frames to score, and how to combine their scores.

    Attributes:
        every: use every N-th frame; 0: about one per second.
        most: use at most this many frames; 0: all.
        top: number of frames behind the second score: a number, or a share such as "10%".
        batch_size: frames that each device scores at a time.
        threshold: replaces the export's; 0.0: the export's.
    """

    every: int
    most: int
    top: str
    batch_size: int
    threshold: float

    def top_of(self, frames: int) -> int:
        """Return how many of a video's frames count for the top score, at least one.

        Raises:
            RequestError: if ``top`` is neither a number nor a share.
        """
        text = self.top.strip()
        try:
            number = float(text.removesuffix("%")) if text.endswith("%") else int(text)
        except ValueError:
            number = 0
        is_valid = 0 < number <= 100 if text.endswith("%") else number > 0
        if not is_valid:
            raise RequestError(f"--top_k: expected a number of frames or a share such as 10%, received {self.top!r}")
        return min(max(math.ceil(number / 100 * frames) if text.endswith("%") else int(number), 1), frames)


def predict(
    export: exported_model.ExportedModel, predictor: Predictor, paths: Sequence[str], sampling: Sampling
) -> Iterator[tuple[Row, list[Row]]]:
    """Yield for each video, in order, its row and a row for each scored frame.

    A video that cannot be read has an ``error`` and None elsewhere.  One that ends early has an ``error`` and the
    scores of the frames before its end.

    Raises:
        RequestError: if ``sampling.top`` is wrong.
    """
    sampling.top_of(1)
    with tqdm.tqdm(total=len(paths), unit="video", file=sys.stderr, disable=None, leave=False) as bar:
        for path in paths:
            scores = _score(predictor, path, sampling)
            yield _row(export, path, scores, sampling), list(_frame_rows(export, path, scores, sampling))
            bar.update()


@dataclasses.dataclass
class _VideoScores:
    """The scores of one video.

    Attributes:
        numbers: of the sampled frames.
        probabilities: ``[C]`` of each scored frame, or None.
        rate: frames per second; 0.0 if the file does not state it.
        decoded: number of frames read.
        error: what went wrong; empty if nothing did.
    """

    numbers: list[int] = dataclasses.field(default_factory=list)
    probabilities: list[exported_model.Probabilities | None] = dataclasses.field(default_factory=list)
    rate: float = 0.0
    decoded: int = 0
    error: str = ""

    @property
    def good(self) -> list[exported_model.Probabilities]:
        return [row for row in self.probabilities if row is not None]

    def seconds(self, frames: int) -> float | None:
        """Return the duration of a number of frames; None if the file does not state its rate."""
        return round(frames / self.rate, 3) if self.rate else None


def _score(predictor: Predictor, path: str, sampling: Sampling) -> _VideoScores:
    scores = _VideoScores()
    try:
        with files.local_file(path) as local, contextlib.closing(Video(local, sampling.every, sampling.most)) as video:
            scores.rate = video.rate
            for answers in predictor.score_pixels(_pixels(video, scores.numbers, sampling.batch_size)):
                scores.probabilities += [
                    None if n in answers.errors else row for n, row in enumerate(answers.probabilities)
                ]
            scores.decoded, scores.error = video.decoded, video.missing
    except OSError as error:
        scores.error = first_line(error)
    if not scores.good and not scores.error:
        scores.error = "no frame of it could be scored" if scores.numbers else "a video without frames"
    return scores


def _pixels(video: Video, numbers: list[int], count: int) -> Iterator[Any]:
    """Yield the frames, and append their numbers to ``numbers``."""
    for batch_numbers, images in video.batches(count):
        numbers += batch_numbers
        yield images


def _row(export: exported_model.ExportedModel, path: str, scores: _VideoScores, sampling: Sampling) -> Row:
    row: Row = {"path": files.printable(path), "label": None, "p_fake": None, "p_fake_top": None,
                "frames": len(scores.good), "seconds": None, "error": scores.error or None}  # fmt: skip
    mean = None
    if scores.good:
        probabilities = np.stack(scores.good)
        mean = probabilities.mean(axis=0, dtype=np.float64).astype(np.float32)
        p_fake = np.sort(probabilities[:, export.positive])[::-1]
        top = p_fake[: sampling.top_of(len(p_fake))]
        row |= {
            "label": export.decide(mean, sampling.threshold),
            "p_fake": _digits(mean[export.positive]),
            "p_fake_top": _digits(top.mean(dtype=np.float64)),
            "seconds": scores.seconds(scores.decoded),
        }
    return row | _by_class(export, mean)


def _frame_rows(
    export: exported_model.ExportedModel, path: str, scores: _VideoScores, sampling: Sampling
) -> Iterator[Row]:
    # If reading failed, the last frames have numbers but no scores.
    for number, probabilities in zip(scores.numbers, scores.probabilities, strict=False):
        row: Row = {"path": files.printable(path), "frame": number, "seconds": scores.seconds(number),
                    "label": None, "p_fake": None, "error": NOT_FINITE}  # fmt: skip
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
    """Return a float32 rounded to nine digits, which identify it exactly."""
    return float(f"{value:.9g}")
