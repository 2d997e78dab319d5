"""Batches of tensors for the replicas of one process, starting at any step.

The step number determines the examples (``order.py``), so earlier steps leave no state.  A replica's batch is read,
decoded and augmented in one call; as many calls as there are cores run at once, and their results keep a fixed order
(``deterministic=True``).  Prefetch comes last, to overlap all of it with the device.
Owns: the elements and their order.  Does not own: reading (``image_source.py``), augmentations (``augmentations/``).
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
    """The part of each global batch that this process computes.

    Attributes:
        replicas: replicas over all processes.
        first: number of this process's first replica.
        local: replicas of this process.
    """

    replicas: int = 1
    first: int = 0
    local: int = 1

    def slots(self, order: Order, element: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return the slots of an element, those of one replica in one step; see ``Order.slots``."""
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
    """Return the batches of steps ``[start_step, stop_step)``: one element for each local replica in turn.

    Elements hold, for the replica's ``b = batch_size / replicas`` slots: ``image [b, S, S, 3] uint8``,
    ``label [b] int32``, ``weight [b] float32`` (1, or 0 for padding and images that could not be decoded),
    ``index [b] int64`` (example number in the split); with an augmentation also ``draws [b, DRAWS] float32``, and
    ``parameters [b, ...] float32`` if it has any (``augment.Augmentation``).

    Args:
        split: the images and labels.
        images: its pixels, S x S.
        order: the global order; its batch_size must be divisible by ``share.replicas``.
        bad_images: records images that cannot be decoded.
        augmentation: a choice of ``--augment``; its ``host`` runs here, its ``device`` later in the train step.
        share: this process's replicas.
        start_step: first step, counted over the whole job.
        stop_step: step after the last.
        remote: decodes instead of this process; None: decode here.
    """
    labels = tf.constant(split.labels, tf.int32)  # Outside the graph, which must not grow with the set.
    source = _Source(split, labels, images, order, bad_images, augment.load(augmentation), share, remote)
    elements = tf.data.Dataset.range(start_step * share.local, stop_step * share.local)
    # No AutoGraph: there is no Python control flow on tensors here, and conversion costs seconds at every start.
    make_element = tf.autograph.experimental.do_not_convert(source.element)
    loaded = elements.map(make_element, num_parallel_calls=joblib.cpu_count(), deterministic=True)
    return loaded.prefetch(2 * share.local).with_options(options())


@dataclasses.dataclass(frozen=True)
class _Source:
    """Makes the elements of ``batches``: labels and draws of the slots, and the pixels."""

    split: Split
    labels: tf.Tensor
    images: ImageSource
    order: Order
    bad_images: BadImages
    augmentation: augment.Augmentation
    share: ReplicaShare
    remote: DataServiceClient | None

    @property
    def _slots(self) -> int:
        return self.order.batch_size // self.share.replicas

    @property
    def _looks_ahead(self) -> bool:
        return self.images.looks_ahead and self.remote is None

    def element(self, number: tf.Tensor) -> Batch:
        """Return an element; its number determines it."""
        batch = self._place(number)
        # Then the pixels; the weight of an image that cannot be decoded becomes 0.
        image, good = self._load(number, batch)
        return {**batch, "image": image, "weight": good}

    def _place(self, number: tf.Tensor) -> Batch:
        """Return all of an element except its pixels."""
        pass_number, index, real = self.share.slots(self.order, number)
        batch = {
            "index": index,
            "label": tf.gather(self.labels, index),
            "weight": tf.cast(real, tf.float32),
        }
        if self.augmentation.is_random:
            draws = tf.numpy_function(self._draw, [pass_number, index], tf.float32)
            batch["draws"] = tf.ensure_shape(draws, [self._slots, augment.DRAWS])
        if self.augmentation.parameters is not None:
            # NumPy on the host, example by example: vectorised TensorFlow rounds differently in other batch sizes.
            parameters = tf.numpy_function(self._parameters, [batch["draws"]], tf.float32)
            shape = self.augmentation.parameter_shape(self.images.size)
            batch["parameters"] = tf.ensure_shape(parameters, [self._slots, *shape])
        return batch

    def _draw(self, pass_number: Array, index: Array) -> Array:
        return augment.draw(self.order.seed, int(pass_number), index)

    def _parameters(self, draws: Array) -> Array:
        assert self.augmentation.parameters is not None
        return self.augmentation.parameters(draws, self.images.size)

    def _load(self, number: tf.Tensor, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the pixels, and the weights, which are 0 for images without any."""
        arguments = [number, batch["index"], batch["weight"]]
        if self._looks_ahead:
            # Images of a later step, whose bytes are then fetched in large requests.
            steps = WINDOW // 2 // self.order.batch_size
            arguments.append(self.share.slots(self.order, number + steps * self.share.local)[1])
        # Unlike py_function, numpy_function takes the pixels over without a copy.
        image, good = tf.numpy_function(self._read, arguments, [tf.uint8, tf.float32])
        image = tf.ensure_shape(image, [self._slots, self.images.size, self.images.size, 3])
        if self.augmentation.host is not None:
            image = tf.ensure_shape(self.augmentation.host(image, batch["draws"]), image.shape)
        return image, tf.ensure_shape(good, [self._slots])

    def _read(self, number: Array, index: Array, weight: Array, *ahead: Array) -> tuple[Array, Array]:
        """Read the real slots of an element; padding and undecodable images are zeros."""
        for later in ahead:
            self.images.prefetch(later)
        real = np.flatnonzero(weight)
        examples = index[real]
        loaded = self.remote.load(int(number), examples) if self.remote else self.images.load(examples)
        # A bad image keeps its slot, so that the order does not shift, and counts for nothing.
        good = weight.copy()
        for position, reason in loaded.errors.items():
            slot = real[position]
            good[slot] = 0.0
            self.bad_images.report(self.split.name, len(self.split), self.split.names[int(index[slot])], reason)
        if self.bad_images.has_any(self.split.name):  # Some may decode again.
            names = [self.split.names[i] for i in index[good > 0.0].tolist()]
            self.bad_images.report_good(self.split.name, names)
        images = loaded.images
        if len(real) < len(index):  # Padding stands at the end of a pass's last batch.
            images = np.pad(images, [[0, len(index) - len(real)], [0, 0], [0, 0], [0, 0]])
        return images, good


def options() -> tf.data.Options:
    """Return how batches are made: in order, and by each process for itself."""
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = (
        False  # It would arrive at one call per core as well; for its cost see docs/decisions.md.
    )
    # Every process makes its own slots only, so TensorFlow must not divide the elements again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
