"""Reduce one image file to a small record: header, container, brightness and two fingerprints, never pixels.

Owns: what is measured and which files are bad.  Does not own: reading files (``scan.py``).
"""

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, JpegImagePlugin

from trainer.data.formats import image_format, rescue
from trainer.data.formats.image_format import Unreadable

FINGERPRINT_SIDE = 16
# How an image was read: plainly, in a form that TensorFlow does not read or reads otherwise, or in part.
RESCUES = ("", "by Pillow", "without its damaged metadata")

# One image.  ``ok`` is False for a bad file, whose other fields may be zero.  quality and subsampling are 0 and -1
# where there is none; colours, brightness (mean luminance) and contrast (its deviation) are in grey levels, 0 to 255;
# sharpness is the variance of the Laplacian of the centre, colours their number in a small copy; rescued indexes
# RESCUES.
IMAGE = np.dtype(
    [
        ("split", "u1"),
        ("label", "i4"),
        ("ok", "?"),
        ("bytes", "i8"),
        ("width", "i4"),
        ("height", "i4"),
        ("format", "U9"),
        ("mode", "U8"),
        ("extension", "U8"),
        ("quality", "i2"),
        ("subsampling", "i1"),
        ("progressive", "?"),
        ("exif", "?"),
        ("icc", "?"),
        ("other_metadata", "?"),
        ("orientation", "u1"),
        ("frames", "i4"),
        ("brightness", "f4"),
        ("contrast", "f4"),
        ("red", "f4"),
        ("green", "f4"),
        ("blue", "f4"),
        ("sharpness", "f4"),
        ("colours", "i4"),
        ("sha256", "S32"),
        ("phash", "u8"),
        ("fingerprint", "u1", FINGERPRINT_SIDE**2),
        ("flat", "?"),
        ("rescued", "u1"),
    ]
)

