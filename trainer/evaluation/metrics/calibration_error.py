"""How far stated confidence is from accuracy: bins of images, and the expected calibration error.

Does not own: a temperature that corrects it (``calibration.py``).  Imports neither TensorFlow nor file access.

Shapes: ``labels [N]`` and ``predicted [N]`` index the classes; ``probabilities [N, C]`` in [0, 1], rows that sum to 1.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from trainer.evaluation.metrics.metric import SHARE, Floats, Metric
from trainer.evaluation.predictions import Predictions

Ints = npt.NDArray[np.int64]

BINS = 15  # Guo et al. 2017, arXiv:1706.04599, section 2.


@dataclasses.dataclass(frozen=True, eq=False)
class Bins:
    """Images by stated confidence: sums over the images of each bin, ``[15]``.

    Attributes:
        counts: number of images.
        confidence: sum of the probabilities of the predicted classes.
        right: number of correct answers.
    """

    counts: Ints
    confidence: Floats
    right: Floats


def bins_of(labels: Ints, predicted: Ints, probabilities: Floats) -> Bins:
    """Sort images into 15 bins of equal width ``((m - 1) / 15, m / 15]`` on the probability of the predicted class."""
    stated, right, number = _stated(labels, predicted, probabilities)
    counts = np.bincount(number, minlength=BINS).astype(np.int64)
    sums = (np.bincount(number, weights=values, minlength=BINS).astype(np.float64) for values in (stated, right))
    return Bins(counts, *sums)


def _stated(labels: Ints, predicted: Ints, probabilities: Floats) -> tuple[Floats, Floats, Ints]:
    """Return the confidence in the answer, 1.0 if it is right (else 0.0), and the bin's number, ``[N]`` each."""
    stated = probabilities[np.arange(len(labels)), predicted]
    number = np.clip(np.ceil(stated * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return stated, (predicted == labels).astype(np.float64), number


def gaps(labels: Ints, predicted: Ints, probabilities: Floats) -> Floats:
    """Return ``[N, 15]``: confidence minus rightness of each image in the column of its bin, 0 in the others."""
    stated, right, number = _stated(labels, predicted, probabilities)
    return np.asarray(np.eye(BINS)[number] * (stated - right)[:, None], np.float64)


def errors(counts: Floats, gap: Floats) -> Floats:
    """Return ``[R]``: the expected calibration error, in [0, 1], of images that count ``counts [R, N]`` times.

    The gap between confidence and accuracy by bin, weighted by images (Guo et al. 2017, arXiv:1706.04599, equation 3).
    Chance only increases a sum of absolute values: with few images it is too large, and larger still for resamples, so
    the lower end of the interval may lie above the value.

    Args:
        counts: how often each image was drawn.
        gap: the result of ``gaps``.
    """
    return np.asarray(np.abs(counts @ gap).sum(axis=1) / counts.sum(axis=1), np.float64)


def error(labels: Ints, predicted: Ints, probabilities: Floats) -> float:
    """Return the expected calibration error of images that count once each; see ``errors``."""
    return float(errors(np.ones([1, len(labels)]), gaps(labels, predicted, probabilities))[0])


def _gaps(predictions: Predictions) -> Floats:
    return gaps(predictions.labels, predictions.predicted, predictions.probabilities)


METRICS = (
    Metric(
        name="ece",
        value=lambda predictions: error(predictions.labels, predictions.predicted, predictions.probabilities),
        resampled=lambda resamples: errors(resamples.counts, resamples.of_images(_gaps)),
        title="Calibration error",
        meaning=(
            "How far stated confidence is from accuracy, on average (15 bins). Chance makes it larger, in few images "
            "and more so in their resamples, so it may lie below its interval."
        ),
        unit=SHARE,
        lower_is_better=True,
    ),
)
