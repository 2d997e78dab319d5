"""What moves after the gradients are reduced: weights and optimizer, loss scale, batch-norm averages, weight average.

Every replica gets the same gradients and moves its own copy of each variable, so the whole update is one program of a
device and can be compiled as one.  Does not own: gradients and their sum over replicas.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence

import keras
import tensorflow as tf

from trainer.distributed import tf_private
from trainer.models import layers
from trainer.training.step.loss_scale import LossScale
from trainer.training.step.weight_average import WeightAverage

# Of one variable: its gradient in one or several parts, whose sum counts.
Column = Sequence[tf.Tensor]

# The gradient's norm is computed in every so many steps: on a CPU it costs the network of the notebook 2% of a step.
NORM_STEPS = 10


@dataclasses.dataclass(frozen=True)
class Rules:
    """What an update does beside the optimizer's own.

    Attributes:
        average: moves after each update; None: there is none.
        clip_norm: largest norm of the whole gradient; 0: no limit.
        centered: kernels ``[inputs, units]`` of the model whose gradients lose their mean over the inputs.
        slow: variables of the model that get only a part of each update.
        slow_factor: this part, of whatever the optimizer does to them (weight decay, too).
    """

    average: WeightAverage | None = None
    clip_norm: float = 0.0
    centered: Sequence[keras.Variable] = ()
    slow: Sequence[keras.Variable] = ()
    slow_factor: float = 1.0


class Update:
    """The update of one model and all that follows from it."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss_scale: LossScale | None,
        rules: Rules,
        *,
        compiled: Callable[[], bool],
    ) -> None:
        """Bind what moves; see ``TrainStep`` for the arguments.

        ``compiled`` says whether the update of a replica is a compiled program of its own, whenever it is traced.
        """
        tf_private.update_where_called(optimizer)
        self._model = model
        self._optimizer = optimizer
        self._loss_scale = loss_scale
        self._average = rules.average
        self._norms = layers.trained_batch_norms(model)
        self._clip_norm = rules.clip_norm
        self._centered = {id(variable) for variable in rules.centered}
        self._device = strategy.extended.worker_devices[0]
        self._slow = rules.slow if rules.slow_factor != 1.0 else []
        self._slow_factor = rules.slow_factor
        self._plain = [
            functools.partial(self._move, _Copies(strategy, number))
            for number in range(len(strategy.extended.worker_devices))
        ]
        self._programs = [tf.function(move, jit_compile=True, autograph=False) for move in self._plain]
        self._compiled = compiled

    def run(
        self, columns: Sequence[Column], factor: tf.Tensor, means: list[tf.Tensor], step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Move everything, or nothing if float16 overflowed; called by every replica.

        Args:
            columns: of each trainable variable its gradient, summed over all replicas.
            factor: float64 scalar, which makes it the gradient of the mean loss of all examples.
            means: of each trained batch normalisation's statistics over all examples, float32.
            step: int64 scalar, the number of the step from 0.

        Returns:
            bool scalar: whether the weights moved; float32 scalar: norm of the gradient before it is clipped, or NaN.
        """
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group  # Its processes have as many each.
        moves = self._programs if self._compiled() else self._plain
        return moves[int(tf.get_static_value(replica)) % len(moves)](columns, factor, means, step)

    def _move(
        self, copies: "_Copies", columns: Sequence[Column], factor: tf.Tensor, means: list[tf.Tensor], step: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        gradients = _gradients(columns, factor)
        norm = self._norm(columns, factor, step)
        trained = self._model.trainable_variables
        gradients = [
            _without_mean(gradient) if id(variable) in self._centered else gradient
            for gradient, variable in zip(gradients, trained, strict=True)
        ]
        if self._clip_norm:
            gradients = _clipped(gradients, self._clip_norm)
        gradients = [tf.cast(gradient, tf.float32) for gradient in gradients]
        # A gradient that is not finite on one replica makes the sum so, and all replicas have the same sum.  There is
        # no condition: Keras's LossScaleOptimizer, which has one, deadlocks several workers (keras 3.15).
        applied = None
        if self._loss_scale is not None:
            applied = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])
            self._loss_scale.update(applied, copies.of)
        self._apply(copies, gradients, applied)
        # Batch-norm averages come last: they move only if the update was applied.
        updates = copies.of(self._optimizer.iterations.value)
        for layer, mean in zip(self._norms, means, strict=True):
            old = layer.weight_of_old(updates)
            moving = copies.of(layer.moving.value)
            assign(moving, moving * old + mean * (1.0 - old), applied)
        if self._average is not None:
            self._average.move(copies.of, step, applied)
        return (tf.constant(True) if applied is None else applied), norm

    def _norm(self, columns: Sequence[Column], factor: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Return the gradient's norm in each ``NORM_STEPS``-th step, and NaN in the others."""
        is_due = tf.equal(step % NORM_STEPS, 0)
        if "GPU" in self._device:  # Which takes a condition from the host, and that would wait for it.
            return tf.where(is_due, _global_norm(_gradients(columns, factor)), math.nan)
        return tf.cond(is_due, lambda: _global_norm(_gradients(columns, factor)), lambda: tf.constant(math.nan))

    def _apply(self, copies: "_Copies", gradients: list[tf.Tensor], applied: tf.Tensor | None) -> None:
        """Update this replica's weights and optimizer, if ``applied``; None: in any case."""
        trained = self._model.trainable_variables
        slow = [copies.of(variable.value) for variable in self._slow]
        before = [tf.identity(variable) for variable in slow]
        with copies.instead_of([*trained, *self._optimizer.variables], applied):
            self._optimizer.apply_gradients(zip(gradients, trained, strict=True))
        # Take back all but a part of what it did.
        for variable, old in zip(slow, before, strict=True):
            variable.assign(old + (variable - old) * self._slow_factor)


class _Copies:
    """A replica's copies of variables that all replicas have."""

    def __init__(self, strategy: tf.distribute.Strategy, number: int) -> None:
        """Bind the replica by its number among those of this process."""
        self._strategy = strategy
        self._number = number

    def of(self, variable: tf.Variable) -> tf.Variable:
        """Return the replica's copy."""
        return self._strategy.experimental_local_results(variable)[self._number]

    def instead_of(self, variables: Sequence[keras.Variable], applied: tf.Tensor | None) -> keras.StatelessScope:
        """Return a block in which Keras reads and writes these copies; it writes if ``applied``."""
        return _Scope({id(variable): self.of(variable.value) for variable in variables}, applied)


class _Scope(keras.StatelessScope):  # type: ignore[misc]
    """Keras's block in which variables stand for other values; here, for other variables."""

    def __init__(self, copies: dict[int, tf.Variable], applied: tf.Tensor | None) -> None:
        super().__init__(initialize_variables=False)
        self._copies = copies
        self._applied = applied

    def add_update(self, update: tuple[keras.Variable, tf.Tensor]) -> None:
        variable, value = update
        assign(self._copies[id(variable)], value, self._applied)

    def get_current_value(self, variable: keras.Variable) -> tf.Variable | None:
        return self._copies.get(id(variable))


def assign(variable: tf.Variable, value: tf.Tensor, applied: tf.Tensor | None) -> None:
    """Give a variable a value, if ``applied``; None: in any case."""
    variable.assign(value if applied is None else tf.where(applied, value, variable))


def added(column: Column) -> tf.Tensor:
    """Return the sum of the parts of one gradient.

    In float64, the sum of a few float32 numbers does not depend on how they are split over replicas.
    """
    return column[0] if len(column) == 1 else tf.add_n([tf.cast(part, tf.float64) for part in column])


def _gradients(columns: Sequence[Column], factor: tf.Tensor) -> list[tf.Tensor]:
    return [gradient * tf.cast(factor, gradient.dtype) for gradient in map(added, columns)]


def _global_norm(gradients: list[tf.Tensor]) -> tf.Tensor:
    return tf.cast(tf.sqrt(_sum_of_squares(gradients)), tf.float32)


def _sum_of_squares(gradients: list[tf.Tensor]) -> tf.Tensor:
    """Return it in float64, where squares of float32 fit."""
    return tf.add_n([tf.reduce_sum(tf.square(tf.cast(gradient, tf.float64))) for gradient in gradients])


def _without_mean(gradient: tf.Tensor) -> tf.Tensor:
    """Return the gradient ``[inputs, units]`` of a kernel minus its mean over the inputs.

    Gradient centralization: Yong et al. 2020, arXiv:2004.01461, section 3.2.  Where no input of a unit is negative, as
    behind a ReLU, this mean moves the unit for all images alike, and Adam adds it up over thousands of inputs.
    """
    return gradient - tf.reduce_mean(gradient, axis=0, keepdims=True)


def _clipped(gradients: list[tf.Tensor], limit: float) -> list[tf.Tensor]:
    """Scale the gradients down to a global norm of ``limit`` (Pascanu et al. 2013, arXiv:1211.5063, section 3.2).

    They are reduced already, so every replica does the same.  An infinite norm makes infinite gradients NaN, which
    float16 skips like any that are not finite.
    """
    factor = limit / tf.maximum(tf.sqrt(_sum_of_squares(gradients)), limit)
    return [gradient * tf.cast(factor, gradient.dtype) for gradient in gradients]
