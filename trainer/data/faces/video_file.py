"""Read and sample the frames of a video file with OpenCV.

Frames are sampled by time: each whole second counts once, for the frame that is shown then.  So a video of variable
frame rate is judged by what a viewer sees, and not by its densest part.
Owns: which files are videos, opening, sampling, detecting a truncated video.  Does not own: scores and rows
(``serving/video.py``).  OpenCV is an optional extra, imported when it is needed.
"""

import collections
import contextlib
import dataclasses
import itertools
import math
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from trainer.core.errors import RequestError
from trainer.data.pixels import Pixels

ENDINGS = (".mp4", ".avi", ".mov", ".mkv", ".webm")

_BATCH_BYTES = 32 * 2**20  # Decoded frames of one batch; a 4K frame has 25 MB.
_DEFAULT_RATE = 25.0  # Frames per second, for files that do not state it.
_COMPLETE_SHARE = 0.9  # Of the frames or the length that the header states; some containers only estimate them.
_EARLY = 0.02  # Seconds that a frame may come after the one that it stands for: timestamps are rounded.

# FFmpeg also follows lists of other files (ffconcat, playlists), whatever their name, and opens images and texts.
_CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,mxf"
_OPTIONS = f"protocol_whitelist;file|format_whitelist;{_CONTAINERS}"
_NO_VIDEOS = (  # Beginnings of files, which may have any name.
    (rb"\x89PNG|\xff\xd8\xff|GIF8|BM.{4}\0{4}|RIFF.{4}WEBP|.{4}ftyp(avif|hei[cx]|mif1)",
     "an image: predict it without --video"),
    (rb"\s*(ffconcat|#EXTM3U)", "a list of other files, which is not followed: name the videos themselves"),
    (rb"ID3|fLaC|OggS.{24}(\x01vorbis|OpusHead)|RIFF.{4}WAVE", "sound without pictures"),
)  # fmt: skip
_PICTURE_CODECS = {b"MJPG", b"MPNG", b"png ", b"GIF ", b"BMP ", b"WEBP", b"tiff"}
_NO_RATE = 1000.0  # Frames per second from which on a rate is only the unit of the timestamps.


def require_opencv() -> None:
    """Check that OpenCV is installed.

    Raises:
        RequestError: if it is not installed.
    """
    opencv()


def opencv() -> Any:
    """Return the module cv2.

    Raises:
        RequestError: if it is not installed.
    """
    # Before the import: FFmpeg must not log about every broken file, nor read other files that a video refers to.
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    options = os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS", "")
    if not options.endswith(_OPTIONS):  # The last one of an option counts.
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = f"{options}|{_OPTIONS}" if options else _OPTIONS
    try:
        import cv2
    except ImportError as error:
        raise RequestError(
            f"--video: expected OpenCV, received {error}; install it with: pip install -e '.[video]'"
        ) from error
    return cv2


@dataclasses.dataclass(frozen=True)
class Sample:
    """A frame to score.

    Attributes:
        number: in the video, from 0.
        seconds: when it appears, from the first frame on.
        weight: how often it counts: the number of whole seconds at which it is shown, or 1 if every N-th is sampled.
    """

    number: int
    seconds: float
    weight: int = 1


