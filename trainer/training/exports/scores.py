"""Validation as exported weights score it, and how many units of their last hidden layer are dead.

Does not own: reading and scoring a split (``evaluator.py``), what the numbers mean (``evaluation/chance.py``).
"""

import dataclasses
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from trainer.core.config import DataConfig
from trainer.data.manifest import Split
from trainer.training import evaluator

_RELATIVE_RANGE = 1e-6  # Of a constant unit, to its own size: batch normalisation rounds a constant.


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """The predictions for a split.

    Attributes:
        positions: ``[N]`` of the images that could be decoded.
        probabilities: ``[N, C] float32``.
        dead: share of units that give the same value for every image; None if it is not known.
    """

    positions: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]
    dead: float | None = None

    @property
    def spread(self) -> float | None:
        """Largest difference of a class's probability between two images; None without two images."""
        return float(np.ptp(self.probabilities, axis=0).max()) if len(self.positions) > 1 else None


def none(classes: int) -> Scores:
    """Return the scores of no image."""
    return Scores(np.zeros(0, np.int64), np.zeros([0, classes], np.float32))


def of_split(model: keras.Model, split: Split, data: DataConfig) -> Scores:
    """Score a split with a model of ``models.registry``; see ``evaluator.score_split``.

    Raises:
        StoppedEarly: if the storage does not answer.
    """
    watched = _Watched(model)
    positions, probabilities = evaluator.score_split(watched, split, data)
    return Scores(positions, probabilities, watched.dead() if len(positions) > 1 else None)


class _Watched:
    """A model that notes the smallest and largest value of each of its features, whatever their number of images.

    The features are what the layer ``logits`` gets.  A ReLU that never fires gives 0 for every image, also after
    dropout, and another constant after batch normalisation.
    """

    def __init__(self, model: keras.Model) -> None:
        features = model.get_layer("logits").input
        self._view = keras.Model(model.input, [features, model.output])
        self._low = tf.Variable(tf.fill([features.shape[-1]], np.float32(np.inf)))
        self._high = tf.Variable(tf.fill([features.shape[-1]], np.float32(-np.inf)))

    def __call__(self, pixels: tf.Tensor, training: bool) -> Any:
        features, probabilities = self._view(pixels, training=training)
        values = tf.cast(features, tf.float32)
        self._low.assign(tf.minimum(self._low, tf.reduce_min(values, axis=0)))
        self._high.assign(tf.maximum(self._high, tf.reduce_max(values, axis=0)))
        return probabilities

    def dead(self) -> float:
        """Return the share of features that have been the same for every image so far."""
        low, high = self._low.numpy(), self._high.numpy()
        return float(np.mean(high - low <= _RELATIVE_RANGE * np.maximum(np.abs(low), np.abs(high))))
