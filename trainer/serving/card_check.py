"""Whether images are as a model's card says that it needs them: crops of faces, and not much smaller than its input.

Imports no TensorFlow.
"""

import contextlib
import io
import logging
from collections.abc import Mapping
from typing import Any

from PIL import Image

from trainer.core.storage import files
from trainer.serving.exported_model import ExportedModel

log = logging.getLogger(__name__)

_SMALL = 2  # Times that an image is enlarged at most before its card's results no longer stand for it.


class CardCheck:
    """Counts the images of one prediction that are unlike those of the training; ``warn`` tells of them."""

    def __init__(self, export: ExportedModel, *, whole_images: bool) -> None:
        """Bind the model.

        Args:
            export: whose card counts.
            whole_images: whether whole images are scored; otherwise the faces in them, cut as for the training.
        """
        self._size = int(export.details.get("image_size", 0))
        self._wants_crops = whole_images and bool(export.details.get("faces"))
        self._whole_images = whole_images
        self._small: list[str] = []
        self._uncut: list[str] = []

    def see_file(self, path: str, content: bytes) -> None:
        """Count an encoded image; one that cannot be opened has an error in its row anyway.  Threads may call this."""
        unreadable = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
        with contextlib.suppress(*unreadable), Image.open(io.BytesIO(content)) as image:  # Reads the header alone.
            self._see(path, *image.size)

    def see_face(self, path: str, columns: Mapping[str, Any]) -> None:
        """Count a face by the columns of its row; no face is no finding."""
        if columns["x0"] is not None:
            self._see(path, columns["x1"] - columns["x0"], columns["y1"] - columns["y0"])

    def see_frames(self, path: str) -> None:
        """Count a video, whose whole frames are scored."""
        if self._wants_crops:
            self._uncut.append(path)

    def _see(self, path: str, width: int, height: int) -> None:
        if min(width, height) * _SMALL < self._size:
            self._small.append(path)
        if self._wants_crops and width != height:
            self._uncut.append(path)

    def warn(self) -> None:
        """Say in a line each what the model was not trained for."""
        if self._uncut:
            log.warning(
                "%d files (such as %r) are no square crops, but the model was trained on crops of faces: their scores "
                "mean little; leave out --faces=none", len(self._uncut), files.printable(self._uncut[0]),
            )  # fmt: skip
        if self._small:
            log.warning(
                "%d %s (such as in %r) are less than half as wide or high as the model's input of %d x %d pixels: the "
                "figures of its card may not hold for them", len(self._small),
                "images" if self._whole_images else "faces", files.printable(self._small[0]), self._size, self._size,
            )  # fmt: skip
