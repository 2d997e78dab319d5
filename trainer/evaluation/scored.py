"""Images with what they are and what a model says of them: the form in which all figures take them.

Does not own: figures (``metrics.py``).  Knows neither TensorFlow nor files.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, eq=False)
class Scored:
    """Images with their true class and the model's answer.

    ``probabilities`` are normalised in float64, so that figures can be recomputed from
    ``predictions.csv``: for two classes they are p_fake and 1 - p_fake.
    """

    class_names: tuple[str, ...]
    positive: int
    threshold: float
    labels: Ints
    probabilities: Floats

    @classmethod
    def of(
        cls,
        labels: npt.NDArray[np.integer[Any]],
        probabilities: npt.NDArray[np.floating[Any]],
        class_names: Sequence[str],
        positive: int,
        threshold: float,
    ) -> "Scored":
        """Take a model's float32 output ``[N, C]``, N >= 1, and bring it into the form above."""
        raw = np.asarray(probabilities, np.float64)
        if len(class_names) == 2:
            exact = np.empty_like(raw)
            exact[:, positive], exact[:, 1 - positive] = raw[:, positive], 1.0 - raw[:, positive]
        else:
            exact = raw / raw.sum(axis=1, keepdims=True)
        return cls(tuple(class_names), positive, threshold, np.asarray(labels, np.int64), exact)

    def take(self, indices: Ints) -> "Scored":
        """Return only these images."""
        return dataclasses.replace(self, labels=self.labels[indices], probabilities=self.probabilities[indices])

    @property
    def p_fake(self) -> Floats:
        """Probability of the positive class, ``[N]``."""
        return np.asarray(self.probabilities[:, self.positive], np.float64)

    @property
    def is_positive(self) -> Bools:
        """Whether an image truly is of the positive class, ``[N]``."""
        return np.asarray(self.labels == self.positive, np.bool_)

    @property
    def predicted(self) -> Ints:
        """The class that the model answers, ``[N]``; see ``decide``."""
        return decide(self.probabilities, self.positive, self.threshold)


def decide(probabilities: Floats, positive: int, threshold: float) -> Ints:
    """Return predicted classes ``[N]``: of two, the positive from the threshold; of more, the likeliest."""
    if probabilities.shape[1] == 2:
        # In float32, as the export compares: a score on the threshold itself must fall to the same side.
        called = probabilities[:, positive].astype(np.float32) >= np.float32(threshold)
        return np.where(called, positive, 1 - positive).astype(np.int64)
    return np.asarray(probabilities.argmax(axis=1), np.int64)
