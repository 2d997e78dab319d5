"""True labels and predicted probabilities: the input of every metric, and their CSV form.

Does not own: metrics (``metrics/``).  Imports neither TensorFlow nor file access.
"""

import csv
import dataclasses
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core import tables
from trainer.core.storage import files

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """Images with their true class and the model's probabilities.

    ``probabilities`` are normalised in float64, so that metrics can be recomputed from
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
    ) -> "Predictions":
        """Build predictions from a model's float32 output ``[N, C]``, N >= 1."""
        raw = np.asarray(probabilities, np.float64)
        if len(class_names) == 2:
            exact = np.empty_like(raw)
            exact[:, positive] = raw[:, positive]
            exact[:, 1 - positive] = 1.0 - raw[:, positive]
        else:
            exact = raw / raw.sum(axis=1, keepdims=True)
        return cls(tuple(class_names), positive, threshold, np.asarray(labels, np.int64), exact)

    def select(self, indices: Ints) -> "Predictions":
        """Return only these images."""
        return dataclasses.replace(self, labels=self.labels[indices], probabilities=self.probabilities[indices])

    @property
    def p_fake(self) -> Floats:
        """Probability of the positive class, ``[N]``."""
        return np.asarray(self.probabilities[:, self.positive], np.float64)

    @property
    def is_positive(self) -> Bools:
        """Whether the true class is the positive one, ``[N]``."""
        return np.asarray(self.labels == self.positive, np.bool_)

    @property
    def predicted(self) -> Ints:
        """The class that the model predicts, ``[N]``; see ``decide``."""
        return decide(self.probabilities, self.positive, self.threshold)


def decide(probabilities: Floats, positive: int, threshold: float) -> Ints:
    """Return predicted classes ``[N]``: of two, the positive one from the threshold up; of more, the likeliest."""
    if probabilities.shape[1] == 2:
        # In float32, as the export compares: a score equal to the threshold must give the same answer.
        called = probabilities[:, positive].astype(np.float32) >= np.float32(threshold)
        return np.where(called, positive, 1 - positive).astype(np.int64)
    return np.asarray(probabilities.argmax(axis=1), np.int64)


def to_csv(predictions: Predictions, names: Sequence[str]) -> str:
    """Return ``path,label,p_fake`` of every image, in order; ``label`` is the true class.

    For more than two classes, ``predicted`` and ``p_<class>`` of each class follow.

    Args:
        predictions: of the images.
        names: ``[N]``, path of each image.
    """
    classes = predictions.class_names
    many = len(classes) > 2
    extra_columns = ["predicted", *(f"p_{name}" for name in classes)] if many else []
    lines = [tables.csv_line(["path", "label", "p_fake", *extra_columns])]
    for name, label, predicted, probabilities in zip(
        names, predictions.labels, predictions.predicted, predictions.probabilities, strict=True
    ):
        numbers = [f"{value:.9g}" for value in probabilities]
        row = [files.printable(name), classes[label], numbers[predictions.positive]]
        lines.append(tables.csv_line([*row, classes[predicted], *numbers] if many else row))
    return "".join(lines)


def from_csv(text: str, class_names: Sequence[str], positive: str, threshold: float) -> tuple[list[str], Predictions]:
    """Return the paths and the predictions that ``to_csv`` wrote.

    Args:
        text: contents of the file.
        class_names: in the order that the predictions are to have.
        positive: class that ``p_fake`` is the probability of.
        threshold: for the predicted classes.

    Raises:
        KeyError, ValueError, TypeError, csv.Error: if the text does not fit these classes.
    """
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    column = list(class_names).index(positive)
    if len(class_names) == 2:
        probabilities = np.empty([len(rows), 2], np.float32)
        probabilities[:, column] = [float(row["p_fake"]) for row in rows]
        probabilities[:, 1 - column] = 1.0 - probabilities[:, column]
    else:
        values = [[float(row[f"p_{name}"]) for name in class_names] for row in rows]
        probabilities = np.array(values, np.float32).reshape(len(rows), len(class_names))
    if not np.isfinite(probabilities).all():
        raise ValueError("a probability is NaN or infinite")
    labels = np.array([list(class_names).index(tables.unguarded(row["label"])) for row in rows], np.int64)
    return [tables.unguarded(row["path"]) for row in rows], Predictions.of(
        labels, probabilities, class_names, column, threshold
    )
