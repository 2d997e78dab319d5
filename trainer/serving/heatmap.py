"""Draw heat maps over their images, readable with or without colour vision.

Owns: the overlay and its file name.  Does not own: the map (``grad_cam.py``).
"""

import hashlib
import io
import re

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainer.data.pixels import Pixels

_LARGEST = 1024  # Pixels of the longer side of a picture.
_OPACITY = 0.65  # Of the colour where the map is 1; the image must stay visible below it.
_CONTOUR = 0.5  # The value of the map along which a line is drawn.
_STEM_LENGTH = 60  # Characters of the image's name in the file name.


def overlay(image: Pixels, heat: npt.NDArray[np.float32]) -> Pixels:
    """Return an image with its heat map drawn over it, ``[h, w, 3]`` uint8.

    The colours are Matplotlib's inferno, which gets lighter from 0 to 1 and so reads the same in grey.  A line
    surrounds the area above half of the map's maximum.

    Args:
        image: ``[H, W, 3]``; shrunk if a side is longer than 1024 pixels.
        heat: ``[h, w]`` in [0, 1] of the whole image (``InputRule.on_image``), stretched to the image's shape.
    """
    picture = Image.fromarray(image)
    picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    values = np.asarray(Image.fromarray(heat.astype(np.float32)).resize(picture.size, Image.Resampling.BILINEAR))
    values = values.clip(0.0, 1.0)
    share = _OPACITY * values[..., np.newaxis]
    mixed = (1.0 - share) * np.asarray(picture, np.float32) + share * _inferno(values)
    mixed[_border(values >= _CONTOUR)] = 255.0
    return (mixed + 0.5).astype(np.uint8)


def _inferno(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    import matplotlib  # Late: the import is slow, and only pictures need it.

    table = matplotlib.colormaps["inferno"](np.arange(256), bytes=True)[:, :3]
    colours: npt.NDArray[np.float32] = table[np.rint(values * 255).astype(int)].astype(np.float32)
    return colours


def _border(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return the pixels inside an area with a neighbour outside it; the image's edge is not a border."""
    padded = np.pad(inside, 1, mode="edge")
    middle = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return inside & ~middle


def to_png(image: Pixels) -> bytes:
    """Return ``[H, W, 3]`` uint8 as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="PNG")
    return buffer.getvalue()


def file_name(path: str) -> str:
    """Return a file name for an image's heat map: its name in portable characters, and a digest of its path."""
    stem = re.sub(r"[^A-Za-z0-9]+", "-", path.rstrip("/").rsplit("/", 1)[-1].rsplit(".", 1)[0]).strip("-")
    digest = hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:12]
    return f"{stem[:_STEM_LENGTH] or 'image'}-{digest}.png"
