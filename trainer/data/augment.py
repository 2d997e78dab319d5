"""Random changes of training images, as functions of (seed, pass, example) alone.

The host draws ``DRAWS`` uniform numbers for each example (``draw``); everything else follows from them.  It does so in
NumPy: TensorFlow's operations, one example at a time, took as long as decoding the image.
Owns: the draws, and where in training each part of an augmentation runs.  Does not own: the augmentations
(``augmentations/``, one module each).
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.core.config import AUGMENTATIONS
from trainer.data.pixels import Floats, Pixels

DRAWS = 8


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What a module of ``augmentations/`` defines; each part may be absent (None).

    Attributes:
        host: (images ``[N, S, S, 3] uint8``, draws ``[N, DRAWS]``) -> images of the same shape and type.  Runs in the
            graph of the input pipeline, on the CPU.
        parameters: (draws, S) -> ``[N, ...] float32``, NumPy on the host.  ``device`` gets them instead of the draws.
        device: (images, parameters or draws) -> ``[N, S, S, 3] float32`` in [0, 255].  Runs in the train step.
    """

    host: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None
    parameters: Callable[[Floats, int], Floats] | None = None
    device: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None

    @property
    def is_random(self) -> bool:
        """Whether it needs draws."""
        return self.host is not None or self.device is not None

    def parameter_shape(self, size: int) -> list[int]:
        """Return the shape of one example's parameters for images of S pixels."""
        assert self.parameters is not None
        return list(self.parameters(np.zeros([1, DRAWS], np.float32), size).shape[1:])


def load(name: str) -> Augmentation:
    """Return an augmentation by its name, a choice of ``--augment``."""
    module = AUGMENTATIONS.load(name)
    return Augmentation(*(getattr(module, part.name, None) for part in dataclasses.fields(Augmentation)))


def draw(seed: int, pass_number: int | npt.NDArray[np.int64], index: npt.NDArray[np.int64]) -> Floats:
    """Draw ``[N, DRAWS]`` uniform in [0, 1) for examples ``index [N]`` of a pass, or each of its own pass.

    One block of Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), whose key is the seed and
    the pass, and whose counter is the example.
    """
    pairs = zip(np.broadcast_to(pass_number, index.shape).tolist(), index.tolist(), strict=True)
    blocks = [
        np.random.Philox(key=[seed, number], counter=[example, 0, 0, 0]).random_raw(DRAWS // 2)
        for number, example in pairs
    ]
    bits = np.array(blocks, np.uint64).reshape(-1, DRAWS // 2).view(np.uint32)
    return (bits >> 8).astype(np.float32) / np.float32(2**24)  # The 24 bits that a float32 holds.


def preview(name: str, images: Pixels, draws: Floats) -> Pixels:
    """Return ``[N, S, S, 3]`` images as training with augmentation ``name`` would see them."""
    augmentation = load(name)
    shown = np.asarray(augmentation.host(tf.constant(images), draws)) if augmentation.host else images
    if augmentation.device is None:
        return shown
    values = augmentation.parameters(draws, images.shape[1]) if augmentation.parameters else draws
    return np.asarray(tf.round(augmentation.device(shown, values))).astype(np.uint8)
