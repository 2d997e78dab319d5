"""Score every image of a split, and record the images that cannot be decoded.

Does not own: the model (``predictor.py``), metrics and report (``reports/evaluation.py``).
"""

import dataclasses
import json
import sys
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainer.core import progress, terminal
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data import readers
from trainer.data.manifest import Split
from trainer.evaluation.request import EvaluateFlags
from trainer.serving import exported_model
from trainer.serving.predictor import Predictor


@dataclasses.dataclass(frozen=True, eq=False)
class SplitPredictions:
    """The model's output on a split.

    Attributes:
        split: the images that could be scored, in the manifest's order.
        probabilities: ``[N, C]`` float32.
        skipped: the others, ready for ``skipped.jsonl``.
        numbers: ``[N]``, position of each scored image in the split as listed.
    """

    split: Split
    probabilities: npt.NDArray[np.float32]
    skipped: list[dict[str, str]]
    numbers: npt.NDArray[np.int64]


def predict_split(export: exported_model.ExportedModel, split: Split, request: EvaluateFlags) -> SplitPredictions:
    """Score every image of a split once, and list those that cannot be decoded.

    Raises:
        RequestError: if too many cannot be decoded, or the model does not load.
    """
    reader = readers.open_reader(split)
    with progress.phase("loading the model"):
        predictor = Predictor(export)
    rows: list[npt.NDArray[np.float32]] = []
    bad: dict[int, str] = {}
    with progress.bar(len(split), "image", f"scoring {split.name}") as bar:
        for answers in predictor.score(len(split), reader.read_one, request.batch_size):
            rows.append(answers.probabilities)
            bad |= {answers.start + position: reason for position, reason in answers.errors.items()}
            bar.update(len(answers.probabilities))
    skipped = [
        {"split": split.name, "path": files.printable(split.names[index]), "reason": reason}
        for index, reason in bad.items()
    ]
    _check_limit(skipped, len(split), request)
    good = [index for index in range(len(split)) if index not in bad]
    return SplitPredictions(
        split.select(good, split.name), np.concatenate(rows)[good], skipped, np.array(good, np.int64)
    )


def _check_limit(skipped: Sequence[dict[str, str]], images: int, request: EvaluateFlags) -> None:
    """Write ``skipped.jsonl`` (replacing that of an earlier run), and raise if too many images are bad."""
    path = files.join(request.out, "skipped.jsonl")
    if skipped or files.exists(path):
        files.write_text(path, "".join(json.dumps(entry) + "\n" for entry in skipped))
    for entry in skipped:
        print(terminal.in_line(f"skipped {entry['path']}: {entry['reason']}"), file=sys.stderr)
    if len(skipped) > request.max_bad_fraction * images or len(skipped) == images:
        raise RequestError(
            f"expected at most {request.max_bad_fraction:.1%} of {images} images of {request.split} to be "
            f"bad, received {len(skipped)}, such as {skipped[0]['path']} ({skipped[0]['reason']}); see "
            f"{path}, repair or remove them, or raise --max_bad_fraction"
        )