class Video:
    """An open video file.

    Attributes:
        rate: frames per second on average; 0.0 if the file does not state it.
        decoded: number of frames read so far, sampled or not.
        seconds: when the last of them appeared, from the first frame on.
        has_times: whether the file states a rate or timestamps.
    """

    def __init__(self, path: str, every: int, most: int) -> None:
        """Open a local file.

        Args:
            path: of the file.
            every: use every N-th frame, starting with the first; 0: those shown at whole seconds.
            most: use at most this many frames; 0: all.

        Raises:
            OSError: if the file does not exist or is not a video.
        """
        self._cv2 = opencv()
        _refuse_other_kinds(path)  # Also raises the reason of a file that cannot be read, which OpenCV does not report.
        self._path = path
        self._capture = self._open(path)
        rate = float(self._capture.get(self._cv2.CAP_PROP_FPS))
        self.rate = rate if math.isfinite(rate) and rate > 0 else 0.0
        if self.rate >= _NO_RATE and self._is_cover(path):
            raise OSError("sound with a cover picture, not a video")
        self.decoded = 0
        self.seconds = 0.0
        self.has_times = bool(self.rate)
        self._every = every
        self._most = most
        self._start = 0.0  # Timestamp of the first frame, seconds.
        self._usual_gap = 1 / (self.rate or _DEFAULT_RATE)  # Seconds between two frames.
        self._gap = self._usual_gap  # Between the last two.
        self._stated_frames = float(self._capture.get(self._cv2.CAP_PROP_FRAME_COUNT))
        self._is_at_end = False

    def _open(self, path: str) -> Any:
        try:
            capture = self._cv2.VideoCapture(path, self._cv2.CAP_FFMPEG)
        except (UnicodeError, self._cv2.error) as error:
            raise OSError(f"OpenCV cannot open it: {error}") from error
        if not capture.isOpened():
            raise OSError("not a video that OpenCV can read (damaged, cut off, or of another kind)")
        return capture

    def _is_cover(self, path: str) -> bool:
        """Return whether the only picture is one that belongs to the sound."""
        codec = int(self._capture.get(self._cv2.CAP_PROP_FOURCC)).to_bytes(4, "little")
        again = self._open(path)
        has_more = again.grab() and again.grab()
        again.release()
        return codec in _PICTURE_CODECS and not has_more

    @property
    def _stated_seconds(self) -> float:
        seconds = self._stated_frames / self.rate if self.rate else 0.0
        return seconds if math.isfinite(seconds) else 0.0

    @property
    def end(self) -> float:
        """When the last frame read so far disappears, seconds: the last of all at the end that the header states."""
        if self._is_at_end and not self.missing and self._stated_seconds > self.seconds:
            return self._stated_seconds
        return self.seconds + self._usual_gap if self.decoded else 0.0

    @property
    def missing(self) -> str:
        """An error message if the file ended long before the end that its header states; empty otherwise."""
        if not self._is_at_end or self.decoded >= _COMPLETE_SHARE * self._stated_frames:
            return ""
        # Of a variable rate the number of frames is a guess.
        if self.decoded and self.seconds + self._usual_gap >= _COMPLETE_SHARE * self._stated_seconds:
            return ""
        return f"ends after {self.decoded} of about {self._stated_frames:.0f} frames"

    def batches(self, count: int) -> Iterator[tuple[list[Sample], Pixels]]:
        """Yield sampled frames in order, with ``[n, H, W, 3]`` RGB.

        Args:
            count: largest number of frames in a batch; large frames come in batches of 32 MB, or one frame.
        """
        samples: list[Sample] = []
        images: list[Pixels] = []
        sampled = self._by_number() if self._every else self._by_time()
        for sample, image in itertools.islice(sampled, self._most or None):
            if images and (image.shape != images[0].shape or len(images) == self._batch_size(images[0], count)):
                yield samples, np.stack(images)
                samples, images = [], []
            samples.append(sample)
            images.append(image)
        if images:
            yield samples, np.stack(images)

    def evenly(self, count: int) -> Iterator[tuple[Sample, Pixels]]:
        """Yield ``count`` frames, each with ``[H, W, 3]`` RGB: those shown in the middle of equal parts of the video.

        A video of fewer frames yields each of them once.
        """
        length = self._stated_seconds or self._measured_seconds()
        middles = collections.deque((number + 0.5) / count * length for number in range(count))
        while middles and self._grab():
            until = self.seconds + self._usual_gap
            if middles[0] >= until:
                continue
            while middles and middles[0] < until:
                middles.popleft()
            is_intact, frame = self._capture.retrieve()
            if is_intact:
                yield Sample(self.decoded - 1, self.seconds), self._rgb(frame)

    def _measured_seconds(self) -> float:
        """Return the length of a video that does not state it, by reading all of it."""
        with contextlib.closing(Video(self._path, 1, 0)) as other:
            while other._grab():
                pass
            return other.end

    def _batch_size(self, image: Pixels, count: int) -> int:
        """Return the number of frames of this size in a batch."""
        return max(min(count, _BATCH_BYTES // image.nbytes), 1)

    def _by_number(self) -> Iterator[tuple[Sample, Pixels]]:
        """Yield every N-th frame."""
        while self._grab():
            if (self.decoded - 1) % self._every == 0:
                is_intact, frame = self._capture.retrieve()
                if is_intact:
                    yield Sample(self.decoded - 1, self.seconds), self._rgb(frame)

    def _by_time(self) -> Iterator[tuple[Sample, Pixels]]:
        """Yield the frames that are shown at whole seconds; only the next frame tells how long one is shown."""
        second = 0  # The first one that has no frame yet.
        shown: tuple[int, float, Any] | None = None
        while True:
            is_frame = self._grab()
            if shown is not None:
                until = (self.seconds if is_frame else self.end) - min(_EARLY, self._gap / 2)
                weight = math.ceil(until) - second
                if weight > 0:
                    number, since, frame = shown
                    yield Sample(number, since, weight), self._rgb(frame)
                    second += weight
            if not is_frame:
                return
            is_intact, frame = self._capture.retrieve()
            if is_intact:
                shown = self.decoded - 1, self.seconds, frame

    def _grab(self) -> bool:
        """Read the next frame and its time; return whether there is one."""
        if not self._capture.grab():
            self._is_at_end = True
            return False
        timestamp = self._capture.get(self._cv2.CAP_PROP_POS_MSEC) / 1000
        if not self.decoded:
            self._start = timestamp if math.isfinite(timestamp) else 0.0
        else:
            self._advance(timestamp - self._start)
        self.decoded += 1
        return True

    def _advance(self, seconds: float) -> None:
        """Go to a frame's time; without one, or if it does not come after the last, to the next by the rate."""
        is_stated = math.isfinite(seconds) and seconds > self.seconds
        self.has_times = self.has_times or is_stated
        self._gap = seconds - self.seconds if is_stated else self._usual_gap
        self.seconds += self._gap

    def _rgb(self, frame: Any) -> Pixels:
        return np.asarray(self._cv2.cvtColor(frame, self._cv2.COLOR_BGR2RGB))

    def close(self) -> None:
        """Close the file."""
        self._capture.release()


def _refuse_other_kinds(path: str) -> None:
    """Raise an OSError that says what a file is, if it is clearly no video."""
    with open(path, "rb") as file:
        head = file.read(64)
    for beginning, kind in _NO_VIDEOS:
        if re.match(beginning, head, re.DOTALL):
            raise OSError(f"not a video but {kind}")
