"""OptimConfig -> Keras optimizer.

``OPTIMIZERS`` is the table of ``--optimizer``: an entry adds one.  Imports no TensorFlow before an optimizer is made.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainer.core import registry
from trainer.core.config import OptimConfig

if TYPE_CHECKING:
    import keras

# Keras's default, for --weight_decay=auto.
_ADAMW_DECAY = 0.004
_ADAM = {"adam_beta_1": "beta_1", "adam_beta_2": "beta_2", "adam_epsilon": "epsilon"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer(registry.Entry):
    """One choice of ``--optimizer``.

    Attributes:
        make: ``module:name`` of a class or function that takes the learning rate, a name and ``options``.
        options: other arguments; what is absent is Keras's default.
        settings: names of its arguments by the settings that give them.
        decays: whether it takes ``--weight_decay``, as ``weight_decay``.
    """

    make: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    decays: bool = False


OPTIMIZERS: dict[str, Optimizer] = {
    "adam": Optimizer(make="keras.optimizers:Adam", settings=_ADAM),
    "adamw": Optimizer(make="keras.optimizers:AdamW", settings=_ADAM, decays=True),
    "sgd": Optimizer(make="keras.optimizers:SGD", settings={"momentum": "momentum"}, decays=True),
    "rmsprop": Optimizer(make="keras.optimizers:RMSprop", searched=False),
    "lion": Optimizer(make="keras.optimizers:Lion", decays=True, searched=False),
}


def automatic_weight_decay(config: OptimConfig) -> float:
    """Return the value of ``--weight_decay=auto``."""
    return _ADAMW_DECAY if config.optimizer == "adamw" else 0.0


def make_optimizer(config: OptimConfig) -> "keras.optimizers.Optimizer":
    """Return the optimizer with its initial rate; ``build`` also makes its variables.

    It is named, because Keras numbers the unnamed ones of a process, and a checkpoint finds its variables by name.
    """
    optimizer = OPTIMIZERS[config.optimizer]
    options = {argument: getattr(config, name) for name, argument in optimizer.settings.items()}
    if optimizer.decays:
        decay = config.weight_decay if config.weight_decay >= 0.0 else automatic_weight_decay(config)
        # Keras's AdamW needs a number; the others decay nothing, and compute nothing, with None.
        options["weight_decay"] = decay if decay or config.optimizer == "adamw" else None
    return registry.load(optimizer.make)(
        config.learning_rate, name=config.optimizer, **{**options, **optimizer.options}
    )


def build(config: OptimConfig, variables: Sequence["keras.Variable"]) -> "keras.optimizers.Optimizer":
    """Return the optimizer of these variables, with its own; call it in the strategy's scope."""
    optimizer = make_optimizer(config)
    if not config.decay_biases:  # And scales of normalisations: whatever has one dimension.
        optimizer.exclude_from_weight_decay([variable for variable in variables if len(variable.shape) < 2])
    optimizer.build(variables)
    return optimizer
