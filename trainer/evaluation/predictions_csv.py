"""``predictions.csv``: the answers of an evaluation, one image a row; nine digits give a float32 back exactly.

Owns: the format, both ways.  Imports no TensorFlow.
"""

import csv
import io
from collections.abc import Sequence

import numpy as np

from trainer import files
from trainer.evaluation.scored import Scored


def to_csv(scored: Scored, names: Sequence[str]) -> str:
    """Return ``path,label,p_fake`` of every image, in order; ``label`` is the true class.

    For more than two classes ``predicted`` and a ``p_<class>`` of each follow.

    Args:
        scored: the answers.
        names: ``[N]``, path of each image.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    classes = scored.class_names
    many = len(classes) > 2
    more = ["predicted", *(f"p_{name}" for name in classes)] if many else []
    writer.writerow(["path", "label", "p_fake", *more])
    for name, label, predicted, probabilities in zip(
        names, scored.labels, scored.predicted, scored.probabilities, strict=True
    ):
        numbers = [f"{value:.9g}" for value in probabilities]
        row = [files.printable(name), classes[label], numbers[scored.positive]]
        writer.writerow([*row, classes[predicted], *numbers] if many else row)
    return text.getvalue()


def from_csv(text: str, class_names: Sequence[str], positive: str, threshold: float) -> tuple[list[str], Scored]:
    """Return the paths and the answers that ``to_csv`` wrote.

    Args:
        text: of the file.
        class_names: in the order that the answers shall have.
        positive: class that ``p_fake`` is the probability of.
        threshold: of the answers.

    Raises:
        KeyError, ValueError, TypeError, csv.Error: if the text is not of these classes.
    """
    rows = list(csv.DictReader(io.StringIO(text)))
    column = list(class_names).index(positive)
    if len(class_names) == 2:
        probabilities = np.empty([len(rows), 2], np.float32)
        probabilities[:, column] = [float(row["p_fake"]) for row in rows]
        probabilities[:, 1 - column] = 1.0 - probabilities[:, column]
    else:
        values = [[float(row[f"p_{name}"]) for name in class_names] for row in rows]
        probabilities = np.array(values, np.float32).reshape(len(rows), len(class_names))
    if not np.isfinite(probabilities).all():
        raise ValueError("a probability is not a number")
    labels = np.array([list(class_names).index(row["label"]) for row in rows], np.int64)
    return [row["path"] for row in rows], Scored.of(labels, probabilities, class_names, column, threshold)
