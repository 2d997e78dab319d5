"""How a face becomes an image: one rule for a set of crops, for the models trained on it, and for what they score.

``faces.json`` of a set holds it, and ``deepdetect.json`` of a model trained on that set.
Owns: geometry and encoding of a crop, the rule's file.  Does not own: which faces of a video are cut (``extract.py``).
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.core import checked_json
from trainer.core.checked_json import COUNT, NUMBER, OBJECT, TEXT, TRUTH, optional
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data import tfrecord
from trainer.data.faces import detector, video_file
from trainer.data.faces.detector import Detector, Face
from trainer.data.pixels import Pixels

FILE = "faces.json"
ENDINGS = {"png": ".png", "jpeg": ".jpg"}

_REMEDY = "restore the file, or cut the faces again"


@dataclasses.dataclass(frozen=True)
class CropRule:
    """The rule; two equal ones make equal bytes of equal pixels.

    Attributes:
        detector: name of the one that found the faces.
        detector_version: of the package with its weights.
        margin: share by which the crop is wider than the face's box.
        size: height and width of the crop in pixels; 0: as large as it is.
        align: whether the crop is turned until the eyes are level.
        encode: png or jpeg.
        jpeg_quality: of jpeg.
    """

    detector: str
    detector_version: str
    margin: float
    size: int
    align: bool
    encode: str
    jpeg_quality: int

    def metadata(self) -> dict[str, Any]:
        """Return the entry ``rule`` of ``faces.json``, and ``faces`` of ``deepdetect.json``."""
        return dataclasses.asdict(self)

    @property
    def text(self) -> str:
        """The rule in words, for people."""
        turned = ", eyes level" if self.align else ""
        size = f"{self.size} x {self.size} pixels" if self.size else "size kept"
        kind = f"JPEG of quality {self.jpeg_quality}" if self.encode == "jpeg" else "PNG"
        return f"{self.detector} {self.detector_version}, margin {self.margin:g}, square{turned}, {size}, {kind}"

    def cut(self, rgb: Pixels, face: Face) -> bytes:
        """Return the encoded crop of a face of ``[H, W, 3]`` uint8."""
        cv2 = video_file.opencv()
        left, top, side = square(face.box, self.margin, *rgb.shape[:2])
        crop = rgb[top : top + side, left : left + side]
        if self.align:
            crop = _turned(cv2, rgb, face, left, top, side)
        if self.size and self.size != side:
            way = cv2.INTER_AREA if self.size < side else cv2.INTER_CUBIC
            crop = cv2.resize(crop, (self.size, self.size), interpolation=way)
        settings = [cv2.IMWRITE_JPEG_QUALITY, self.jpeg_quality] if self.encode == "jpeg" else []
        return bytes(cv2.imencode(ENDINGS[self.encode], crop[..., ::-1], settings)[1])


def square(box: Sequence[float], margin: float, height: int, width: int) -> tuple[int, int, int]:
    """Return left, top and side of the crop of a box, in whole pixels.

    It has the box's centre, unless it had to be moved into the image; one larger than the image is made smaller.
    """
    side = min(max(round(max(box[2] - box[0], box[3] - box[1]) * (1 + margin)), 1), height, width)
    left, top = round((box[0] + box[2] - side) / 2), round((box[1] + box[3] - side) / 2)
    return min(max(left, 0), width - side), min(max(top, 0), height - side), side


def _turned(cv2: Any, rgb: Pixels, face: Face, left: int, top: int, side: int) -> Pixels:
    """Return the crop turned around its centre until the eyes are level; pixels beyond the image are mirrored."""
    (x0, y0), (x1, y1) = face.landmarks[:2]
    centre = (left + (side - 1) / 2, top + (side - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, math.degrees(math.atan2(y1 - y0, x1 - x0)), 1.0)
    matrix[:, 2] -= (left, top)
    turned: Pixels = cv2.warpAffine(
        rgb, matrix, (side, side), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    return turned


class Cropper:
    """Finds the faces of images and cuts them by a rule."""

    def __init__(self, rule: CropRule) -> None:
        """Load the detector.

        Raises:
            RequestError: if it is not installed, or the rule names another one.
        """
        if rule.detector != detector.NAME:
            raise RequestError(
                f"faces: expected crops of the detector {detector.NAME}, received {rule.detector}; use the version of "
                "deepdetect that made them, or --faces=none with crops of your own"
            )
        self.rule = rule
        self._detector = Detector()

    def crops(self, rgb: Pixels, *, largest: bool = False) -> list[tuple[Face, bytes]]:
        """Return the faces of ``[H, W, 3]`` uint8 with their crops: all, the best first, or the largest alone."""
        faces = self._detector.detect(rgb)
        if largest and faces:
            faces = [max(faces, key=lambda face: face.area)]
        return [(face, self.rule.cut(rgb, face)) for face in faces]


_FIELDS = {
    "detector": TEXT, "detector_version": TEXT, "margin": NUMBER, "size": COUNT, "align": TRUTH, "encode": TEXT,
    "jpeg_quality": COUNT,
}  # fmt: skip
_FILE_FIELDS = {"rule": OBJECT, "settings": optional(OBJECT)}


def of_metadata(values: Mapping[str, Any] | None, file: str) -> CropRule | None:
    """Return the rule that a file names, or None if it names none.

    Raises:
        RequestError: if it is incomplete.
    """
    if values is None:
        return None
    checked_json.check(values, _FIELDS, name=f"expected {file!r}", remedy=_REMEDY, what="a crop rule")
    return CropRule(**{name: values[name] for name in _FIELDS})


def of_set(data_dir: str) -> CropRule | None:
    """Return the rule of a set of crops, a folder or a list in it; None if it has none.

    Raises:
        RequestError: if ``faces.json`` is damaged.
    """
    # A web server does not tell what is a folder.
    is_folder = files.is_dir(data_dir) or files.exists(files.join(data_dir, tfrecord.MANIFEST))
    path = files.join(data_dir if is_folder else data_dir.rpartition("/")[0] or ".", FILE)
    return of_metadata(read(path)["rule"], path) if files.exists(path) else None


def entry(data_dir: str) -> dict[str, Any]:
    """Return the entry ``faces`` of the ``deepdetect.json`` of a model trained on ``data_dir``; none without a rule."""
    rule = of_set(data_dir)
    return {} if rule is None else {"faces": rule.metadata()}


def copy(data_dir: str, out: str) -> None:
    """Copy the rule of a set to what was made of it, such as a packed set."""
    path = files.join(data_dir, FILE)
    if files.exists(path):
        files.write_bytes(files.join(out, FILE), files.read_bytes(path))


def read(path: str) -> dict[str, Any]:
    """Return the content of a ``faces.json``.

    Raises:
        RequestError: if it is damaged.
    """
    return checked_json.read(path, _FILE_FIELDS, remedy=_REMEDY)


def write(path: str, rule: CropRule, settings: Mapping[str, Any], version: str) -> None:
    """Write ``faces.json``."""
    content = {"format": 1, "rule": rule.metadata(), "settings": dict(settings), "deepdetect": version}
    files.write_text(path, json.dumps(content, indent=1) + "\n")
