"""Batches from the host's memory to the devices of a strategy, while these compute.

A copy to a GPU waits for all work that the card has been given before it (``CopyCPUTensorToGPU`` in TensorFlow's
gpu_util.cc), and so does each element that TensorFlow's own iterators on a GPU ask for.  With several steps in one call
they arrive between two calls, when the card has nothing to do.  Here the copies for the next call are ordered together,
before the steps of this one.
"""

import concurrent.futures
import itertools
import threading
from collections.abc import Iterator

import tensorflow as tf

from trainer.data.pipeline import Batch


class Transfers:
    """Brings batches to the devices in groups: all of the next call of the graph while this one is computed."""

    def __init__(self, strategy: tf.distribute.Strategy, local_devices: int, batches: int) -> None:
        """Bind the strategy, its replicas in this process, and the batches of a group."""
        self._strategy = strategy
        self._local_devices = local_devices
        self._batches = batches
        # The copies are part of a graph, whose executor orders all of them before it waits for one.
        self._on_devices = tf.function(self._copied, autograph=False)

    def batches(self, elements: tf.data.Dataset) -> Iterator[Batch]:
        """Yield batches on the devices; the host has read the next group before the first batch of one is yielded.

        Args:
            elements: one for each replica of this process in turn, without integers of 32 bits, which TensorFlow
                leaves on the host.
        """
        with tf.device("CPU:0"):
            iterator = iter(elements)
        with concurrent.futures.ThreadPoolExecutor(1, "transfers") as pool:
            coming = self._begin(pool, iterator)
            while coming is not None:
                group = coming.result()
                coming = self._begin(pool, iterator)
                yield from group

    def _begin(
        self, pool: concurrent.futures.ThreadPoolExecutor, iterator: Iterator[Batch]
    ) -> "concurrent.futures.Future[list[Batch]] | None":
        """Read a group and begin to copy it; None at the end.  Errors of reading are raised here."""
        count = self._local_devices
        read = list(itertools.islice(iterator, self._batches * count))
        group = [self._per_replica(read[start : start + count]) for start in range(0, len(read), count)]
        if not group:
            return None
        begun = threading.Event()
        coming = pool.submit(self._copy, group, begun)
        begun.wait()  # Otherwise the steps of this call may all be ordered before.
        return coming

    def _copy(self, group: list[Batch], begun: threading.Event) -> list[Batch]:
        begun.set()
        copied: list[Batch] = self._on_devices(group)
        return copied

    def _per_replica(self, elements: list[Batch]) -> Batch:
        """Return the elements of the local replicas as one batch of the strategy, still in the host's memory."""
        if self._local_devices == 1:
            return elements[0]
        remaining = iter(elements)  # The strategy asks for its local replicas in order.
        batch: Batch = self._strategy.experimental_distribute_values_from_function(lambda _: next(remaining))
        return batch

    def _copied(self, group: list[Batch]) -> list[Batch]:
        copied: list[Batch] = self._strategy.run(_on_this_device, (group,))
        return copied


def _on_this_device(group: list[Batch]) -> list[Batch]:
    return [{name: tf.identity(value) for name, value in batch.items()} for batch in group]
