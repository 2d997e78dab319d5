"""The outcome of a finished job: ``result.json``.  Imports no TensorFlow."""

import dataclasses
import json
from typing import Any

from trainer.core.storage import files


@dataclasses.dataclass(frozen=True)
class Result:
    """The outcome of a job; written last, so its presence means that the job is done.

    Attributes:
        status: always ``done``; an unfinished job has no result.
        stopped_by: ``epochs``, ``early_stopping``, or ``pruned`` (by the pruner passed to ``training.run``).
        step: number of completed steps.
        epoch: number of completed epochs.
        best_step: step of the best validation.
        best_epoch: its epoch.
        monitor: the value that determines the best step.
        validation: loss (nats), accuracy and auc at the best step.
        last_validation: the same at the last step.
        images_per_second: training images over training time, of this start of the job.
        weights_sha256: of all model variables after the last step, in the model's order.
        exports: folder of each exported SavedModel, by kind.
        precision: of the job; the choice behind ``auto``.
        num_devices: replicas.
        device_kind: GPU or CPU.
        images: used images of each split and class.
        skipped: undecodable images of each split.
        thresholds: of each export, by kind.
        decided_by: the settings behind the thresholds; None in results of older versions.
        reason: of the pruner; empty unless pruned.
        unmade: parts that failed although training did not, such as the report; the next start tries again.
    """

    status: str
    stopped_by: str
    step: int
    epoch: int
    best_step: int
    best_epoch: int
    monitor: str
    validation: dict[str, float | None]
    last_validation: dict[str, float | None]
    images_per_second: float
    weights_sha256: str
    exports: dict[str, str]
    precision: str
    num_devices: int
    device_kind: str
    images: dict[str, dict[str, int]]
    skipped: dict[str, int]
    thresholds: dict[str, float] = dataclasses.field(default_factory=dict)
    decided_by: dict[str, Any] | None = None
    reason: str = ""
    unmade: list[str] = dataclasses.field(default_factory=list)

    def write(self, path: str) -> None:
        """Write the JSON file."""
        files.write_text(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def read(path: str) -> Result | None:
    """Return the result of a finished job, or None."""
    if not files.exists(path):
        return None
    values: dict[str, Any] = json.loads(files.read_text(path))
    names = {field.name for field in dataclasses.fields(Result)}  # A newer version may write further ones.
    return Result(**{name: value for name, value in values.items() if name in names})
