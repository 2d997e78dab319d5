"""The outcome of a finished job: ``result.json``.  Imports no TensorFlow."""

import dataclasses
import json
import logging
from typing import Any

from trainer.core import checked_json
from trainer.core.checked_json import COUNT, NUMBER, OBJECT, TEXT, TRUTH, nullable, optional
from trainer.core.storage import files

log = logging.getLogger(__name__)

_FIELDS = {
    "status": TEXT, "stopped_by": TEXT, "step": COUNT, "epoch": COUNT, "best_step": COUNT, "best_epoch": COUNT,
    "monitor": TEXT, "validation": OBJECT, "last_validation": OBJECT, "images_per_second": NUMBER,
    "weights_sha256": TEXT, "exports": OBJECT, "precision": TEXT, "num_devices": COUNT, "device_kind": TEXT,
    "images": OBJECT, "skipped": OBJECT, "thresholds": optional(OBJECT), "decided_by": optional(nullable(OBJECT)),
    "reason": optional(TEXT), "learned": optional(nullable(TRUTH)), "learned_because": optional(TEXT),
}  # fmt: skip

_REMEDY = "the job's end is made again from its newest checkpoint"


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
        auc_interval: 95% interval of ``validation``'s auc (``evaluation/chance.py``); None where it is undefined.
        learned: whether that auc is above chance and the answers differ; None in results of older versions.
        learned_because: why not; empty if it learned.
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
    auc_interval: list[float] | None = None
    learned: bool | None = None
    learned_because: str = ""

    def shortfall(self, required: float) -> str:
        """Return how the best epoch's auc fails ``--require_auc`` (0: nothing is required); empty if it does not."""
        auc = self.validation.get("auc")
        if not required or (auc is not None and auc >= required):
            return ""
        value = "undefined" if auc is None else f"{auc:.4f}"
        span = " (95% interval {:.4f} to {:.4f})".format(*self.auc_interval) if self.auc_interval else ""
        return f"expected a Validation AUC of at least {required:g} (--require_auc), received {value}{span}"

    def write(self, path: str) -> None:
        """Write the JSON file."""
        files.write_text(path, json.dumps(dataclasses.asdict(self), indent=1) + "\n")


def read(path: str) -> Result | None:
    """Return the result of a finished job, or None; a damaged file counts as none, as the job can write it again."""
    if not files.exists(path):
        return None
    try:
        values = checked_json.read(path, _FIELDS, remedy=_REMEDY, what="a job's result")
    except FileNotFoundError:
        return None
    except checked_json.Malformed as error:
        log.warning("%s", error)
        return None
    names = {field.name for field in dataclasses.fields(Result)}  # A newer version may write further ones.
    return Result(**{name: value for name, value in values.items() if name in names})
