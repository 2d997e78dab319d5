"""Several training steps in one call of the graph, so that the host is needed once for all of them.

Between two calls the host hands over numbers of the steps and learning rates.  On a GPU each copy to the card waits for
all that the card still has to do, and then the card waits for the host; hence they are arguments of kernels.
Owns: the call.  Does not own: a step (``step/train_step.py``), which steps may share a call (``loop.py``).
"""

from collections.abc import Sequence

import keras
import numpy as np
import tensorflow as tf

from trainer.data.pipeline import Batch
from trainer.training.frozen.phase import PhasedStep

_NUMBERS = 6  # Of a step, see ``StepStats``.


class Execution:
    """The compiled call of one step, or of up to ``most`` steps, by a loop inside the graph.

    A loop, because the graph then has one step whatever their number, and takes no longer to trace and to compile.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy, optimizer: keras.optimizers.Optimizer, step: PhasedStep,
        most: int = 1,
    ) -> None:  # fmt: skip
        """Bind the step, the optimizer whose learning rate is set before it, and the largest number of steps."""
        self._strategy = strategy
        self._optimizer = optimizer
        self._step = step
        self._most = most

    def train(self, batches: Sequence[Batch], first: int, rates: Sequence[float]) -> tf.Tensor:
        """Do one step for each batch.

        Args:
            batches: per-replica batches of ``DistributedInput``, ``most`` at most, all of one kind.
            first: number of the first step, from 0 over the whole job.
            rates: learning rate of each step.

        Returns:
            ``[n, 6]`` float32 on the device; row ``i`` is that of step ``i`` for ``StepStats.of``, and ``n`` may be
            larger than the number of steps.
        """
        # The last batch again fills the places of missing ones, which are not looked at: one graph for every number.
        missing = self._most - len(batches)
        filled = (*batches, *[batches[-1]] * missing)
        with tf.device("CPU:0"):  # Otherwise a GPU, eagerly: three transfers, each of which waits for all of its work.
            # Arrays, because TensorFlow keeps the tensors of all Python numbers for good, 0.65 KB each, in case the
            # same number comes again (TFE_TensorHandleCache, github.com/tensorflow/tensorflow/issues/68196).
            ends = tf.constant(np.array([first, first + self._most], np.int64))
            all_rates = tf.constant([*rates, *[0.0] * missing], tf.float32)
            count = tf.constant(len(batches))
        compilation = self._step.of(batches[0]).compilation
        # All of it on one device: with a part of the loop on the host, each step would wait for the one before.
        with tf.device(self._strategy.extended.worker_devices[0]):
            return compilation.attempt(lambda failed: self._call(filled, ends, all_rates, count, failed))

    @tf.function(autograph=False)
    def _call(
        self, batches: tuple[Batch, ...], ends: tf.Tensor, rates: tf.Tensor, count: tf.Tensor, failed: bool
    ) -> tf.Tensor:
        """Return what ``train`` does; ``failed`` is that of the step's compilation, whose change is traced anew."""
        # Once, here: in the loop they would come from the host in each step, and wait for the one before.
        steps, rates, count = *_made_on_device(ends, rates), tf.identity(count)
        if self._most == 1:
            return self._train(batches[0], steps[0], rates[0])[None]
        return self._loop(self._strategy.run(_stacked, (batches,)), steps, rates, count)

    def _loop(self, stacked: Batch, steps: tf.Tensor, rates: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
        def body(number: tf.Tensor, rows: tf.TensorArray) -> tuple[tf.Tensor, tf.TensorArray]:
            batch = self._strategy.run(_taken, (stacked, number))
            return number + 1, rows.write(number, self._train(batch, steps[number], rates[number]))

        rows = tf.TensorArray(tf.float32, self._most, element_shape=[_NUMBERS])
        # One at a time: what a step writes, the next one reads.
        _, rows = tf.while_loop(lambda number, _: number < count, body, (0, rows), parallel_iterations=1)
        return rows.stack()

    def _train(self, batch: Batch, step: tf.Tensor, rate: tf.Tensor) -> tf.Tensor:
        self._optimizer.learning_rate = rate
        return self._step.train(batch, step)


def _made_on_device(ends: tf.Tensor, rates: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the steps between two ends, and the rates, which are in the host's memory, without a copy to the device.

    A range's start, limit and delta are arguments of the kernel that makes it on a GPU.  One that starts at a rate and
    ends half a delta behind it holds the rate alone.
    """
    with tf.device("CPU:0"):
        first, stop = tf.unstack(ends)
        one = tf.constant(1, tf.int64)
        single = [(rate, 2.0 * rate + 1.0, 2.0 * rate + 2.0) for rate in tf.unstack(rates)]
    steps = tf.raw_ops.Range(start=first, limit=stop, delta=one)
    made = [tf.raw_ops.Range(start=start, limit=limit, delta=delta) for start, limit, delta in single]
    return steps, tf.concat(made, axis=0)


def _stacked(batches: tuple[Batch, ...]) -> Batch:
    """Return the batches of one replica as one, with a dimension in front of them.

    ``tf.stack`` knows no pixels (uint8) on a GPU: they would go to the host and come back.
    """
    return {name: tf.concat([batch[name][None] for batch in batches], axis=0) for name in batches[0]}


def _taken(stacked: Batch, number: tf.Tensor) -> Batch:
    return {name: values[number] for name, values in stacked.items()}
