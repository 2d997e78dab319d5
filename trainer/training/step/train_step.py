"""One train step and one eval step over all replicas: the only place where a loss is scaled.

The loss of a step is the sum over real examples divided by their global number (of weighted ones, by the sum of their
weights), so that padding, undecodable images and the number of replicas change nothing.  What all replicas must decide
alike (skip an overflow) is decided on an all-reduced value, and no collective is inside a condition.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from trainer.core.config import LossConfig
from trainer.data import augment
from trainer.models import layers, preprocess, registry
from trainer.training.step import loss as loss_lib
from trainer.training.step.compilation import Compilation
from trainer.training.step.gradients import Batch, Batching, Gradients, targets
from trainer.training.step.loss_scale import LossScale
from trainer.training.step.update import Column, Rules, Update, added

# A message of gradients is sent when it exceeds this size.  Last layers come first, so that it can be sent while the
# gradients of earlier layers are computed (Li et al. 2020, "PyTorch Distributed", arXiv:2006.15704, section 3.2.3,
# whose 25 MB would put all of this network into one message).
BUCKET_BYTES = 4 * 2**20

# Trainable numbers from which the update is compiled in any case.  One program reads and writes each number once; the
# dozens of operations that it replaces took 7 to 9% of a step of the notebook's CNN (4.8 million) on a CPU.
LARGE = 2**20


@dataclasses.dataclass(frozen=True)
class StepStats:
    """What one step reports, summed over all replicas.

    Attributes:
        loss_sum: sum of the cross-entropy over real examples, nats; without smoothing, focus and class weights.
        correct: examples whose largest logit is at their label.
        examples: real examples.
        applied: whether the weights moved (False: an overflow in float16 was skipped).
        loss_scale: factor of the loss before this step's decision; 1 without float16.
        gradient_norm: of the whole gradient before it is clipped; None in steps that do not compute it.
    """

    loss_sum: float
    correct: float
    examples: float
    applied: bool
    loss_scale: float
    gradient_norm: float | None = None

    @classmethod
    def of(cls, vector: Any) -> "StepStats":
        """Read the ``[6]`` vector that a train step returns, whose norm is NaN where there is none."""
        loss_sum, correct, examples, applied, scale, norm = map(float, vector)
        return cls(loss_sum, correct, examples, applied > 0.5, scale, None if math.isnan(norm) else norm)


class TrainStep:
    """The compiled train and eval step of one model on one strategy.

    Attributes:
        compilation: whether the step is compiled; who calls ``train`` in a function attempts it there.
    """

    def __init__(
        self,
        strategy: tf.distribute.Strategy,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        loss_scale: LossScale | None,
        batching: Batching,
        *,
        seed: int,
        augmentation: str,
        xla: bool = False,
        allreduce_dtype: tf.DType | None = None,
        loss: loss_lib.Loss | None = None,
        rules: Rules = Rules(),  # noqa: B008  (frozen)
    ) -> None:
        """Bind what a step uses.

        Args:
            strategy: whose replicas compute.
            model: probabilities from pixels (``models.build``), made in the strategy's scope.
            optimizer: built on the model's trainable variables, in the same scope.
            loss_scale: for gradients that are float16, computed or on their way; None otherwise.
            batching: how the global batch is divided.
            seed: of dropout.
            augmentation: value of ``--augment``, whose parts on the device are applied here.
            xla: whether to compile the step, or on several replicas what stands between their messages.
            allreduce_dtype: in which gradients are sent between replicas; None: their own.
            loss: what is minimised; None: cross-entropy.
            rules: what the update does beside the optimizer's own.
        """
        self._strategy = strategy
        self._model = model
        self._loss_scale = loss_scale
        self._seed = seed
        self._batch_size = batching.batch_size
        self._per_replica = batching.batch_size // strategy.num_replicas_in_sync
        self._augmentation = augment.load(augmentation)
        self._allreduce_dtype = allreduce_dtype if strategy.num_replicas_in_sync > 1 else None
        self._loss = loss or loss_lib.Loss(LossConfig())
        self._norms = layers.trained_batch_norms(model)
        self.compilation = Compilation(xla, "training step")
        self._validation = Compilation(xla, "forward pass of validation")
        # One program, if no messages between replicas are a part of it.
        self._is_one_program = isinstance(strategy, tf.distribute.OneDeviceStrategy)
        self._gradients = Gradients(
            model, self._logits_of(model), self._pixels, self._loss, batching, per_replica=self._per_replica,
            compiled=lambda: self.compilation.enabled, is_program=self._are_parts_compiled,
        )  # fmt: skip
        self._update = Update(strategy, model, optimizer, loss_scale, rules, compiled=self._is_update_compiled)

    def train(self, batch: Batch, step: tf.Tensor) -> tf.Tensor:
        """Update the weights with one global batch.

        Args:
            batch: per-replica batch of ``pipeline.batches``.
            step: int64 scalar, the number of this step from 0 over the whole job.

        Returns:
            ``[6]`` float32 for ``StepStats.of``, the same on every process: sums over all replicas.
        """
        if tf.inside_function():  # Whose caller sees what fails.
            return self._train(batch, step, self.compilation.failed)
        return self.compilation.attempt(lambda failed: self._train(batch, step, failed))

    @tf.function(autograph=False)
    def _train(self, batch: Batch, step: tf.Tensor, failed: bool) -> tf.Tensor:
        """Return what ``train`` does; ``failed`` is that of ``compilation``, whose change is traced anew."""
        if self.compilation.enabled and self._is_one_program:
            return self._program(batch, step)
        reduced = self._strategy.run(self._train_replica, (batch, step))
        return self._strategy.experimental_local_results(reduced)[0]

    @tf.function(autograph=False, jit_compile=True)
    def _program(self, batch: Batch, step: tf.Tensor) -> tf.Tensor:
        return self._strategy.run(self._train_replica, (batch, step))

    def evaluate(self, batch: Batch) -> tf.Tensor:
        """Return ``[batch_size, C + 1]`` float32: probabilities and weight of every slot, in slot order."""
        return self._validation.attempt(lambda failed: self._evaluate(batch, self.compilation.enabled and not failed))

    @tf.function(autograph=False)
    def _evaluate(self, batch: Batch, compiled: bool) -> tf.Tensor:
        return self._strategy.gather(self._strategy.run(self._evaluate_replica, (batch, compiled)), axis=0)

    def _are_parts_compiled(self) -> bool:
        return self.compilation.enabled and not self._is_one_program

    def _is_update_compiled(self) -> bool:
        numbers = sum(math.prod(variable.shape) for variable in self._model.trainable_variables)
        return self._are_parts_compiled() or (numbers >= LARGE and not self.compilation.failed)

    def _logits_of(self, model: keras.Model) -> keras.Model:
        """Return the part of the model that ends before the softmax."""
        return registry.logits_of(model)

    def _evaluate_replica(self, batch: Batch, compiled: bool) -> tf.Tensor:
        forward = self._compiled_probabilities if compiled else self._probabilities
        return tf.concat([self._in_pieces(forward, batch["image"]), batch["weight"][:, None]], axis=1)

    def _in_pieces(self, forward: Callable[[tf.Tensor], tf.Tensor], inputs: tf.Tensor) -> tf.Tensor:
        """Return the rows of a replica's batch, computed in the pieces of a train step.

        A product's last bits may depend on the size of its batch, which thereby does not follow the number of replicas.
        """
        if self._gradients.pieces == 1:
            return forward(inputs)
        pieces = tf.reshape(inputs, [self._gradients.pieces, -1, *inputs.shape[1:]])
        rows = tf.map_fn(forward, pieces, fn_output_signature=tf.float32, parallel_iterations=1)
        return tf.reshape(rows, [self._per_replica, -1])

    def _probabilities(self, images: tf.Tensor) -> tf.Tensor:
        return preprocess.probabilities(self._model, images)

    @tf.function(autograph=False, jit_compile=True)
    def _compiled_probabilities(self, images: tf.Tensor) -> tf.Tensor:
        return self._probabilities(images)

    def _train_replica(self, batch: Batch, step: tf.Tensor) -> tf.Tensor:
        # Randomness is a function of seed, step and slot, so it does not depend on the number of replicas.
        context = tf.distribute.get_replica_context()
        replica = tf.cast(context.replica_id_in_sync_group, tf.int32)
        # Only here: outside of a compiled program a GPU's function takes integers of 32 bits from the host, and they
        # would come back from the card at each call (see ``DistributedInput.on_devices``).
        batch = {**batch, "label": tf.cast(batch["label"], tf.int32)}
        scale = self._loss_scale.scale.read_value() if self._loss_scale else tf.constant(1.0)
        seed = tf.random.fold_in(tf.constant([self._seed, 0x6E6F69], tf.int64), step, alg="philox")
        # Forward and backward pass; the loss is scaled, and divided by the slots until the real examples are counted.
        columns, losses, logits, statistics = self._gradients.of(
            batch, scale / self._batch_size, seed, replica * self._per_replica
        )
        # Reduce the gradients first: their messages are large and can leave early.
        columns = self._sum(context, columns)
        # Sum statistics in float64, so that they do not depend on how the batch is split.
        weights = tf.cast(batch["weight"], tf.float64)
        hits = tf.cast(tf.equal(tf.argmax(logits, axis=1, output_type=tf.int32), batch["label"]), tf.float64)
        # What the loss is divided by: the real examples, each as much as it counts.
        importance = self._loss.importance(targets(batch))
        parts = weights if importance is None else weights * tf.cast(importance, tf.float64)
        sums = tf.stack([tf.reduce_sum(x) for x in (tf.cast(losses, tf.float64), hits * weights, weights, parts)])
        sums, *moments = context.all_reduce(
            tf.distribute.ReduceOp.SUM, [sums, *(statistics[layer.key] for layer in self._norms)]
        )
        # Undo the loss scale, and divide by the real examples of all replicas instead of the slots.
        total = tf.maximum(sums[2], 1.0)
        divisor = tf.where(sums[2] > 0.0, sums[3], 1.0)
        factor = self._batch_size / (divisor * tf.cast(scale, tf.float64))
        means = [tf.cast(each / total, tf.float32) for each in moments]
        applied, norm = self._update.run(columns, factor, means, step)
        return tf.concat([tf.cast(sums[:3], tf.float32), tf.stack([tf.cast(applied, tf.float32), scale, norm])], axis=0)

    def _sum(self, context: tf.distribute.ReplicaContext, columns: Sequence[Column]) -> Sequence[Column]:
        """Return the sum of the gradients over all replicas, sent in a few buckets and perhaps in another dtype."""
        if self._strategy.num_replicas_in_sync == 1:
            return columns
        buckets = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=BUCKET_BYTES)
        messages = [tf.cast(x, self._allreduce_dtype or x.dtype) for x in map(added, columns)]
        sums = context.all_reduce(tf.distribute.ReduceOp.SUM, messages, buckets)
        return [(tf.cast(gradient, tf.float32) if gradient.dtype.size < 4 else gradient,) for gradient in sums]

    def _pixels(self, batch: Batch) -> tf.Tensor:
        """Return ``[b, S, S, 3]`` float32 in [0, 1], augmented."""
        return preprocess.to_unit_range(augment.on_device(self._augmentation, batch))
