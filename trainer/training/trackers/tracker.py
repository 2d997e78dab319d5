"""The observer that tells experiment trackers of a job, and how a start of it ended.

Imports no TensorFlow.
"""

import contextlib
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from trainer.core.errors import StoppedEarly
from trainer.core.job_dir import JobPaths
from trainer.core.result import Result
from trainer.core.storage import files
from trainer.training.observers import Observer, Start, Validation, Window
from trainer.training.trackers.backend import FAILED, FINISHED, KILLED, Point
from trainer.training.trackers.delivery import Delivery


class Trackers(Observer):
    """Tells each service of train lines and validations; ``ending`` tells how the start ended."""

    def __init__(self, deliveries: Sequence[Delivery], paths: JobPaths) -> None:
        """Bind the services and the job."""
        self._deliveries = deliveries
        self._paths = paths

    def on_start(self, start: Start) -> None:
        """Begin or continue the runs."""
        machine = {name: str(value) for name, value in start.machine.items()}
        for delivery in self._deliveries:
            delivery.start()
            delivery.tag(machine)

    def on_window(self, window: Window) -> None:
        """Pass on the train lines that are complete, which are the same in every start of a job."""
        points = [_point(line.step, "train/", line.values) for line in window.lines]
        for delivery in self._deliveries if points else ():
            delivery.add("train", points)

    def on_validation(self, validation: Validation) -> None:
        """Pass on the values of a validation."""
        point = _point(validation.step, "validation/", validation.values)
        for delivery in self._deliveries:
            delivery.add("validation", [point])

    @contextlib.contextmanager
    def ending(self) -> Iterator[None]:
        """End the runs as the block ends, unless ``finish`` did; nothing that happens here can fail the job."""
        try:
            yield
        except (StoppedEarly, KeyboardInterrupt):
            self._close(KILLED)
            raise
        except BaseException:
            self._close(FAILED)
            raise
        self._close(FINISHED)

    def tell(self, result: Result) -> None:
        """Pass on where the results of a finished job are."""
        tags = {"report": files.absolute(files.join(self._paths.report, "index.html"))}
        tags |= {f"export.{kind}": files.absolute(path) for kind, path in result.exports.items()}
        tags |= {"stopped_by": result.stopped_by, "best_epoch": str(result.best_epoch), "learned": str(result.learned)}
        for delivery in self._deliveries:
            delivery.tag(tags)

    def _close(self, status: str) -> None:
        for delivery in self._deliveries:
            delivery.close(status)


def _point(step: int, prefix: str, values: Mapping[str, Any]) -> Point:
    numbers = {
        f"{prefix}{name.removeprefix('val_')}": float(value)
        for name, value in values.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }
    return Point(step, numbers, time.time())
