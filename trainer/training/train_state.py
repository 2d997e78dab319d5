"""Everything that decides a job's future, in one object that can be saved and restored."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from trainer.core.arrays import MODEL_PREFIX, Arrays
from trainer.core.config import Config
from trainer.core.errors import RequestError
from trainer.distributed.strategy import Runtime
from trainer.models import layers, registry
from trainer.training import optimizers
from trainer.training.checkpoints.checkpoint import AVERAGE_PREFIX, Checkpoint
from trainer.training.early_stopping import EarlyStopping
from trainer.training.loop import StopReason
from trainer.training.schedule import Schedule
from trainer.training.step.loss_scale import LossScale
from trainer.training.step.weight_average import WeightAverage


@dataclasses.dataclass
class TrainState:
    """Weights, optimizer, loss scale, schedule, early stopping and the values of the best and last epoch.

    Attributes:
        average: of the weights; None: there is none.
        step: steps done.
        validated: step of the last validation.
        pruned_because: why the pruner ended the job; empty if it did not.
        best: validation values of the best epoch; empty before the first validation.
        last: validation values of the last epoch; likewise.
    """

    model: keras.Model
    optimizer: keras.optimizers.Optimizer
    loss_scale: LossScale | None
    schedule: Schedule
    stopping: EarlyStopping
    average: WeightAverage | None = None
    step: int = 0
    validated: int = 0
    pruned_because: str = ""
    best: dict[str, Any] = dataclasses.field(default_factory=dict)
    last: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def fresh(
        cls, config: Config, runtime: Runtime, *, num_classes: int, total_steps: int,
        initial: Callable[[keras.Model], Collection[str]] | None = None, frozen_steps: int = 0,
    ) -> "TrainState":  # fmt: skip
        """Return the state before the first step; it is a function of the config.

        Args:
            config: of the job.
            runtime: devices and precision.
            num_classes: of the images.
            total_steps: of the job.
            initial: puts weights of another model into a new one (``initial_weights.py``), and returns the paths of
                the variables that have got some; None: they stay random.
            frozen_steps: steps in which the backbone is frozen.
        """
        with runtime.strategy.scope():
            model = registry.build(
                config.model,
                num_classes=num_classes,
                image_size=config.data.image_size,
                seed=config.loop.seed,
            )
            if initial is not None:  # Before the optimizer, which may keep averages of the weights.
                layers.settle_averages(model, initial(model))
            optim = config.optim.scaled(config.data.batch_size)
            optimizer = optimizers.build(optim, model.trainable_variables)
            loss_scale = LossScale() if runtime.scales_loss else None
            average = WeightAverage(model, optim.ema_decay) if optim.ema_decay else None
        return cls(
            model,
            optimizer,
            loss_scale,
            Schedule(optim, total_steps, frozen_steps),
            EarlyStopping(config.loop.monitor, config.loop.early_stopping_patience),
            average,
        )

    @property
    def stop_reason(self) -> StopReason | None:
        """Why the job has ended for good before its last epoch; None if it continues."""
        if self.stopping.stopped:
            return StopReason.EARLY_STOPPING
        return StopReason.PRUNED if self.pruned_because else None

    def start_fine_tuning(self) -> None:
        """Start optimizer, loss scale, schedule and early stopping afresh, as all layers are trained from now on.

        Adam's bias correction counts the steps since its averages were zero, which those of the backbone are only now;
        a plateau, a number of epochs without improvement and a loss scale were those of the last layer alone.
        """
        for variable in self.optimizer.variables:  # All begin with zero; the learning rate is set at every step.
            variable.assign(tf.zeros_like(variable))
        if self.loss_scale is not None:
            self.loss_scale.reset()
        self.schedule.restart()
        self.stopping.restart()

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """Return a block in which the model has the weights that it is judged by: averaged, if there is an average."""
        return self.average.in_the_model() if self.average else contextlib.nullcontext()

    def model_arrays(self) -> Arrays:
        """Return the model's variables in its order, by name."""
        return {MODEL_PREFIX + variable.path: _host(variable) for variable in self.model.variables}

    def snapshot(self, **extra: Any) -> Checkpoint:
        """Return a copy in host memory; ``extra`` is added to its JSON part."""
        arrays = {name: _host(variable) for name, variable in self._variables().items()}
        decisions = {
            "schedule": self.schedule.state(),
            "stopping": self.stopping.state(),
            "validated": self.validated,
            "hopeless": self.pruned_because,
        }
        if settled := layers.settled_averages(self.model):
            decisions["settled_averages"] = settled
        return Checkpoint(self.step, arrays, {**decisions, "best": self.best, "last": self.last, **extra})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Replace the state by that of a checkpoint.

        Raises:
            RequestError: if its variables are not this model's.
        """
        variables = self._variables()
        if checkpoint.arrays.keys() != variables.keys():
            differing = sorted(checkpoint.arrays.keys() ^ variables.keys())
            raise RequestError(
                f"expected a checkpoint with this version's variables, received one that differs in {differing[:3]}; "
                "continue it with the version that wrote it, or start over with --resume=never"
            )
        for name, variable in variables.items():
            variable.assign(checkpoint.arrays[name])
        # Jobs that began before averages could be settled go on as they began.
        layers.settle_averages(self.model, checkpoint.state.get("settled_averages", ()))
        self.schedule.restore(checkpoint.state["schedule"])
        self.stopping.restore(checkpoint.state["stopping"])
        self.step = checkpoint.step
        self.validated = checkpoint.state["validated"]
        self.best = checkpoint.state["best"]
        self.last = checkpoint.state["last"]
        self.pruned_because = checkpoint.state.get("hopeless", "")  # Older checkpoints have none.

    def _variables(self) -> dict[str, Any]:
        named = {MODEL_PREFIX + variable.path: variable for variable in self.model.variables}
        named |= {f"optimizer/{variable.path}": variable for variable in self.optimizer.variables}
        assert len(named) == len(self.model.variables) + len(self.optimizer.variables), "two variables of one name"
        if self.average is not None:
            named |= {f"{AVERAGE_PREFIX}{MODEL_PREFIX}{path}": v for path, v in self.average.variables.items()}
        if self.loss_scale is not None:
            named |= {
                "loss_scale/scale": self.loss_scale.scale,
                "loss_scale/good_steps": self.loss_scale.good_steps,
            }
        return named


def _host(variable: Any) -> Any:
    """Return a copy of a variable's value; all replicas hold the same one."""
    value = variable.value if isinstance(variable, keras.Variable) else variable
    return np.array(tf.convert_to_tensor(value))
