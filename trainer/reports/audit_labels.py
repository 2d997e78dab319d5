"""Likely wrong labels: images that a finished evaluation answers confidently and against their label.

Owns: reading the evaluation, the order of doubts.  Does not own: predictions (``evaluation/``), pictures.
"""

import csv
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from trainer.core import checked_json
from trainer.core.checked_json import CLASSES, PROBABILITY, TEXT
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data.layouts.split import Split
from trainer.evaluation import predictions as predictions_lib

CONFIDENT = 0.95
_FIELDS = {"class_names": CLASSES, "positive_class": TEXT, "threshold": PROBABILITY}  # Of metrics.json.


@dataclasses.dataclass(frozen=True)
class Doubt:
    """An image that a model calls something else than its label.

    Attributes:
        path: as in ``predictions.csv``.
        label: its class in the data.
        called: the class that the model gives it.
        probability: that the model gives this class.
    """

    path: str
    label: str
    called: str
    probability: float


def read(folder: str, splits: Sequence[Split]) -> list[Doubt]:
    """Return what an evaluation answers with a probability of 0.95 or more and against the label, the surest first.

    Images that the splits lack, such as those of ``--drop``, are left out.

    Raises:
        RequestError: if the folder holds no evaluation, or one of other images.
    """
    texts = [_text(folder, file) for file in ("metrics.json", "predictions.csv")]
    name = f"--evaluation: expected {files.join(folder, 'metrics.json')!r}"
    details: dict[str, Any] = checked_json.parse(texts[0], _FIELDS, name=name, remedy="evaluate again")
    try:
        paths, answers = predictions_lib.from_csv(
            texts[1], details["class_names"], details["positive_class"], float(details["threshold"])
        )
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise RequestError(
            f"--evaluation: expected metrics.json and predictions.csv of one evaluation in {folder!r}, received files "
            f"that do not fit ({type(error).__name__}: {error}); evaluate again"
        ) from error
    known = {files.printable(name) for split in splits for name in split.names}
    if paths and known.isdisjoint(paths):
        raise RequestError(
            f"--evaluation: expected an evaluation of images in data_dir, received {folder!r} with {paths[0]!r}, which "
            "data_dir lacks; evaluate on this data_dir"
        )
    called = answers.probabilities.argmax(axis=1)
    sure = answers.probabilities.max(axis=1)
    against = np.flatnonzero((called != answers.labels) & (sure >= CONFIDENT))
    names = answers.class_names
    return [
        Doubt(paths[index], names[answers.labels[index]], names[called[index]], float(sure[index]))
        for index in against[np.argsort(-sure[against], kind="stable")].tolist()
        if paths[index] in known
    ]


def _text(folder: str, file: str) -> str:
    try:
        return files.read_text(files.join(folder, file))
    except (FileNotFoundError, NotADirectoryError, PermissionError, UnicodeDecodeError) as error:
        raise RequestError(
            f"--evaluation: expected {file} in {folder!r}, as trainer.evaluate writes it, received {error}"
        ) from error


def as_json(doubts: list[Doubt], folder: str) -> dict[str, Any] | None:
    """Return the part of ``audit.json``; None without an evaluation."""
    if not folder:
        return None
    listed = [{**dataclasses.asdict(doubt), "probability": round(doubt.probability, 6)} for doubt in doubts]
    return {"evaluation": files.printable(folder), "probability_from": CONFIDENT, "listed": listed}
