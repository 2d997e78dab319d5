"""An exponential moving average of a model's variables, in which training leaves less noise than in the last step's.

Owns: its variables, how they move, and taking the model's place.  Does not own: when it is validated (``evaluator.py``)
or exported (``checkpoints/checkpoint.py``: ``exported``).
"""

import contextlib
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf


class WeightAverage:
    """Averages of all variables of a model, those of batch normalisation too; a part of the state of a job."""

    def __init__(self, model: keras.Model, decay: float) -> None:
        """Begin with the model's values; call inside the strategy's scope."""
        self._decay = decay
        self._model = {variable.path: variable for variable in model.variables}
        self.variables = {
            path: tf.Variable(tf.convert_to_tensor(variable.value), trainable=False, name="average")
            for path, variable in self._model.items()
        }

    def move(self, copy_of: Callable[[tf.Variable], tf.Variable], step: tf.Tensor, applied: tf.Tensor | None) -> None:
        """Move a replica's averages towards its model after a step.

        Args:
            copy_of: returns the replica's copy of a variable.
            step: int64 scalar, the number of the step from 0.
            applied: whether the weights moved; the same on all replicas.  None: they did.
        """
        # Early averages would remember the initial weights: the ramp of TensorFlow's ExponentialMovingAverage.
        done = tf.cast(step + 1, tf.float32)
        decay = tf.minimum(self._decay, (1.0 + done) / (10.0 + done))
        for path, variable in self._model.items():
            average, new = copy_of(self.variables[path]), copy_of(variable.value)
            value = average - (1.0 - decay) * (average - new)
            average.assign(value if applied is None else tf.where(applied, value, average))

    @contextlib.contextmanager
    def in_the_model(self) -> Iterator[None]:
        """Give the model the averages for the block, and its own values back afterwards."""
        kept = [tf.identity(variable.value) for variable in self._model.values()]
        try:
            for path, variable in self._model.items():
                variable.assign(tf.convert_to_tensor(self.variables[path]))
            yield
        finally:
            for variable, value in zip(self._model.values(), kept, strict=True):
                variable.assign(value)
