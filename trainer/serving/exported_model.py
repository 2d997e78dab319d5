"""Find an export and read its metadata: classes, threshold and how it decides.

Needs nothing of training, because an export is self-contained.  Imports no TensorFlow, so that a wrong ``--model_dir``
is refused at once.
Does not own: loading and running the model (``predictor.py``).
"""

import dataclasses
import json
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core.config import MAX_IMAGE_PIXELS
from trainer.core.errors import RequestError
from trainer.core.job_dir import EXPORT_METADATA, MODEL_FILE
from trainer.core.storage import files

Probabilities = npt.NDArray[np.float32]


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

    def decide(self, probabilities: Probabilities, threshold: float = 0.0) -> str:
        """Return the class for ``probabilities [C]``; ``threshold`` replaces the export's unless it is 0."""
        if len(self.class_names) > 2:
            return self.class_names[int(np.argmax(probabilities))]
        is_positive = probabilities[self.positive] >= np.float32(threshold or self.threshold)
        return self.class_names[self.positive if is_positive else 1 - self.positive]


def find_export(model_dir: str) -> ExportedModel:
    """Return the export in a version folder, or the newest version of a folder such as ``J/export/best``.

    Raises:
        RequestError: if there is none, or its metadata is incomplete.
    """
    if not model_dir:
        raise RequestError("expected --model_dir, received none; give a job's export/best folder")
    if files.exists(files.join(model_dir, MODEL_FILE)):
        return _describe(model_dir)
    versions = [name for name in files.list_names(model_dir) if name.isdecimal()]
    for name in sorted(versions, key=int, reverse=True):
        if files.exists(files.join(model_dir, name, MODEL_FILE)):
            return _describe(files.join(model_dir, name))
    finding = "a folder without either" if files.is_dir(model_dir) else "no such folder"
    raise RequestError(
        f"--model_dir: expected an exported model ({MODEL_FILE}) or a folder of numbered ones, such as "
        f"J/export/best, received {model_dir!r} ({finding}); train first, or check the path"
    )


def _describe(path: str) -> ExportedModel:
    """Read ``deepdetect.json`` of a version folder."""
    file = files.join(path, EXPORT_METADATA)
    problem = ""
    try:
        details = json.loads(files.read_text(file))
        export = ExportedModel(
            path,
            tuple(str(name) for name in details["class_names"]),
            str(details["positive_class"]),
            float(details["threshold"]),
            details,
        )
        if len(export.class_names) < 2 or export.positive_class not in export.class_names:
            problem = f"classes {export.class_names} with the positive class {export.positive_class!r}"
    except KeyError as error:
        problem = f"no {error} in it"
    except (OSError, ValueError, TypeError) as error:
        problem = str(error)
    if problem:
        raise RequestError(
            f"--model_dir: expected {file} to name classes, positive class and threshold, received "
            f"{problem}; export the model again"
        )
    return export
