"""Proper scoring rules: how far probabilities are from the truth, image by image.

Owns: log loss and Brier score.  Does not own: calibration alone (``calibration_error.py``).
"""

import numpy as np
import numpy.typing as npt

from trainer.evaluation.metrics.metric import Floats, Metric
from trainer.evaluation.predictions import Predictions

Ints = npt.NDArray[np.int64]

# Keras clips probabilities at its backend epsilon before the logarithm; with the same floor here,
# log_loss of a split and the loss seen in training are the same number.
EPSILON = 1e-7


def cross_entropy(labels: Ints, probabilities: Floats) -> Floats:
    """Return ``[N]`` in nats: minus the logarithm of the true class's probability, clipped as Keras does."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.clip(chosen, EPSILON, 1.0 - EPSILON)), np.float64)


def squared_distance(labels: Ints, probabilities: Floats) -> Floats:
    """Return ``[N]``: squared distance to the one-hot truth, halved for two classes (Brier 1950).

    Halved, it is (p_fake - is_fake)^2, as scikit-learn scales it.
    """
    truth = np.eye(probabilities.shape[1])[labels]
    halves = 2.0 if probabilities.shape[1] == 2 else 1.0
    return np.asarray(((probabilities - truth) ** 2).sum(axis=1) / halves, np.float64)


def _log_losses(predictions: Predictions) -> Floats:
    return cross_entropy(predictions.labels, predictions.probabilities)


def _squared_distances(predictions: Predictions) -> Floats:
    return squared_distance(predictions.labels, predictions.probabilities)


METRICS = (
    Metric(
        name="log_loss",
        value=lambda predictions: float(_log_losses(predictions).mean()),
        resampled=lambda resamples: resamples.mean(_log_losses),
        title="Log loss",
        meaning="Mean cross-entropy in nats, as in training; 0 is perfect, 0.69 a coin.",
        unit="nats",
        lower_is_better=True,
    ),
    Metric(
        name="brier",
        value=lambda predictions: float(_squared_distances(predictions).mean()),
        resampled=lambda resamples: resamples.mean(_squared_distances),
        title="Brier score",
        meaning="Mean squared error of the probabilities; 0 is perfect.",
        lower_is_better=True,
    ),
)
