"""OptimConfig -> Keras optimizer and learning-rate schedule."""

import math
from collections.abc import Callable
from typing import Any

import keras

from trainer.core.config import OptimConfig
from trainer.training.early_stopping import Plateau

# Named, because Keras numbers the unnamed ones of a process, and a checkpoint finds its variables by name.
_OPTIMIZERS: dict[str, Callable[[float], keras.optimizers.Optimizer]] = {
    "adam": lambda rate: keras.optimizers.Adam(rate, name="adam"),
    "adamw": lambda rate: keras.optimizers.AdamW(rate, name="adamw"),
    "sgd": lambda rate: keras.optimizers.SGD(rate, momentum=0.9, name="sgd"),
    "rmsprop": lambda rate: keras.optimizers.RMSprop(rate, name="rmsprop"),
}


def make_optimizer(config: OptimConfig) -> keras.optimizers.Optimizer:
    """Return the optimizer with its initial rate; other constants are Keras's defaults, SGD has momentum 0.9."""
    return _OPTIMIZERS[config.optimizer](config.learning_rate)


class Schedule:
    """The learning rate as a function of the step and of past validations."""

    def __init__(self, config: OptimConfig, total_steps: int) -> None:
        """Begin at step 0.

        Args:
            config: which schedule, and its constants.
            total_steps: steps over which cosine falls.
        """
        self._config, self._total_steps = config, total_steps
        self.rollbacks = 0
        self._plateau = Plateau(
            config.plateau_monitor,
            config.plateau_patience,
            config.plateau_factor,
            config.min_learning_rate,
            config.learning_rate,
        )

    def lower(self) -> None:
        """Halve every rate from here on, after the job went back from a divergence."""
        self.rollbacks += 1

    def rate(self, step: int) -> float:
        """Return the rate of a step, counted from 0.

        cosine: Loshchilov & Hutter 2017, "SGDR", arXiv:1608.03983, eq. 5, without restarts.
        """
        return self._scheduled(step) * 0.5**self.rollbacks

    def _scheduled(self, step: int) -> float:
        config = self._config
        if config.lr_schedule == "cosine":
            progress = min(step / self._total_steps, 1.0)
            span = config.learning_rate - config.min_learning_rate
            return config.min_learning_rate + 0.5 * span * (1.0 + math.cos(math.pi * progress))
        return self._plateau.rate

    def update(self, values: dict[str, Any]) -> bool:
        """Take an epoch's validation values; tell whether the rate fell."""
        return self._config.lr_schedule == "plateau" and self._plateau.update(values[self._config.plateau_monitor])

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {"plateau": self._plateau.state(), "rollbacks": self.rollbacks}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self._plateau.restore(state["plateau"])
        self.rollbacks = state["rollbacks"]
