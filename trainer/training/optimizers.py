"""OptimConfig -> Keras optimizer.

``OPTIMIZERS`` is the table of ``--optimizer``: an entry adds one.  Imports no TensorFlow before an optimizer is made.
"""

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from trainer.core import registry
from trainer.core.config import OptimConfig

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
