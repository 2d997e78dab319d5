"""The learning rate of every step: warm-up, then constant, plateau or cosine.

Owns: the rate as a function of the step and of past validations.  Does not own: when the plateau falls
(``early_stopping.py``).  Imports no TensorFlow.
"""

import math
from collections.abc import Mapping
from typing import Any

from trainer.core.config import Config, OptimConfig
from trainer.training.early_stopping import Plateau

# --lr_warmup_steps=auto takes at most this part of all steps: 5%.
_WARMUP_PART = 20


def automatic_warmup(config: Config, examples: int) -> int:
    """Return the steps of ``--lr_warmup_steps=auto``: one epoch or 5% of the job, whichever is shorter."""
    per_epoch = config.loop.steps_of_epoch(examples, config.data.batch_size)
    return min(per_epoch, config.loop.epochs * per_epoch // _WARMUP_PART)


class Schedule:
    """The learning rate as a function of the step and of past validations."""

    def __init__(self, config: OptimConfig, total_steps: int, frozen_steps: int = 0) -> None:
        """Start at step 0.

        Args:
            config: the schedule and its constants.
            total_steps: steps of the job; cosine decays over those that follow the warm-up.
            frozen_steps: those of them with a frozen backbone; the schedule runs over these, and anew over the others.
        """
        self._config = config
        self._total_steps = total_steps
        self._warmup_steps = max(config.lr_warmup_steps, 0)  # Nobody settled it: none.
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
        """Return the rate of a step, counted from 0."""
        number, steps = self._in_phase(step)
        return self._scheduled(number, steps) * self._warmup(number) * 0.5**self.rollbacks

    def _in_phase(self, step: int) -> tuple[int, int]:
        """Return the number of a step since the backbone was frozen or released, and the steps that there are then."""
        frozen = self._frozen_steps
        if step < frozen:
            return step, min(frozen, self._total_steps)
        return step - frozen, max(self._total_steps - frozen, 1)

    def _warmup(self, step: int) -> float:
        """Return the share of the rate: linear up to 1 (Goyal et al. 2017, arXiv:1706.02677, section 2.2)."""
        return min((step + 1) / self._warmup_steps, 1.0) if self._warmup_steps else 1.0

    def _scheduled(self, step: int, steps: int) -> float:
        """Return the rate without warm-up.

        cosine: Loshchilov & Hutter 2017, "SGDR", arXiv:1608.03983, eq. 5, without restarts.
        """
        config = self._config
        if config.lr_schedule == "cosine":
            decay_steps = max(steps - self._warmup_steps, 1)
            progress = min(max(step - self._warmup_steps, 0) / decay_steps, 1.0)
            span = config.learning_rate - config.min_learning_rate
            return config.min_learning_rate + 0.5 * span * (1.0 + math.cos(math.pi * progress))
        return self._plateau.rate

    def update(self, values: Mapping[str, Any], *, at_chance: bool = False) -> bool:
        """Add an epoch's validation values; return whether the rate was lowered.

        Args:
            values: of the validation.
            at_chance: whether they are still what a guess gives, see ``chance.is_at_chance``.
        """
        config = self._config
        waits = at_chance and config.plateau_waits_for_learning
        return config.lr_schedule == "plateau" and self._plateau.update(values[config.plateau_monitor], at_chance=waits)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold."""
        return {"plateau": self._plateau.state(), "rollbacks": self.rollbacks}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a checkpoint's state."""
        self._plateau.restore(state["plateau"])
        self.rollbacks = state["rollbacks"]
