"""How an image of any size becomes what a model sees: resized, cropped at its own resolution, or padded.

The arithmetic below takes whole numbers, NumPy arrays and tensors alike, so the host and the graph of an export
(``decode.to_input``) share one definition.
Owns: the rule, the places of the windows, the random ones of training.  Does not own: decoding, resizing
(``decode.py``).  Imports no TensorFlow.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core.config import DataConfig
from trainer.core.config.registries import BILINEAR, CROP, INPUTS, INTERPOLATIONS, PAD, RESIZE, TEST_VIEWS
from trainer.data import draws as draws_lib
from trainer.data.pixels import Floats, Image

Draws = npt.NDArray[np.uint64]

# Places of the views in rows and columns: 0 is the first possible one, 1 the middle, 2 the last.  The centre stands
# first, where heat maps find it.
_PLACES = ((1, 1), (0, 0), (0, 2), (2, 0), (2, 2))

_STREAM = 0x63726F70  # "crop", in the last word of the counter, where the augmentations' draws have 0.
_BITS = 32  # Of a draw.


@dataclasses.dataclass(frozen=True)
class InputRule:
    """How an image becomes model input.

    Attributes:
        size: S, pixels per side.
        mode: ``resize``: the image is squeezed or stretched to S x S.  ``crop``: windows of S x S of its own pixels.
            ``pad``: the whole image, shrunk only if its longer side exceeds S.  What is smaller than S stands in the
            middle, and reflections of the image fill the rest.
        views: windows of ``crop`` whose probabilities are averaged: the centre; with 5, the four corners too; with 10,
            all of these mirrored too.
        interpolation: of ``resize`` and ``pad``: ``nearest`` or ``bilinear`` (``decode.resize``).
    """

    size: int
    mode: str = RESIZE
    views: int = 1
    interpolation: str = BILINEAR

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one image's input: ``[S, S, 3]``, or ``[V, S, S, 3]`` with several views."""
        one = (self.size, self.size, 3)
        return one if self.views == 1 else (self.views, *one)

    @property
    def places(self) -> list[tuple[int, int, bool]]:
        """Place in rows and columns of each view, and whether it is mirrored."""
        plain = [(*place, False) for place in _PLACES[: 1 if self.views == 1 else len(_PLACES)]]
        return plain if self.views < 2 * len(_PLACES) else [*plain, *((*place, True) for place in _PLACES)]

    @property
    def text(self) -> str:
        """Words for a person, such as "128 px crops at native resolution, 5 views"."""
        if self.mode == CROP:
            return f"{self.size} px crops at native resolution, {self.views} view{'s' if self.views > 1 else ''}"
        squeezed = f"resized to {self.size} x {self.size} pixels inside the model"
        padded = f"shrunk to {self.size} pixels if larger, with its proportions, and padded by reflection"
        return f"{squeezed if self.mode == RESIZE else padded} ({self.interpolation} interpolation)"

    @property
    def one_view(self) -> "InputRule":
        """The same with the centre alone."""
        return dataclasses.replace(self, views=1)

    def metadata(self) -> dict[str, Any]:
        """Return the entry ``input`` of ``deepdetect.json``."""
        return {"mode": self.mode, "views": self.views, "interpolation": self.interpolation}

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Return the height and width that an image gets before windows are cut out of it."""
        if self.mode == RESIZE:
            return self.size, self.size
        return fitted(height, width, self.size) if self.mode == PAD else (height, width)

    def views_of(self, image: Image) -> Image:
        """Return the views of a decoded image ``[H, W, 3]`` without resizing it, in the shape ``shape``."""
        views = [
            self._window(image, start(image.shape[0], self.size, row), start(image.shape[1], self.size, column))
            for row, column, _ in self.places
        ]
        mirrored = [view[:, ::-1] if turn else view for view, (_, _, turn) in zip(views, self.places, strict=True)]
        return mirrored[0] if self.views == 1 else np.stack(mirrored)

    def random_view(self, image: Image, draws: Draws) -> Image:
        """Return a window ``[S, S, 3]`` of an image at a place that two draws decide, each place equally likely."""
        top, left = (
            start(length, self.size, 0) + (int(value) * (spare(length, self.size) + 1) >> _BITS)
            for length, value in zip(image.shape[:2], draws, strict=True)
        )
        return self._window(image, top, left)

    def _window(self, image: Image, top: int, left: int) -> Image:
        height, width = image.shape[:2]
        if 0 <= top <= height - self.size and 0 <= left <= width - self.size:  # The usual case needs no index.
            return image[top : top + self.size, left : left + self.size]
        rows = reflected(np.arange(top, top + self.size), height)
        columns = reflected(np.arange(left, left + self.size), width)
        return np.asarray(image[rows[:, np.newaxis], columns])

    def on_image(self, heat: Floats, height: int, width: int) -> Floats:
        """Return a map ``[S, S]`` of the centre's view as a map of the whole image; 0 where the view does not reach.

        Its shape is that of the image, or in proportion to it.
        """
        if self.mode == RESIZE:
            return heat
        if self.mode == PAD:
            height, width = fitted(height, width, self.size)
        top, left = start(height, self.size, 1), start(width, self.size, 1)
        whole = np.zeros([height, width], np.float32)
        inside = heat[max(-top, 0) : max(-top, 0) + height, max(-left, 0) : max(-left, 0) + width]
        whole[max(top, 0) : max(top, 0) + self.size, max(left, 0) : max(left, 0) + self.size] = inside
        return whole


def of_config(data: DataConfig, *, training: bool = False) -> InputRule:
    """Return the rule of a job, for Validation or for training, which sees one view of an image at a time."""
    return InputRule(data.image_size, data.input, 1 if training else data.test_views, data.interpolation)


def of_export(details: Mapping[str, Any]) -> InputRule:
    """Return the rule of an export from its ``deepdetect.json``; older ones, which do not name it, resize bilinearly.

    Very old ones do not name S either, which is 0 then.

    Raises:
        ValueError: if it names no rule of this version.
    """
    named = details.get("input") or {}
    mode, views, interpolation = (
        named.get(name, default) for name, default in (("mode", RESIZE), ("views", 1), ("interpolation", BILINEAR))
    )
    if mode not in INPUTS or views not in TEST_VIEWS or interpolation not in INTERPOLATIONS:
        raise ValueError(
            f"a mode of {', '.join(INPUTS)}, views of {', '.join(map(str, TEST_VIEWS))} and an interpolation of "
            f"{', '.join(INTERPOLATIONS)}"
        )
    return InputRule(int(details.get("image_size") or 0), mode, views, interpolation)


def draw(seed: int, passes: npt.NDArray[np.int64], index: npt.NDArray[np.int64]) -> Draws:
    """Draw ``[N, 2]`` uniform numbers of 32 bits for the windows of examples ``index [N]`` in passes ``[N]``.

    A Philox block of its own for each, so that the augmentations' draws do not depend on it (``augment.draw``).
    """
    return draws_lib.raw(seed, passes, index, [[0, 0, _STREAM]], 2) >> np.uint64(_BITS)


def spare(length: Any, size: int) -> Any:
    """Return by how many pixels a window can move along a side; 0 along a shorter one."""
    room = length - size
    return (room + abs(room)) // 2


def start(length: Any, size: int, place: int) -> Any:
    """Return where a window begins along a side: place 0, 1 or 2; negative if the side is shorter than the window."""
    return (length - size) // 2 - spare(length, size) // 2 + spare(length, size) * place // 2


def reflected(position: Any, length: Any) -> Any:
    """Return the pixel at a position along a side that its own mirror images continue without end.

    The outermost pixels are not repeated: ... 2 1 0 1 2 1 0 ... of three pixels, and 0 0 0 of one.
    """
    last = length - 1
    period = 2 * last + 1 // length  # 1, not 0, for a single pixel.
    return last - abs(position % period - last)


def nearest(position: Any, length: Any, size: Any) -> Any:
    """Return the pixel of a side that lies under the middle of pixel ``position`` when it is resized to ``size``."""
    return (2 * position + 1) * length // (2 * size)


def fitted(height: Any, width: Any, size: int) -> tuple[Any, Any]:
    """Return height and width of an image that is shrunk to ``size`` along its longer side; others keep theirs."""
    longer = (height + width + abs(height - width)) // 2
    target = longer - spare(longer, size)

    def scaled(length: Any) -> Any:
        rounded = (2 * length * target + longer) // (2 * longer)
        return rounded + 1 // (rounded + 1)  # At least one pixel.

    return scaled(height), scaled(width)
