"""OptimConfig -> Keras optimizer and learning-rate schedule.

``OPTIMIZERS`` is the table of ``--optimizer``: an entry adds one.  Imports no TensorFlow before an optimizer is made.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.core import registry
from trainer.core.config import OptimConfig
from trainer.training.early_stopping import Plateau

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer(registry.Entry):
    """One choice of ``--optimizer``.

    Attributes:
        make: ``module:name`` of a class or function that takes the learning rate, a name and ``options``.
        options: other arguments; what is absent is Keras's default.
    """

    make: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)


OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Optimizer(make="keras.optimizers:Adam"),
    "adamw": Optimizer(make="keras.optimizers:AdamW"),
    "sgd": Optimizer(make="keras.optimizers:SGD", options={"momentum": 0.9}),
    "rmsprop": Optimizer(make="keras.optimizers:RMSprop", searched=False),
}


def make_optimizer(config: OptimConfig) -> "keras.optimizers.Optimizer":
    """Return the optimizer with its initial rate.

    It is named, because Keras numbers the unnamed ones of a process, and a checkpoint finds its variables by name.
    """
    optimizer = OPTIMIZERS[config.optimizer]
    return registry.load(optimizer.make)(config.learning_rate, name=config.optimizer, **optimizer.options)


class Schedule:
    """The learning rate as a function of the step and of past validations."""

    def __init__(self, config: OptimConfig, total_steps: int, frozen_steps: int = 0) -> None:
        """Start at step 0.

        Args:
            config: the schedule and its constants.
            total_steps: steps of the job.
            frozen_steps: those of them with a frozen backbone; the schedule runs over these, and anew over the others.
        """
        self._config = config
        self._total_steps = total_steps
        self._frozen_steps = frozen_steps
        self.rollbacks = 0
        self.restart()

    def restart(self) -> None:
        """Forget past validations, as the backbone is trained from now on; rollbacks still count."""
        config = self._config
        self._plateau = Plateau(
            config.plateau_monitor,
            config.plateau_patience,
            config.plateau_factor,
            config.min_learning_rate,
            config.learning_rate,
        )

    def lower(self) -> None:
        """Halve every later rate, after a rollback from a divergence."""
        self.rollbacks += 1

    def rate(self, step: int) -> float:
        """Return the rate of a step, counted from 0.

        cosine: Loshchilov & Hutter 2017, "SGDR", arXiv:1608.03983, eq. 5, without restarts.
        """
        return self._scheduled(*self._in_phase(step)) * 0.5**self.rollbacks

    def _in_phase(self, step: int) -> tuple[int, int]:
        """Return the number of a step since the backbone was frozen or released, and the steps that there are then."""
        frozen = self._frozen_steps
        if step < frozen:
            return step, min(frozen, self._total_steps)
        return step - frozen, max(self._total_steps - frozen, 1)

    def _scheduled(self, step: int, steps: int) -> float:
        config = self._config
        if config.lr_schedule == "cosine":
            progress = min(step / steps, 1.0)
            span = config.learning_rate - config.min_learning_rate
            return config.min_learning_rate + 0.5 * span * (1.0 + math.cos(math.pi * progress))
        return self._plateau.rate

    def update(self, values: dict[str, Any]) -> bool:
        """Add an epoch's validation values; return whether the rate was lowered."""
        return self._config.lr_schedule == "plateau" and self._plateau.update(values[self._config.plateau_monitor])

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {"plateau": self._plateau.state(), "rollbacks": self.rollbacks}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self._plateau.restore(state["plateau"])
        self.rollbacks = state["rollbacks"]
