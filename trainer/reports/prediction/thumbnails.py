"""Thumbnails of what was scored: images, the faces in them, the first frames of videos.

Does not own: which of them a page shows (``page.py``), decoding and size (``parts/thumbnails.py``).
"""

import contextlib
import dataclasses
import functools
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from trainer.core import progress
from trainer.core.storage import files
from trainer.core.tables import Row
from trainer.data.faces.video_file import Video
from trainer.data.pixels import Pixels
from trainer.reports import html
from trainer.reports.parts import thumbnails

_AT_ONCE = 4  # Images in memory at their own size.
_AROUND = 0.25  # Of a face's box, on each side.


def load(rows: Sequence[Row], *, of_videos: bool, max_pixels: int) -> list[html.Picture | None]:
    """Return a thumbnail of each row; None where the file cannot be read any more, or is a video in a bucket."""
    make = functools.partial(_picture, of_videos=of_videos, max_pixels=max_pixels)
    with progress.phase("reading thumbnails"), ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(make, rows))


def _picture(row: Row, *, of_videos: bool, max_pixels: int) -> html.Picture | None:
    path = files.unprintable(str(row["path"]))
    image = _first_frame(path) if of_videos else thumbnails.read(path, max_pixels)
    if image is None:
        return None
    picture = html.picture(thumbnails.small(_face(image, row)), str(row["path"]), "")
    return dataclasses.replace(picture, heat=_heat(row), heat_says=f"what spoke for {row['label']}")


def _first_frame(path: str) -> Pixels | None:
    if files.is_remote(path):  # For one frame it would be downloaded whole.
        return None
    with contextlib.suppress(*thumbnails.UNREADABLE), contextlib.closing(Video(path, 1, 1)) as video:
        for _, images in video.batches(1):
            return np.asarray(images[0])
    return None  # The scores stand without it.


def _face(image: Pixels, row: Row) -> Pixels:
    """Return the part of an image that holds the scored face, with some of its surroundings; all of it without one."""
    corners = [row.get(name) for name in ("x0", "y0", "x1", "y1")]
    if not all(isinstance(corner, int) for corner in corners):
        return image
    x0, y0, x1, y1 = (int(corner) for corner in corners)  # type: ignore[arg-type]
    dx, dy = round(_AROUND * (x1 - x0)), round(_AROUND * (y1 - y0))
    part = image[max(y0 - dy, 0) : y1 + dy, max(x0 - dx, 0) : x1 + dx]
    return part if part.size else image


def _heat(row: Row) -> str:
    """Return the picture that --explain wrote as a data URI; empty without one."""
    if not row.get("heatmap"):
        return ""
    with Image.open(io.BytesIO(files.read_bytes(files.unprintable(str(row["heatmap"]))))) as picture:
        return html.jpeg_uri(thumbnails.small(picture.convert("RGB")))
