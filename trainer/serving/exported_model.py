"""Find an export and read its metadata: classes, threshold and how it decides.

Needs nothing of training, because an export is self-contained.  Imports no TensorFlow, so that a wrong ``--model_dir``
is refused at once.
Does not own: loading and running the model (``predictor.py``).
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core import checked_json
from trainer.core.checked_json import CLASSES, COUNT, OBJECT, POSITIVE, PROBABILITY, TEXT, nullable, optional
from trainer.core.config import MAX_IMAGE_PIXELS
from trainer.core.errors import RequestError
from trainer.core.job_dir import EXPORT_METADATA, MODEL_FILE, JobPaths
from trainer.core.storage import files
from trainer.data import input_rule
from trainer.data.input_rule import InputRule

Probabilities = npt.NDArray[np.float32]

# What readers rely on; versions add fields, so only the first three are always there.
_FIELDS = {
    "class_names": CLASSES, "positive_class": TEXT, "threshold": PROBABILITY, "temperature": optional(POSITIVE),
    "image_size": optional(COUNT), "input": optional(OBJECT), "step": optional(COUNT), "config": optional(OBJECT),
    "versions": optional(OBJECT),
    "listings": optional(nullable(OBJECT)), "validation": optional(OBJECT), "explain": optional(nullable(OBJECT)),
    "calibration": optional(nullable(OBJECT)), "threshold_choice": optional(nullable(OBJECT)),
    "faces": optional(nullable(OBJECT)),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ExportedModel:
    """The metadata of an export.

    Attributes:
        path: the version folder.
        class_names: in the order of the columns of the probabilities.
        positive_class: the class whose probability is p_fake.
        threshold: with two classes, p_fake from which on the answer is the positive class.
        details: the whole ``deepdetect.json``.
    """

    path: str
    class_names: tuple[str, ...]
    positive_class: str
    threshold: float
    details: dict[str, Any]

    @property
    def positive(self) -> int:
        """The positive class's column."""
        return self.class_names.index(self.positive_class)

    @property
    def max_image_pixels(self) -> int:
        """The largest number of pixels that the export decodes; older ones do not name it."""
        return int(self.details.get("max_image_pixels", MAX_IMAGE_PIXELS))

    @property
    def input_rule(self) -> InputRule:
        """How an image becomes the model's input; older exports resize."""
        return input_rule.of_export(self.details)

    def decide(self, probabilities: Probabilities, threshold: float | None = None) -> str:
        """Return the class for ``probabilities [C]``; ``threshold`` replaces the export's unless it is None."""
        if len(self.class_names) > 2:
            return self.class_names[int(np.argmax(probabilities))]
        is_positive = probabilities[self.positive] >= np.float32(self.threshold if threshold is None else threshold)
        return self.class_names[self.positive if is_positive else 1 - self.positive]


def find_export(model_dir: str) -> ExportedModel:
    """Return the export in a version folder, or the newest version of a folder such as ``J/export/best``.

    Raises:
        RequestError: if there is none, or its metadata is incomplete.
    """
    if not model_dir:
        raise RequestError("expected --model_dir, received none; give a job's export/best folder")
    if folder := _newest_version(model_dir):
        return _describe(folder)
    best = JobPaths(model_dir).exports("best")
    if _newest_version(best):
        raise RequestError(f"--model_dir: expected an exported model, received a job; did you mean {best!r}?")
    finding = "a folder without either" if files.is_dir(model_dir) else "no such folder"
    raise RequestError(
        f"--model_dir: expected an exported model ({MODEL_FILE}) or a folder of numbered ones, such as "
        f"J/export/best, received {model_dir!r} ({finding}); train first, or check the path"
    )


def _newest_version(model_dir: str) -> str:
    """Return the folder itself if it is an export, or its newest version; empty if it is neither."""
    if files.exists(files.join(model_dir, MODEL_FILE)):
        return model_dir
    versions = sorted((name for name in files.list_names(model_dir) if name.isdecimal()), key=int, reverse=True)
    folders = (files.join(model_dir, name) for name in versions)
    return next((folder for folder in folders if files.exists(files.join(folder, MODEL_FILE))), "")


def require_loadable(folder: str, flag: str) -> None:
    """Check before hours of training that an export below a folder can be loaded where it will lie.

    TensorFlow searches a SavedModel's files by pattern, so what is special in a pattern cannot be part of the path.

    Raises:
        RequestError: naming the flag.
    """
    if not files.is_literal(files.absolute(folder)):
        raise RequestError(
            f"--{flag}: expected a path without *, ?, [, \\ and bytes that are not UTF-8, as TensorFlow cannot load a "
            f"model from below it, received {files.absolute(folder)!r}; rename the folder or use another one"
        )


def _describe(path: str) -> ExportedModel:
    """Read ``deepdetect.json`` of a version folder."""
    file = files.join(path, EXPORT_METADATA)
    remedy = "restore the file, or export the model again"
    try:
        details = checked_json.read(file, _FIELDS, remedy=remedy, flag="model_dir")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RequestError(
            f"--model_dir: expected {file!r} to name classes, positive class and threshold, received no such file; "
            f"{remedy}"
        ) from error
    names, positive = tuple(details["class_names"]), details["positive_class"]
    if positive not in names:
        raise RequestError(
            f"--model_dir: expected {file!r} to name one of its classes {', '.join(names)} as 'positive_class', "
            f"received {positive!r}; {remedy}"
        )
    try:
        input_rule.of_export(details)
    except ValueError as error:
        raise RequestError(
            f"--model_dir: expected {file!r} to name as 'input' {error}, received {details['input']}; {remedy}"
        ) from error
    return ExportedModel(path, names, positive, float(details["threshold"]), details)
