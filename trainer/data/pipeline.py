"""Batches of tensors for the replicas of one process, from any step on.

The step number determines the examples (``order.py``), so the pipeline has no state.  One call reads, decodes and
augments a replica's batch; as many calls as there are cores run at once, and their results leave in fixed order
(``deterministic=True``).  Prefetching comes last, to overlap everything with the device.
Does not own: pixels (``image_source.py``), what happens to bad images (``bad_images.py``).
"""

import dataclasses

import joblib
import numpy as np
import tensorflow as tf

from trainer.data import augment
from trainer.data.bad_images import BadImages
from trainer.data.image_source import ImageSource
from trainer.data.manifest import Split
from trainer.data.order import Order
from trainer.data.readers import WINDOW
from trainer.data.service_client import DataServiceClient
from trainer.data.tfrecord import Array

Batch = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class ReplicaShare:
    """Which part of each global batch this process computes.

    Attributes:
        replicas: replicas over all processes.
        first: number of this process's first replica.
        local: replicas of this process.
    """

    replicas: int = 1
    first: int = 0
    local: int = 1

    def slots(self, order: Order, element: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return what the slots of an element hold, see ``Order.slots``: those of one replica in one step."""
        step, replica = element // self.local, self.first + element % self.local
        count = order.batch_size // self.replicas
        return order.slots(step, replica * count, count)


def batches(
    split: Split,
    images: ImageSource,
    order: Order,
    bad_images: BadImages,
    *,
    augmentation: str,
    share: ReplicaShare,
    start_step: int,
    stop_step: int,
    remote: DataServiceClient | None = None,
) -> tf.data.Dataset:
    """Return the batches of steps ``[start_step, stop_step)``, one element for each local replica in turn.

    Elements hold, for the replica's ``b = batch_size / replicas`` slots: ``image [b, S, S, 3] uint8``,
    ``label [b] int32``, ``weight [b] float32`` (1, or 0 for padding and images that could not be decoded),
    ``index [b] int64`` (example number in the split); with an augmentation also ``draws [b, DRAWS] float32``, and
    with ``notebook`` ``affine [b, 2, 3] float32`` for ``augment.warp``.

    Args:
        split: names and labels.
        images: its pixels, S per side.
        order: the global stream; its batch_size must be a multiple of ``share.replicas``.
        bad_images: records images that cannot be decoded.
        augmentation: ``forensic`` works here, on the host; ``notebook`` on the device, later; ``none`` nowhere.
        share: this process's replicas.
        start_step: first step, counted over the whole job.
        stop_step: step after the last.
        remote: decodes instead of this process, if given.
    """
    labels = tf.constant(split.labels, tf.int32)  # Outside of the graph, which must not grow with the set.
    source = _Source(split, labels, images, order, bad_images, augmentation, share, remote)
    elements = tf.data.Dataset.range(start_step * share.local, stop_step * share.local)
    # No AutoGraph: there is no Python control flow on tensors here, and conversion takes seconds at every start.
    make_element = tf.autograph.experimental.do_not_convert(source.element)
    loaded = elements.map(make_element, num_parallel_calls=joblib.cpu_count(), deterministic=True)
    return loaded.prefetch(2 * share.local).with_options(_options())


@dataclasses.dataclass(frozen=True)
class _Source:
    """Makes the elements of ``batches``: what their slots hold, and the pixels."""

    split: Split
    labels: tf.Tensor
    images: ImageSource
    order: Order
    bad_images: BadImages
    augmentation: str
    share: ReplicaShare
    remote: DataServiceClient | None

    @property
    def _slots(self) -> int:
        return self.order.batch_size // self.share.replicas

    @property
    def _looks_ahead(self) -> bool:
        return self.images.looks_ahead and self.remote is None

    def element(self, number: tf.Tensor) -> Batch:
        """Return an element, which is a function of its number."""
        # First everything that costs nothing: which examples, their labels, and their draws for augmentation.
        batch = self._place(number)
        # Then the pixels; the weight of an image that cannot be decoded becomes 0.
        image, good = self._load(number, batch)
        return {**batch, "image": image, "weight": good}

    def _place(self, number: tf.Tensor) -> Batch:
        """Return everything of an element except its pixels."""
        pass_number, index, real = self.share.slots(self.order, number)
        batch = {
            "index": index,
            "label": tf.gather(self.labels, index),
            "weight": tf.cast(real, tf.float32),
        }
        if self.augmentation != "none":
            draws = tf.numpy_function(self._draw, [pass_number, index], tf.float32)
            batch["draws"] = tf.ensure_shape(draws, [self._slots, augment.DRAWS])
        if self.augmentation == "notebook":
            affine = tf.numpy_function(self._affine, [batch["draws"]], tf.float32)
            batch["affine"] = tf.ensure_shape(affine, [self._slots, 2, 3])
        return batch

    def _draw(self, pass_number: Array, index: Array) -> Array:
        return augment.draw(self.order.seed, int(pass_number), index)

    def _affine(self, draws: Array) -> Array:
        return augment.notebook_affine(draws, self.images.size)

    def _load(self, number: tf.Tensor, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the pixels, and the weights with 0 for bad images."""
        arguments = [number, batch["index"], batch["weight"]]
        if self._looks_ahead:  # The examples of half a window later, so that their blocks are requested now.
            steps = WINDOW // 2 // self.order.batch_size
            arguments.append(self.share.slots(self.order, number + steps * self.share.local)[1])
        # Unlike py_function, numpy_function takes over the pixels without a copy.
        image, good = tf.numpy_function(self._read, arguments, [tf.uint8, tf.float32])
        image = tf.ensure_shape(image, [self._slots, self.images.size, self.images.size, 3])
        if self.augmentation == "forensic":
            image = augment.forensic_batch(image, batch["draws"])
        return image, tf.ensure_shape(good, [self._slots])

    def _read(self, number: Array, index: Array, weight: Array, *ahead: Array) -> tuple[Array, Array]:
        """Read the real slots of an element; padding and bad images are zeros."""
        for later in ahead:
            self.images.prefetch(later)
        real = np.flatnonzero(weight)  # Padding is not read.
        examples = index[real]
        loaded = self.remote.load(int(number), examples) if self.remote else self.images.load(examples)
        # A bad image is reported, and its weight keeps it out of the loss and of every metric.
        good = weight.copy()
        for position, reason in loaded.errors.items():
            slot = real[position]
            good[slot] = 0.0
            self.bad_images.report(self.split.name, len(self.split), self.split.names[int(index[slot])], reason)
        images = loaded.images
        if len(real) < len(index):  # Padding always stands at the end of the last batch.
            images = np.pad(images, [[0, len(index) - len(real)], [0, 0], [0, 0], [0, 0]])
        return images, good


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # It would choose one call per core as well; docs/decisions.md gives its cost.
    # Every process requests its own slots, so TensorFlow must not divide the elements again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
