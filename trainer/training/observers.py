"""Observers: what only watches a training job, such as logs, TensorBoard, a progress bar or an experiment tracker.

Owns: the ``Observer`` protocol, the events and their dispatch.  Does not own: decisions.  Early stopping, schedule,
pruning and stopping are not observers: their order matters and their state is part of a checkpoint.
Imports no TensorFlow.
"""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trainer.training.loop import StopReason


@dataclasses.dataclass(frozen=True)
class Start:
    """Training starts, or starts again after a rollback; steps after ``step`` have not been done yet.

    Attributes:
        step: steps done.
        total_steps: steps of the whole job.
        machine: software versions, precision and devices, by the names of the "start" line.
        rollback: whether a divergence led back to this step.
        stopped: whether training has ended already, so that no step follows.
    """

    step: int
    total_steps: int
    machine: Mapping[str, Any]
    rollback: bool = False
    stopped: bool = False


@dataclasses.dataclass(frozen=True)
class Compile:
    """The batch of a step of a new kind is there; the step is traced and compiled before it runs, and nothing moves.

    Attributes:
        step: steps done.
    """

    step: int


@dataclasses.dataclass(frozen=True)
class Step:
    """A step was issued; its numbers may still be on the device.

    Attributes:
        step: steps done with this one.
        learning_rate: of this step.
    """

    step: int
    learning_rate: float


@dataclasses.dataclass(frozen=True)
class TrainLine:
    """Means over ``log_every_steps`` steps, or fewer at the end of an epoch.

    Attributes:
        step: steps done at the end of the line.
        values: by their names in ``metrics.jsonl``.
    """

    step: int
    values: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Window:
    """Means over the steps whose numbers were fetched at once.

    Attributes:
        step: steps done with the last one.
        learning_rate: of the last one.
        loss: mean cross-entropy over the examples of applied steps, nats.
        accuracy: share of examples predicted right.
        examples: real examples.
        seconds: wall time.
        waited: seconds of it spent waiting for data.
        lines: train lines completed by these steps.
        divergence: why training cannot continue from here; empty if it can.
        compiled: whether the first of its steps was compiled in this time, which says nothing of later steps.
        gradient_norm: of the gradient before it is clipped, mean over steps that computed it; None without any.
    """

    step: int
    learning_rate: float
    loss: float
    accuracy: float
    examples: float
    seconds: float
    waited: float
    lines: Sequence[TrainLine] = ()
    divergence: str = ""
    compiled: bool = False
    gradient_norm: float | None = None

    @property
    def images_per_second(self) -> float:
        """Real examples over wall time."""
        return self.examples / self.seconds


@dataclasses.dataclass(frozen=True)
class Validating:
    """A validation begins, or one of its batches was issued.

    Attributes:
        step: steps done.
        images: scored so far.
        total: images to score.
    """

    step: int
    images: int
    total: int


@dataclasses.dataclass(frozen=True, eq=False)
class Validation:
    """An epoch was validated.

    Attributes:
        step: steps done.
        values: by their names in ``metrics.jsonl``.
        images: ``[N]`` positions in the validation split of the images that could be decoded.
        probabilities: ``[N, C]`` predicted for them.
    """

    step: int
    values: Mapping[str, Any]
    images: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float32]


@dataclasses.dataclass(frozen=True)
class SavedCheckpoint:
    """A checkpoint is on the disk.

    Attributes:
        step: steps done when it was taken.
        path: its folder.
        seconds: that writing took.
    """

    step: int
    path: str
    seconds: float


@dataclasses.dataclass(frozen=True)
class End:
    """Training has ended in this start of the job.

    Attributes:
        step: steps done.
        reason: why it stopped; None if an error ended it.
    """

    step: int
    reason: StopReason | None


class Observer(Protocol):
    """Watches one process of a job.  Derive from this class to implement only some of the methods.

    Events are immutable, and nothing that a method returns is used.  Every process of a job has observers; those that
    write files do so for the chief only.  An exception ends the job, so an observer that may fail without harm must
    catch its own errors, as ``TensorBoardReporter`` does.
    """

    # The bodies are not empty, so that mypy does not take the methods for abstract ones.

    def on_start(self, start: Start) -> None:
        """Forget what was seen of the steps after ``start.step``: they will be done again."""
        return

    def on_compile(self, event: Compile) -> None:
        """Handle the wait for a step that is compiled: the first of a start, and the first after frozen epochs."""
        return

    def on_step(self, step: Step) -> None:
        """Handle a step; called after every one, so it must be quick."""
        return

    def on_window(self, window: Window) -> None:
        """Handle the numbers of the steps since the last window, about once a second."""
        return

    def on_validating(self, event: Validating) -> None:
        """Handle the progress of a validation; called after every batch, so it must be quick."""
        return

    def on_validation(self, validation: Validation) -> None:
        """Handle the end of an epoch, before its checkpoint is taken."""
        return

    def on_checkpoint(self, checkpoint: SavedCheckpoint) -> None:
        """Handle a checkpoint that was written completely."""
        return

    def on_end(self, end: End) -> None:
        """Release resources; called once, also after an error, before anything is exported."""
        return


class Observers(Observer):
    """Passes every event to each observer, in order."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        """Bind the observers."""
        self._observers = tuple(observers)

    def on_start(self, start: Start) -> None:
        """See ``Observer``."""
        for observer in self._observers:
            observer.on_start(start)

    def on_compile(self, event: Compile) -> None:
        """See ``Observer``."""
        for observer in self._observers:
            observer.on_compile(event)

    def on_step(self, step: Step) -> None:
        """See ``Observer``."""
        for observer in self._observers:
            observer.on_step(step)

    def on_window(self, window: Window) -> None:
        """See ``Observer``."""
        for observer in self._observers:
            observer.on_window(window)

    def on_validating(self, event: Validating) -> None:
        """See ``Observer``."""
        for observer in self._observers:
            observer.on_validating(event)

    def on_validation(self, validation: Validation) -> None:
        """See ``Observer``."""
        for observer in self._observers:
            observer.on_validation(validation)

    def on_checkpoint(self, checkpoint: SavedCheckpoint) -> None:
        """See ``Observer``."""
        for observer in self._observers:
            observer.on_checkpoint(checkpoint)

    def on_end(self, end: End) -> None:
        """Pass the event to all observers, even if some of them fail, and then re-raise."""
        with contextlib.ExitStack() as stack:
            for observer in reversed(self._observers):
                stack.callback(observer.on_end, end)
