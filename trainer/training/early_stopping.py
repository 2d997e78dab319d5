"""Early stopping and the plateau schedule, as decisions on a series of validation values.

Each decides as its Keras callback does (a test replays series through both), and unlike Keras's it can be saved and
restored.  Besides, the plateau can be told of epochs in which nothing was learned yet.
Owns: the decisions and their state.  Does not own: when values come (``evaluator.py``), the other schedules
(``schedule.py``).  Imports no TensorFlow.
"""

import dataclasses
import math
from typing import Any

import numpy as np

# Keras's ReduceLROnPlateau ignores changes smaller than this; its EarlyStopping ignores none.
PLATEAU_MIN_DELTA = 1e-4


def improves(name: str, value: float, best: float | None, min_delta: float = 0.0) -> bool:
    """Return whether a value beats the best by more than ``min_delta``; losses should fall, everything else rise.

    Compared in float32, as Keras does (``MonitorCallback._is_improvement``): at the edge of ``min_delta`` rounding
    decides.
    """
    if best is None:
        return True
    if name.endswith("loss"):
        return bool(np.float32(value + min_delta) < np.float32(best))
    return bool(np.float32(value - min_delta) > np.float32(best))


@dataclasses.dataclass
class EarlyStopping:
    """The best value so far, and a stop after ``patience`` epochs without a better one.

    Attributes:
        monitor: name of the metric, which determines the direction.
        patience: epochs; 0: never stop.
        best: best value so far.
        best_step: its step.
        wait: epochs since then.
        stopped: whether the series has ended.
    """

    monitor: str
    patience: int
    best: float | None = None
    best_step: int = 0
    wait: int = 0
    stopped: bool = False

    def restart(self) -> None:
        """Count the epochs without improvement from 0; the best value stays."""
        self.wait = 0

    def update(self, step: int, value: float | None, *, may_stop: bool = True) -> bool:
        """Add an epoch's value (None: undefined, counts as no improvement); return whether it is the best so far."""
        value = math.nan if value is None else value
        self.wait += 1
        if improves(self.monitor, value, self.best):
            self.best, self.best_step = value, step
            self.wait = 0
            return True
        self.stopped = may_stop and bool(self.patience) and self.wait >= self.patience
        return False

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {"best": self.best, "best_step": self.best_step, "wait": self.wait, "stopped": self.stopped}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.best, self.best_step = state["best"], state["best_step"]
        self.wait, self.stopped = state["wait"], state["stopped"]


@dataclasses.dataclass
class Plateau:
    """Lower the learning rate after ``patience`` epochs without improvement, as ReduceLROnPlateau does.

    Attributes:
        monitor: name of the metric.
        patience: epochs.
        factor: applied to the rate.
        floor: smallest rate.
        rate: the current rate, rounded to float32 as the optimizer's variable is.
        best: best value so far.
        wait: epochs since then.
    """

    monitor: str
    patience: int
    factor: float
    floor: float
    rate: float
    best: float | None = None
    wait: int = 0

    def __post_init__(self) -> None:
        self.rate = float(np.float32(self.rate))

    def update(self, value: float | None, *, at_chance: bool = False) -> bool:
        """Add the value of an epoch; return whether the rate was lowered.

        Args:
            value: None: undefined, counts as no improvement.
            at_chance: whether the network still guesses: a lower rate would only keep it there, so the epoch does not
                count as one without improvement.
        """
        value = math.nan if value is None else value
        if improves(self.monitor, value, self.best, PLATEAU_MIN_DELTA):
            self.best, self.wait = value, 0
            return False
        if at_chance:
            return False
        self.wait += 1
        if self.wait < self.patience:
            return False
        return self._reduce()

    def _reduce(self) -> bool:
        if self.rate <= float(np.float32(self.floor)):
            return False
        self.rate = float(np.float32(max(self.rate * self.factor, self.floor)))
        self.wait = 0
        return True

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {"rate": self.rate, "best": self.best, "wait": self.wait}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self.rate = state["rate"]
        self.best, self.wait = state["best"], state["wait"]
