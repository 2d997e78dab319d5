"""Random changes of training images, as functions of (seed, pass, example) alone.

``--augment`` names a sequence of augmentations.  The host draws uniform numbers for each example and augmentation
(``draws.py``); everything else follows from them.  It does so in NumPy: TensorFlow's operations, one example at a time,
took as long as decoding the image.
Owns: the sequence, and where in training each part of an augmentation runs.  Does not own: the augmentations
(``augmentations/``, one module each), who calls their parts on the host (``pipeline.py``).
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.core.config import AUGMENTATIONS, AugmentConfig
from trainer.data.draws import DRAWS, draw
from trainer.data.pixels import Floats, Pixels

__all__ = ["DRAWS", "Augmentation", "Settings", "draw", "load", "on_device", "partners", "preview", "to_pixels"]

_PARTS = ("host", "parameters", "device", "mix", "is_forged", "forge")
_DEFAULTS = AugmentConfig()
_STEPS = 2**24  # Values that a draw can have.


@dataclasses.dataclass(frozen=True)
class Settings:
    """What augmentations follow besides their draws.

    Attributes:
        config: their parameters.
        positive: index of the class of forgeries; -1: not known, then none can be made.
    """

    config: AugmentConfig = _DEFAULTS
    positive: int = -1


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What a module of ``augmentations/`` defines; each part may be absent (None).

    A part that runs on the host may also take ``config``, the AugmentConfig.

    Attributes:
        position: place among those of the sequence that draw; its draws are a stream of their own.
        draws: how many numbers each example has; a module that needs other than 8 says so by ``DRAWS``.
        host: (images ``[N, S, S, 3] uint8``, draws ``[N, DRAWS]``) -> images of the same shape and type.  Runs in the
            graph of the input pipeline, on the CPU.
        parameters: (draws, S) -> ``[N, ...] float32``, NumPy on the host.  ``device`` gets them instead of the draws.
        device: (images ``uint8`` or ``float32``, parameters or draws) -> ``[N, S, S, 3] float32`` in [0, 255].  Runs in
            the train step, after all that runs on the host.
        mix: (images, other images, draws) -> images, and the share ``[N] float32`` of each in its mixture, which its
            label then has.  NumPy on the host; the others are what training has of ``partners``.
        is_forged: draws -> ``[N] bool``: whether an example of the negative class becomes a forgery.
        forge: (one image ``[S, S, 3] uint8``, its draws) -> a forgery of it, NumPy on the host.
    """

    position: int = 0
    draws: int = DRAWS
    host: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None
    parameters: Callable[[Floats, int], Floats] | None = None
    device: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None
    mix: Callable[[Pixels, Pixels, Floats], tuple[Pixels, Floats]] | None = None
    is_forged: Callable[[Floats], npt.NDArray[np.bool_]] | None = None
    forge: Callable[[Pixels, Floats], Pixels] | None = None

    @property
    def is_random(self) -> bool:
        """Whether it needs draws."""
        return any(part is not None for part in (self.host, self.device, self.mix, self.forge))

    @property
    def draws_key(self) -> str:
        """The key of its draws in a batch."""
        return f"draws_{self.position}" if self.position else "draws"

    @property
    def parameters_key(self) -> str:
        """The key of its parameters in a batch."""
        return f"parameters_{self.position}" if self.position else "parameters"

    def parameter_shape(self, size: int) -> list[int]:
        """Return the shape of one example's parameters for images of S pixels."""
        assert self.parameters is not None
        return list(self.parameters(np.zeros([1, self.draws], np.float32), size).shape[1:])


Sequence = tuple[Augmentation, ...]


def load(names: str, config: AugmentConfig = _DEFAULTS) -> Sequence:
    """Return the augmentations of a value of ``--augment`` that change anything, in their order."""
    modules = [AUGMENTATIONS.load(name) for name in names.split(",")]
    random = [module for module in modules if _of_module(module, 0, config).is_random]
    return tuple(_of_module(module, position, config) for position, module in enumerate(random))


def _of_module(module: Any, position: int, config: AugmentConfig) -> Augmentation:
    parts = {name: _bound(getattr(module, name, None), config) for name in _PARTS}
    return Augmentation(position, getattr(module, "DRAWS", DRAWS), **parts)


def _bound(part: Any, config: AugmentConfig) -> Any:
    """Return a part that knows the parameters, if it takes any."""
    if part is None or isinstance(part, tf.types.experimental.PolymorphicFunction):
        return part
    return functools.partial(part, config=config) if "config" in inspect.signature(part).parameters else part


def on_device(sequence: Sequence, batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Return the images ``[b, S, S, 3]`` of a batch in [0, 255] after what runs on the device; float32 if any does."""
    images = batch["image"]
    for each in sequence:
        if each.device is not None:
            images = each.device(images, batch[each.draws_key if each.parameters is None else each.parameters_key])
    return images


def partners(index: npt.NDArray[np.int64], draws: Floats, size: int) -> npt.NDArray[np.int64]:
    """Return for examples ``index [N]`` the other ones that they are mixed with, uniform over a split of ``size``.

    They follow from the last two draws, whose 48 bits tell the examples of any split apart.
    """
    high, low = (draws[:, column].astype(np.float64) for column in (-2, -1))
    distance = 1 + np.floor((high + low / _STEPS) * (size - 1)).astype(np.int64)
    return np.asarray((index + distance) % size, np.int64)


def preview(name: str, images: Pixels, draws: Floats) -> Pixels:
    """Return ``[N, S, S, 3]`` images as training with one augmentation would see them, with its defaults.

    Forgeries are made of all of them, and each is mixed with the next one; ``preview.py`` shows those of a job.
    """
    for each in load(name):
        if each.forge is not None:
            images = np.stack([each.forge(*pair) for pair in zip(images, draws, strict=True)])
        if each.host is not None:
            images = np.asarray(each.host(tf.constant(images), draws))
        if each.mix is not None:
            images, _ = each.mix(images, np.roll(images, -1, axis=0), draws)
        if each.device is not None:
            values = draws if each.parameters is None else each.parameters(draws, images.shape[1])
            images = to_pixels(each.device(images, values))
    return images


def to_pixels(images: tf.Tensor) -> Pixels:
    """Return images in [0, 255] as ``uint8``."""
    values = np.asarray(images)
    return values if values.dtype == np.uint8 else np.rint(values).astype(np.uint8)
