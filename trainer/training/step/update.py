"""What moves after the gradients are reduced: weights and optimizer, loss scale, batch-norm averages, weight average.

Every replica gets the same gradients and does the same.  Does not own: gradients and their sum.
"""

from collections.abc import Sequence

import keras
import tensorflow as tf

from trainer.distributed import tf_private
from trainer.models import layers
from trainer.training.step.loss_scale import LossScale
from trainer.training.step.weight_average import WeightAverage


class Update:
    """The update of one model and all that follows from it."""

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss_scale: LossScale | None,
        average: WeightAverage | None,
        *,
        clip_norm: float,
        slow: Sequence[keras.Variable],
        slow_factor: float,
    ) -> None:
        """Bind what moves; see ``TrainStep`` for the arguments."""
        self._model = model
        self._optimizer = optimizer
        self._loss_scale = loss_scale
        self._average = average
        self._norms = layers.trained_batch_norms(model)
        self._clip_norm = clip_norm
        self._slow = [variable.value for variable in slow] if slow_factor != 1.0 else []
        self._slow_factor = slow_factor
        # Gradients are reduced already.
        tf_private.leave_gradients_as_they_are(optimizer)

    def run(
        self,
        context: tf.distribute.ReplicaContext,
        gradients: list[tf.Tensor],
        means: list[tf.Tensor],
        step: tf.Tensor,
    ) -> tf.Tensor:
        """Move everything, or nothing if float16 overflowed.

        Args:
            context: of the replica.
            gradients: of the mean loss of all replicas' examples.
            means: of each trained batch normalisation's statistics over all examples, float32.
            step: int64 scalar, the number of the step from 0.

        Returns:
            bool scalar: whether the weights moved.
        """
        if self._clip_norm:
            gradients = _clipped(gradients, self._clip_norm)
        # Apply the update; with float16 only if no gradient overflowed.
        if self._loss_scale is None:
            self._apply(context, gradients)
            applied = tf.constant(True)
        else:
            applied = self._apply_if_finite(context, gradients)
        # Batch-norm averages come last: they move only if the update was applied.
        if means:
            updates = self._optimizer.iterations.value
            context.merge_call(_move_averages, args=(self._norms, means, tf.convert_to_tensor(updates), applied))
        if self._average is not None:
            self._average.move(context, step, applied)
        return applied

    def _apply(self, context: tf.distribute.ReplicaContext, gradients: list[tf.Tensor]) -> None:
        """Update the weights with the reduced gradients."""
        before = [tf.identity(variable) for variable in self._slow]
        self._optimizer.apply_gradients(zip(gradients, self._model.trainable_variables, strict=True))
        if before:
            context.merge_call(_keep_part, args=(self._slow, before, self._slow_factor))

    def _apply_if_finite(self, context: tf.distribute.ReplicaContext, gradients: list[tf.Tensor]) -> tf.Tensor:
        """Apply the reduced gradients, then undo everything unless they are finite.

        They are the same on every replica, and so is the decision; a gradient that is not finite on one replica makes
        the sum so, too.  No condition: Keras's LossScaleOptimizer, which has one, deadlocks several workers (keras
        3.15).
        """
        assert self._loss_scale is not None
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(gradient)) for gradient in gradients])
        variables = [v.value for v in (*self._model.trainable_variables, *self._optimizer.variables)]
        # Keep a copy, update always, then choose between the two: the same operations on every replica.
        before = [tf.identity(variable) for variable in variables]
        self._apply(context, gradients)
        context.merge_call(_keep_if, args=(variables, before, finite))
        self._loss_scale.update(finite)
        return finite


def _clipped(gradients: list[tf.Tensor], limit: float) -> list[tf.Tensor]:
    """Scale the gradients down to a global norm of ``limit`` (Pascanu et al. 2013, arXiv:1211.5063, section 3.2).

    They are reduced already, so every replica does the same.  The norm is in float64, where squares of float32 fit; an
    infinite one makes infinite gradients NaN, which float16 skips like any that are not finite.
    """
    squares = [tf.reduce_sum(tf.square(tf.cast(gradient, tf.float64))) for gradient in gradients]
    factor = limit / tf.maximum(tf.sqrt(tf.add_n(squares)), limit)
    return [gradient * tf.cast(factor, gradient.dtype) for gradient in gradients]


def _keep_part(
    strategy: tf.distribute.Strategy, variables: list[tf.Variable], before: list[tf.Tensor], factor: float
) -> None:
    """Take back all but a part of what an update did to each variable; runs in cross-replica context."""

    def shorten(variable: tf.Variable, old: tf.Tensor) -> tf.Operation:
        return variable.assign(old + (variable - old) * factor)

    for variable, old in zip(variables, before, strict=True):
        strategy.extended.update(variable, shorten, args=(old,), group=False)


def _keep_if(
    strategy: tf.distribute.Strategy, variables: list[tf.Variable], before: list[tf.Tensor], keep: tf.Tensor
) -> None:
    """Restore the old value of each variable unless ``keep``; runs in cross-replica context."""

    def choose(variable: tf.Variable, old: tf.Tensor, keep_new: tf.Tensor) -> tf.Operation:
        return variable.assign(tf.where(keep_new, variable, old))

    for variable, old in zip(variables, before, strict=True):
        strategy.extended.update(variable, choose, args=(old, keep), group=False)


def _move_averages(
    strategy: tf.distribute.Strategy,
    norms: list[layers.ShardBatchNorm],
    batch: list[tf.Tensor],
    updates: tf.Tensor,
    applied: tf.Tensor,
) -> None:
    """Move each average towards its batch statistics, if the step was applied; runs in cross-replica context."""
    for norm, statistics in zip(norms, batch, strict=True):

        def move(
            variable: tf.Variable, new: tf.Tensor, count: tf.Tensor, keep_new: tf.Tensor,
            of: layers.ShardBatchNorm = norm,
        ) -> tf.Operation:  # fmt: skip
            old = of.weight_of_old(count)
            return variable.assign(tf.where(keep_new, variable * old + new * (1.0 - old), variable))

        strategy.extended.update(norm.moving.value, move, args=(statistics, updates, applied), group=False)