# Luminance table of ITU-T T.81 (JPEG), Annex K.1, row by row.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ]
).ravel()
# How libjpeg (jcparam.c, jpeg_quality_scaling) scales it for each quality from 1 to 100.
_QUALITIES = np.arange(1, 101)
_SCALES = np.where(_QUALITIES < 50, 5000 // _QUALITIES, 200 - 2 * _QUALITIES)
_TABLES = ((_LUMINANCE * _SCALES[:, None] + 50) // 100).clip(1, 255)

_LOW = 8
_DCT_SIDE = 32
_HASH_BITS = 64
_ANGLES = np.pi * (2 * np.arange(_DCT_SIDE) + 1) * np.arange(_LOW)[:, None] / (2 * _DCT_SIDE)
_DCT = np.cos(_ANGLES)  # The 8 lowest rows of the DCT-II of 32 samples, not normalised.
# Amplitudes of natural images fall as 1 / frequency (Field 1987).  Weighted by the frequency, all count alike and the
# mean does not count.
_FREQUENCY = np.hypot(*np.mgrid[:_LOW, :_LOW]).ravel()
_PROJECTIONS = np.random.default_rng(0).standard_normal((_HASH_BITS, _LOW * _LOW)) * _FREQUENCY
_CENTRE, _FEW = 256, 64  # Pixels.
_FLAT = 4.0  # Grey levels; below this deviation the hash of a picture is noise.

_ORIENTATION = 0x0112  # EXIF tag.


class BadImage(Exception):
    """A file cannot be used; the message says why in one line."""


def measure(row: Any, data: bytes, max_image_pixels: int) -> None:
    """Fill an ``IMAGE`` record (except split, label and extension) from a file's content.

    Raises:
        BadImage: if the content is not an image, is too large, or cannot be decoded to its end.
    """
    row["bytes"] = len(data)
    row["sha256"] = hashlib.sha256(data).digest()
    try:
        with rescue.opened(data, max_image_pixels) as (image, is_bare):
            _measure_header(row, image)
            _measure_container(row, image)
            upright = rescue.upright(image, data)
            _measure_pixels(row, rescue.rgb(upright))
    except Unreadable as error:
        raise BadImage(str(error)) from error
    row["rescued"] = 2 if is_bare else not image_format.is_for_graph(data)
    row["ok"] = True


def _measure_header(row: Any, image: Image.Image) -> None:
    row["width"], row["height"] = image.size
    row["format"] = "JPEG" if image.format == "MPO" else image.format  # MPO: a JPEG followed by further JPEGs.
    row["mode"] = image.mode


def _measure_container(row: Any, image: Image.Image) -> None:
    """Read the metadata; PNG may store it after the pixels, so the image must be loaded before."""
    info = image.info
    row["exif"] = "exif" in info
    row["icc"] = bool(info.get("icc_profile"))
    row["other_metadata"] = bool({"xmp", "XML:com.adobe.xmp", "comment"} & set(info) or getattr(image, "text", None))
    row["progressive"] = bool(info.get("progressive"))
    row["frames"] = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    row["subsampling"] = -1
    row["orientation"] = _orientation(image)
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        row["subsampling"] = JpegImagePlugin.get_sampling(image)
        row["quality"] = jpeg_quality(np.asarray(next(iter(image.quantization.values()))))


def _orientation(image: Image.Image) -> int:
    try:
        value = int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # A damaged EXIF block does not make the picture bad.
        return 1
    return value if 1 <= value <= 8 else 1


def jpeg_quality(table: npt.NDArray[Any]) -> int:
    """Return the libjpeg quality (1 to 100) whose luminance table has the least mean distance to this ``[64]`` one.

    Exact for files that libjpeg wrote; an estimate for encoders with tables of their own.
    """
    return int(_QUALITIES[np.abs(_TABLES - table).sum(axis=1).argmin()])


def _measure_pixels(row: Any, image: Image.Image) -> None:
    gray = image.convert("L")
    row["brightness"], row["contrast"] = _moments(gray.histogram())
    counts = np.asarray(image.histogram()).reshape(3, 256)
    row["red"], row["green"], row["blue"] = (_moments(channel)[0] for channel in counts)
    row["sharpness"], row["colours"] = sharpness(gray), _colours(image)
    small = np.asarray(gray.resize((_DCT_SIDE, _DCT_SIDE), Image.Resampling.LANCZOS), np.float64)
    row["phash"] = perceptual_hash(small)
    step = _DCT_SIDE // FINGERPRINT_SIDE
    tiny = small.reshape(FINGERPRINT_SIDE, step, FINGERPRINT_SIDE, step).mean(axis=(1, 3))
    row["fingerprint"] = tiny.round().ravel()
    row["flat"] = tiny.std() < _FLAT


def sharpness(gray: Image.Image) -> float:
    """Return the variance of the Laplacian of the middle 256 x 256 pixels: small if blurred, 0 if there are too few."""
    left, top = (max(side - _CENTRE, 0) // 2 for side in gray.size)
    box = (left, top, min(left + _CENTRE, gray.width), min(top + _CENTRE, gray.height))
    centre = np.asarray(gray.crop(box), np.int16)
    if min(centre.shape) < 3:
        return 0.0
    around = centre[:-2, 1:-1] + centre[2:, 1:-1] + centre[1:-1, :-2] + centre[1:-1, 2:]
    return float((around - 4 * centre[1:-1, 1:-1]).var())


def _colours(image: Image.Image) -> int:
    """Return the number of colours in 64 x 64 pixels of an image, with 5 bits a channel."""
    few = np.asarray(image.resize((_FEW, _FEW), Image.Resampling.NEAREST), np.uint16) >> 3
    return len(np.unique(few[..., 0] << 10 | few[..., 1] << 5 | few[..., 2]))


def _moments(histogram: Any) -> tuple[float, float]:
    """Return mean and standard deviation of the values behind a histogram of 256 bins."""
    counts, values = np.asarray(histogram, np.float64), np.arange(256.0)
    mean = counts @ values / counts.sum()
    return float(mean), float(np.sqrt(counts @ (values - mean) ** 2 / counts.sum()))


def perceptual_hash(gray: npt.NDArray[np.float64]) -> np.uint64:
    """Return a 64-bit hash of grey levels ``[32, 32]``: on which side of 64 fixed planes the low frequencies lie.

    The share of bits in which two hashes differ estimates the angle between the two spectra (Charikar 2002,
    "Similarity estimation techniques from rounding algorithms"), and so their correlation.  The usual pHash
    (frequencies above their median) encodes noise where a smooth picture has no detail: JPEG quality 40 flipped up to
    18 of its bits, but at most 5 of this hash.
    """
    low = (_DCT @ gray @ _DCT.T).ravel()
    return np.uint64(np.packbits(_PROJECTIONS @ low > 0).view(np.uint64)[0])
