"""One train step and one eval step over all replicas: the only place where a loss is scaled.

The loss of a step is the sum over real examples divided by their global number (of weighted ones, by the sum of their
weights), so that padding, undecodable images and the number of replicas change nothing.  What all replicas must decide
alike (skip an overflow) is decided on an all-reduced value, and no collective is inside a condition.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from trainer.core.config import LossConfig
from trainer.data import augment
from trainer.distributed import tf_private
from trainer.models import layers, preprocess, registry
from trainer.training import loss as loss_lib
from trainer.training import weight_average
from trainer.training.loss_scale import LossScale

# A message of gradients is sent when it exceeds this size.  Last layers come first, so that it can be sent while the
# gradients of earlier layers are computed (Li et al. 2020, "PyTorch Distributed", arXiv:2006.15704, section 3.2.3,
# whose 25 MB would put all of this network into one message).
BUCKET_BYTES = 4 * 2**20

Batch = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class StepStats:
    """What one step reports, summed over all replicas.

    Attributes:
        loss_sum: sum of the cross-entropy over real examples, nats; without smoothing, focus and class weights.
        correct: examples whose largest logit is at their label.
        examples: real examples.
        applied: whether the weights moved (False: an overflow in float16 was skipped).
        loss_scale: factor of the loss before this step's decision; 1 without float16.
    """

    loss_sum: float
    correct: float
    examples: float
    applied: bool
    loss_scale: float

    @classmethod
    def of(cls, vector: Any) -> "StepStats":
        """Read the ``[5]`` vector that a train step returns."""
        loss_sum, correct, examples, applied, scale = (float(value) for value in vector)
        return cls(loss_sum, correct, examples, applied > 0.5, scale)


class TrainStep:
    """The compiled train and eval step of one model on one strategy."""

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss_scale: LossScale | None,
        *,
        batch_size: int,
        seed: int,
        augmentation: str,
        xla: bool = False,
        shards: int = 1,
        allreduce_dtype: tf.DType | None = None,
        average: weight_average.WeightAverage | None = None,
        accumulate_steps: int = 1,
        clip_norm: float = 0.0,
        loss: loss_lib.Loss | None = None,
        slow: Sequence[keras.Variable] = (),
        slow_factor: float = 1.0,
    ) -> None:
        """Bind what a step uses.

        Args:
            strategy: whose replicas compute.
            model: probabilities from pixels (``models.build``), made in the strategy's scope.
            optimizer: built on the model's trainable variables, in the same scope.
            loss_scale: for gradients that are float16, computed or on their way; None otherwise.
            batch_size: slots of the global batch.
            seed: of dropout.
            augmentation: value of ``--augment``, whose parts on the device are applied here.
            xla: whether to compile forward and backward pass.
            shards: parts of a replica's batch whose gradients are computed separately and added in float64, so that
                1, 2 and 4 replicas with the same total number of parts get the same sum; 1 adds in float32.
            allreduce_dtype: in which gradients are sent between replicas; None: their own.
            average: moves after each update; None: there is none.
            accumulate_steps: parts of a replica's batch that are computed one after another, so that a step needs the
                memory of one; each has ``shards`` of its own.
            clip_norm: largest norm of the whole gradient; 0: no limit.
            loss: what is minimised; None: cross-entropy.
            slow: variables of the model that get only a part of each update.
            slow_factor: this part, of whatever the optimizer does to them (weight decay, too).
        """
        self._strategy = strategy
        self._model = model
        self._optimizer = optimizer
        self._loss_scale = loss_scale
        self._seed = seed
        self._batch_size = batch_size
        self._augmentation = augment.load(augmentation)
        self._logits = self._logits_of(model)
        # A separate function, so that it is traced once and not for every shard.
        self._forward_backward = tf.function(self._shard_gradients, jit_compile=xla or None, autograph=False)
        self._allreduce_dtype = allreduce_dtype if strategy.num_replicas_in_sync > 1 else None
        self._clip_norm = clip_norm
        self._loss = loss or loss_lib.Loss(LossConfig())
        self._slow = [variable.value for variable in slow] if slow_factor != 1.0 else []
        self._slow_factor = slow_factor
        # Gradients are reduced here, in buckets.
        tf_private.leave_gradients_as_they_are(optimizer)
        self._norms = layers.trained_batch_norms(model)
        self._per_replica = batch_size // strategy.num_replicas_in_sync
        self._average = average
        self._accumulate_steps = accumulate_steps
        self._part = self._per_replica // accumulate_steps
        # Of a part, which may be too small for so many; the same in all for 1, 2 and 4 replicas.
        self._shards = math.gcd(shards, self._part)

    @tf.function(autograph=False)
    def train(self, batch: Batch, step: tf.Tensor) -> tf.Tensor:
        """Update the weights with one global batch.

        Args:
            batch: per-replica batch of ``pipeline.batches``.
            step: int64 scalar, the number of this step from 0 over the whole job.

        Returns:
            ``[5]`` float32 for ``StepStats.of``, the same on every process: sums over all replicas.
        """
        reduced = self._strategy.run(self._train_replica, (batch, step))
        return self._strategy.experimental_local_results(reduced)[0]

    @tf.function(autograph=False)
    def evaluate(self, batch: Batch) -> tf.Tensor:
        """Return ``[batch_size, C + 1]`` float32: probabilities and weight of every slot, in slot order."""
        return self._strategy.gather(self._strategy.run(self._evaluate_replica, (batch,)), axis=0)

    def _logits_of(self, model: keras.Model) -> keras.Model:
        """Return the part of the model that ends before the softmax."""
        return registry.logits_of(model)

    def _evaluate_replica(self, batch: Batch) -> tf.Tensor:
        images = batch["image"]
        if self._accumulate_steps == 1:
            probabilities = self._probabilities(images)
        else:
            parts = tf.reshape(images, [self._accumulate_steps, self._part, *images.shape[1:]])
            rows = tf.map_fn(self._probabilities, parts, fn_output_signature=tf.float32, parallel_iterations=1)
            probabilities = tf.reshape(rows, [self._per_replica, -1])
        return tf.concat([probabilities, batch["weight"][:, None]], axis=1)

    def _probabilities(self, images: tf.Tensor) -> tf.Tensor:
        return preprocess.probabilities(self._model, images)

    def _train_replica(self, batch: Batch, step: tf.Tensor) -> tf.Tensor:
        # Randomness is a function of seed, step and slot, so it does not depend on the number of replicas.
        context = tf.distribute.get_replica_context()
        replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
        scale = self._loss_scale.scale.read_value() if self._loss_scale else tf.constant(1.0)
        seed = tf.random.fold_in(tf.constant([self._seed, 0x6E6F69], tf.int64), step, alg="philox")
        # Forward and backward pass; the loss is scaled, and divided by the slots until the real examples are counted.
        compute = self._gradients if self._accumulate_steps == 1 else self._accumulated
        gradients, losses, logits, statistics = compute(
            batch, scale / self._batch_size, seed, replica * self._per_replica
        )
        # Reduce the gradients first: their messages are large and can leave early.
        gradients = self._sum(context, gradients)
        # Sum statistics in float64, so that they do not depend on how the batch is split.
        weights = tf.cast(batch["weight"], tf.float64)
        hits = tf.cast(tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), batch["label"]), tf.float64)
        # What the loss is divided by: the real examples, each as much as it counts.
        importance = self._loss.importance(_targets(batch))
        parts = weights if importance is None else weights * tf.cast(importance, tf.float64)
        sums = tf.stack([tf.reduce_sum(x) for x in (tf.cast(losses, tf.float64), hits * weights, weights, parts)])
        sums, *moments = context.all_reduce(
            tf.distribute.ReduceOp.SUM, [sums, *(statistics[layer.key] for layer in self._norms)]
        )
        # Undo the loss scale, and divide by the real examples of all replicas instead of the slots.
        total = tf.maximum(sums[2], 1.0)
        divisor = tf.where(sums[2] > 0.0, sums[3], 1.0)
        factor = self._batch_size / (divisor * tf.cast(scale, tf.float64))
        gradients = [gradient * tf.cast(factor, gradient.dtype) for gradient in gradients]
        if self._clip_norm:
            gradients = _clipped(gradients, self._clip_norm)
        # Apply the update; with float16 only if no gradient overflowed.
        if self._loss_scale is None:
            self._apply(context, gradients)
            applied = tf.constant(True)
        else:
            applied = self._apply_if_finite(context, gradients)
        # Batch-norm averages come last: they move only if the update was applied.
        if moments:
            means = [tf.cast(each / total, tf.float32) for each in moments]
            updates = self._optimizer.iterations.value
            context.merge_call(_move_averages, args=(self._norms, means, tf.convert_to_tensor(updates), applied))
        if self._average is not None:
            self._average.move(context, step, applied)
        return tf.concat([tf.cast(sums[:3], tf.float32), tf.stack([tf.cast(applied, tf.float32), scale])], axis=0)

    def _sum(self, context: tf.distribute.ReplicaContext, gradients: list[tf.Tensor]) -> list[tf.Tensor]:
        """Return the sum of the gradients over all replicas, sent in a few buckets and perhaps in another dtype."""
        buckets = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=BUCKET_BYTES)
        messages = [tf.cast(gradient, self._allreduce_dtype or gradient.dtype) for gradient in gradients]
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, messages, buckets)
        return [tf.cast(gradient, tf.float32) if gradient.dtype.size < 4 else gradient for gradient in sums]

    def _pixels(self, batch: Batch) -> tf.Tensor:
        """Return ``[b, S, S, 3]`` float32 in [0, 1], augmented."""
        return preprocess.to_unit_range(augment.on_device(self._augmentation, batch))

    def _gradients(
        self, batch: Batch, factor: tf.Tensor, seed: tf.Tensor, first_slot: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """Return gradients and statistics of a replica's batch, or of a part of it.

        Returns:
            Gradients of ``factor`` times the sum of what is minimised; cross-entropies ``[b]``; logits ``[b, C]``; and
            by layer the sum over real examples of its batch statistics, float64 (the statistics of a shard count once
            for each of its examples).
        """
        # The batch is cut into shards of one size, whatever the number of replicas.
        inputs = (self._pixels(batch), _targets(batch), batch["weight"])
        size = self._part // self._shards
        parts = [
            self._forward_backward(*(x[k * size : (k + 1) * size] for x in inputs), factor, seed, first_slot + k * size)
            for k in range(self._shards)
        ]
        # Put the shards together in slot order.
        losses, logits = (tf.concat([part[i] for part in parts], axis=0) for i in (1, 2))
        statistics = {name: tf.add_n([part[3][name] for part in parts]) for name in parts[0][3]}
        if self._shards == 1:
            return parts[0][0], losses, logits, statistics
        # In float64, the sum of a few float32 gradients does not depend on how the batch is split.
        columns = zip(*(part[0] for part in parts), strict=True)
        return [tf.add_n([tf.cast(g, tf.float64) for g in column]) for column in columns], losses, logits, statistics

    def _accumulated(
        self, batch: Batch, factor: tf.Tensor, seed: tf.Tensor, first_slot: tf.Tensor
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """Return the same as ``_gradients``, computed in parts, one after another; gradients in float64."""
        classes = self._logits.output_shape[-1]
        sums = (
            [tf.zeros(variable.shape, tf.float64) for variable in self._model.trainable_variables],
            {layer.key: tf.zeros(layer.moving.shape, tf.float64) for layer in self._norms},
        )
        rows = [tf.TensorArray(tf.float32, self._accumulate_steps, element_shape=shape)
                for shape in ([self._part], [self._part, classes])]  # fmt: skip

        def add(number: tf.Tensor, sums: Any, rows: list[tf.TensorArray]) -> tuple[tf.Tensor, Any, Any]:
            # Only the pixels of a part are converted and augmented; those of the batch stay uint8.
            begin = number * self._part
            part = {name: _rows(values, begin, self._part) for name, values in batch.items()}
            gradients, losses, logits, statistics = self._gradients(part, factor, seed, first_slot + begin)
            sums = tf.nest.map_structure(lambda x, more: x + tf.cast(more, tf.float64), sums, (gradients, statistics))
            values = (losses, tf.cast(logits, tf.float32))
            return number + 1, sums, [each.write(number, x) for each, x in zip(rows, values, strict=True)]

        _, (gradients, statistics), rows = tf.while_loop(
            lambda number, *_: number < self._accumulate_steps, add, (0, sums, rows), parallel_iterations=1
        )
        losses, logits = (each.concat() for each in rows)
        return gradients, losses, logits, statistics

    def _shard_gradients(
        self,
        pixels: tf.Tensor,
        labels: tf.Tensor,
        weights: tf.Tensor,
        factor: tf.Tensor,
        seed: tf.Tensor,
        first_slot: tf.Tensor,
    ) -> tuple[list[tf.Tensor], tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]:
        """Return the same as ``_gradients``, for one shard."""
        shard = layers.Shard(seed, first_slot, self._batch_size, weights)
        with tf.GradientTape() as tape, layers.training_on(shard):
            logits = self._logits(pixels, training=True)
            importance = self._loss.importance(labels)
            counts = weights if importance is None else weights * importance
            # A padded slot must not touch the sum even if its loss is not finite.
            minimised = tf.where(weights > 0.0, self._loss.minimised(labels, logits) * counts, 0.0)
            target = tf.reduce_sum(minimised) * factor
        losses = tf.where(weights > 0.0, loss_lib.cross_entropy(labels, logits) * weights, 0.0)
        examples = tf.reduce_sum(tf.cast(weights, tf.float64))
        statistics = {name: tf.cast(moments, tf.float64) * examples for name, moments in shard.statistics.items()}
        return tape.gradient(target, self._model.trainable_variables), losses, logits, statistics

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


def _rows(values: tf.Tensor, begin: tf.Tensor, count: int) -> tf.Tensor:
    """Return ``count`` rows; the shape stays static."""
    rest = values.shape[1:]
    return tf.slice(values, [begin] + [0] * len(rest), [count, *rest])


def _targets(batch: Batch) -> tf.Tensor:
    """Return ``[b, C] float32`` shares of the classes if the batch has them (mixed images), else ``[b] int32``."""
    return batch.get("target", batch["label"])


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
