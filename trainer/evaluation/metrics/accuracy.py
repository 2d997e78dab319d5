"""Accuracy, over all images and as the mean over the classes."""

import numpy as np

from trainer.evaluation.metrics import by_class
from trainer.evaluation.metrics.metric import SHARE, Floats, Metric, Resamples, Undefined
from trainer.evaluation.predictions import Predictions


def is_right(predictions: Predictions) -> Floats:
    """Return ``[N]``: 1.0 for each image with the right label, else 0.0."""
    return np.asarray(predictions.predicted == predictions.labels, np.float64)


def _accuracy(predictions: Predictions) -> float:
    return float((predictions.predicted == predictions.labels).mean())


def _balanced(predictions: Predictions) -> float | Undefined:
    recalls = by_class.columns(predictions)["recall"]
    return Undefined(by_class.missing(predictions)) if np.isnan(recalls).any() else float(np.mean(recalls))


def _one_hot(predictions: Predictions) -> Floats:
    return np.eye(len(predictions.class_names))[predictions.labels]


def _resampled_balanced(resamples: Resamples) -> Floats:
    """Return ``[R]``: the mean of the classes' recalls; NaN if a class is missing."""
    of_class, right = resamples.of_images(_one_hot), resamples.of_images(is_right)
    with np.errstate(invalid="ignore", divide="ignore"):
        recalls = (resamples.counts @ (of_class * right[:, None])) / (resamples.counts @ of_class)
    return np.asarray(recalls.mean(axis=1), np.float64)


METRICS = (
    Metric(
        name="accuracy",
        value=_accuracy,
        resampled=lambda resamples: resamples.mean(is_right),
        title="Accuracy",
        meaning="Share of images classified correctly.",
        unit=SHARE,
        tile=True,
        console="accuracy",
    ),
    Metric(
        name="balanced_accuracy",
        value=_balanced,
        resampled=_resampled_balanced,
        title="Balanced accuracy",
        meaning="Mean over the classes of the share classified correctly.",
        unit=SHARE,
    ),
)
