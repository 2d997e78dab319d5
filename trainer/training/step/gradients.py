"""Gradients of a replica's batch: in shards whose number follows from the global batch, or part after part.

Owns: what is differentiated, and in which pieces.  Does not own: sums over replicas (``train_step.py``), the loss of an
example (``loss.py``).
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainer.models import layers
from trainer.training.step import loss as loss_lib
from trainer.training.step.update import Column, added

Batch = dict[str, tf.Tensor]

# Gradients by trainable variable, in parts to be added; cross-entropies ``[b]``; logits ``[b, C]``; and by layer the
# sum over real examples of its batch statistics, float64 (those of a shard count once for each of its examples).
Parts = tuple[Sequence[Column], tf.Tensor, tf.Tensor, dict[str, tf.Tensor]]


@dataclasses.dataclass(frozen=True)
class Batching:
    """How the global batch of a step is divided.

    Attributes:
        batch_size: slots of the global batch.
        shards: parts of a replica's batch whose gradients are computed separately and added in float64, so that 1, 2
            and 4 replicas with the same total number of parts get the same sum; 1 adds in float32.
        accumulate_steps: parts of a replica's batch that are computed one after another, so that a step needs the
            memory of one; each has ``shards`` of its own.
    """

    batch_size: int
    shards: int = 1
    accumulate_steps: int = 1


class Gradients:
    """The forward and backward pass of one model over a replica's batch."""

    def __init__(
        self,
        model: keras.Model,
        logits: keras.Model,
        pixels: Callable[[Batch], tf.Tensor],
        loss: loss_lib.Loss,
        batching: Batching,
        *,
        per_replica: int,
        compiled: Callable[[], bool],
        is_program: Callable[[], bool],
    ) -> None:
        """Bind what is differentiated.

        Args:
            model: whose trainable variables get gradients.
            logits: the part of the model that ends before the softmax.
            pixels: what the model takes, of a batch.
            loss: what is minimised.
            batching: how the global batch is divided.
            per_replica: slots of a replica's batch.
            compiled: whether XLA compiles it; asked whenever it is traced.
            is_program: whether to make all of it one program of its own, not a part of a larger one; likewise.
        """
        self._model = model
        self._logits = logits
        self._pixels = pixels
        self._loss = loss
        self._batch_size = batching.batch_size
        self._norms = layers.trained_batch_norms(model)
        self._accumulate_steps = batching.accumulate_steps
        self._part = per_replica // batching.accumulate_steps
        # Of a part, which may be too small for so many; the same in all for 1, 2 and 4 replicas.
        self._shards = math.gcd(batching.shards, self._part)
        # A separate function, so that it is traced once and not for every shard.
        self._forward_backward = tf.function(self._shard_gradients, autograph=False)
        self._compiled = compiled
        self._is_program = is_program
        self._program = tf.function(self._plain, jit_compile=True, autograph=False)

    @property
    def pieces(self) -> int:
        """Into how many a replica's batch is cut in front of the network; on 1, 2 and 4 replicas they have one size."""
        return self._accumulate_steps * self._shards

    def of(self, batch: Batch, factor: tf.Tensor, seed: tf.Tensor, first_slot: tf.Tensor) -> Parts:
        """Return the gradients of ``factor`` times the sum of what is minimised, and what goes with them.

        Args:
            batch: of a replica.
            factor: float32 scalar.
            seed: [2] int64, of dropout, a function of (job seed, step).
            first_slot: int32 scalar, the batch's first slot in the global batch.
        """
        compute = self._gradients if self._accumulate_steps == 1 else self._accumulated
        return compute(batch, factor, seed, first_slot)

    def _gradients(self, batch: Batch, factor: tf.Tensor, seed: tf.Tensor, first_slot: tf.Tensor) -> Parts:
        """Return the same as ``of`` for a replica's batch, or a part of it."""
        return (self._program if self._is_program() else self._plain)(batch, factor, seed, first_slot)

    def _plain(self, batch: Batch, factor: tf.Tensor, seed: tf.Tensor, first_slot: tf.Tensor) -> Parts:
        # The batch is cut into shards of one size, whatever the number of replicas.
        inputs = (self._pixels(batch), targets(batch), batch["weight"])
        size = self._part // self._shards
        parts = [
            self._forward_backward(*(x[k * size : (k + 1) * size] for x in inputs), factor, seed, first_slot + k * size)
            for k in range(self._shards)
        ]
        # Put the shards together in slot order.
        losses, logits = (tf.concat([part[i] for part in parts], axis=0) for i in (1, 2))
        statistics = {name: tf.add_n([part[3][name] for part in parts]) for name in parts[0][3]}
        columns = list(zip(*(part[0] for part in parts), strict=True))
        return columns, losses, logits, statistics

    def _accumulated(self, batch: Batch, factor: tf.Tensor, seed: tf.Tensor, first_slot: tf.Tensor) -> Parts:
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
            columns, losses, logits, statistics = self._gradients(part, factor, seed, first_slot + begin)
            gradients = [added(column) for column in columns]
            sums = tf.nest.map_structure(lambda x, more: x + tf.cast(more, tf.float64), sums, (gradients, statistics))
            values = (losses, tf.cast(logits, tf.float32))
            return number + 1, sums, [each.write(number, x) for each, x in zip(rows, values, strict=True)]

        _, (gradients, statistics), rows = tf.while_loop(
            lambda number, *_: number < self._accumulate_steps, add, (0, sums, rows), parallel_iterations=1
        )
        losses, logits = (each.concat() for each in rows)
        return [(gradient,) for gradient in gradients], losses, logits, statistics

    def _shard_gradients(
        self,
        pixels: tf.Tensor,
        labels: tf.Tensor,
        weights: tf.Tensor,
        factor: tf.Tensor,
        seed: tf.Tensor,
        first_slot: tf.Tensor,
    ) -> Parts:
        """Return the same as ``_gradients``, for one shard."""
        shard = layers.Shard(seed, first_slot, self._batch_size, weights)
        with tf.GradientTape() as tape, layers.training_on(shard, compiled=self._compiled()):
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


def _rows(values: tf.Tensor, begin: tf.Tensor, count: int) -> tf.Tensor:
    """Return ``count`` rows; the shape stays static."""
    rest = values.shape[1:]
    return tf.slice(values, [begin] + [0] * len(rest), [count, *rest])


def targets(batch: Batch) -> tf.Tensor:
    """Return ``[b, C] float32`` shares of the classes if the batch has them (mixed images), else ``[b] int32``."""
    return batch.get("target", batch["label"])
