"""Batches of tensors for the replicas of one process, from any step on.

Order of stages, and why: the step number decides the examples (order), so nothing before it needs state; files are
read and decoded a replica's batch at a time, several batches at once, in fixed order (``deterministic=True``);
host-side augmentation follows in the same call; prefetch comes last, to overlap all of it with the device.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from trainer.data import augment
from trainer.data.images import Images
from trainer.data.manifest import Split
from trainer.data.order import Order
from trainer.data.packed import Array
from trainer.data.pixels import Loaded
from trainer.data.reading import WINDOW
from trainer.data.remote import Remote
from trainer.data.skipped import Skipped

Batch = dict[str, tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Share:
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
        """Return what stands in the slots of an element, see ``Order.slots``: those of one replica in one step."""
        step, replica = element // self.local, self.first + element % self.local
        count = order.batch_size // self.replicas
        return order.slots(step, replica * count, count)


def batches(
    split: Split,
    images: Images,
    order: Order,
    skipped: Skipped,
    *,
    augmentation: str,
    share: Share,
    start_step: int,
    stop_step: int,
    remote: Remote | None = None,
) -> tf.data.Dataset:
    """Return the batches of steps ``[start_step, stop_step)``, one element for each local replica in turn.

    Elements hold, for the replica's ``b = batch_size / replicas`` slots: ``image [b, S, S, 3] uint8``,
    ``label [b] int32``, ``weight [b] float32`` (1, or 0 for padding and images that could not be decoded),
    ``index [b] int64`` (example number in the split); with an augmentation also ``draws [b, DRAWS] float32``, and
    with ``notebook`` ``affine [b, 2, 3] float32`` for ``augment.warp``.

    Args:
        split: what there is.
        images: its pixels, S a side.
        order: the global stream; its batch_size must divide by ``share.replicas``.
        skipped: told about images that cannot be decoded.
        augmentation: ``forensic`` works here, on the host; ``notebook`` on the device, later; ``none`` nowhere.
        share: this process's replicas.
        start_step: first step, counted over the whole job.
        stop_step: step after the last.
        remote: decodes in place of this process, if given.
    """
    per_replica, image_size = order.batch_size // share.replicas, images.size
    steps_ahead = WINDOW // 2 // order.batch_size
    labels = tf.constant(split.labels, tf.int32)
    looks_ahead = images.looks_ahead and remote is None

    def place(element: tf.Tensor) -> Batch:
        pass_number, index, real = share.slots(order, element)
        batch = {
            "number": element,
            "index": index,
            "label": tf.gather(labels, index),
            "weight": tf.cast(real, tf.float32),
        }
        if augmentation != "none":
            draws = tf.numpy_function(draw, [pass_number, index], tf.float32)
            batch["draws"] = tf.ensure_shape(draws, [per_replica, augment.DRAWS])
        if augmentation == "notebook":
            affine = tf.numpy_function(find_affine, [batch["draws"]], tf.float32)
            batch["affine"] = tf.ensure_shape(affine, [per_replica, 2, 3])
        if looks_ahead:
            batch["ahead"] = share.slots(order, element + steps_ahead * share.local)[1]
        return batch

    def draw(pass_number: Array, index: Array) -> Array:
        return augment.draw(order.seed, int(pass_number), index)

    def find_affine(draws: Array) -> Array:
        return augment.notebook_affine(draws, image_size)

    def load(batch: Batch) -> Batch:
        asked = [batch.pop("number"), batch["index"], batch["weight"], *([batch.pop("ahead")] if looks_ahead else [])]
        # Unlike py_function, numpy_function takes over the pixels without a copy.
        image, good = tf.numpy_function(read, asked, [tf.uint8, tf.float32])
        image = tf.ensure_shape(image, [per_replica, image_size, image_size, 3])
        if augmentation == "forensic":
            image = augment.forensic_batch(image, batch["draws"])
        return {**batch, "image": image, "weight": tf.ensure_shape(good, [per_replica])}

    def read(number: Array, index: Array, weight: Array, *ahead: Array) -> tuple[Array, Array]:
        for later in ahead:
            images.ahead(later)
        load = functools.partial(remote.load, int(number)) if remote else images.load
        return _read(split, load, skipped, index, weight)

    elements = tf.data.Dataset.range(start_step * share.local, stop_step * share.local)
    # No AutoGraph: there is no Python control flow on tensors here, and converting costs seconds at every start.
    plain = tf.autograph.experimental.do_not_convert
    placed = elements.map(plain(place), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    loaded = placed.map(plain(load), num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    return loaded.prefetch(2 * share.local).with_options(_options())


def _read(
    split: Split, load: Callable[[Array], Loaded], skipped: Skipped, index: Array, weight: Array
) -> tuple[Array, Array]:
    """Read the real slots of a batch; padding stays zeros, and so does what cannot be decoded."""
    real = np.flatnonzero(weight)
    loaded = load(index[real])
    good = weight.copy()
    for position, reason in loaded.errors.items():
        slot = real[position]
        good[slot] = 0.0
        skipped.report(split.name, len(split), split.names[int(index[slot])], reason)
    images = loaded.images
    if len(real) < len(index):  # Padding is always at the end of the last batch.
        images = np.pad(images, [[0, len(index) - len(real)], [0, 0], [0, 0], [0, 0]])
    return images, good


def _options() -> tf.data.Options:
    options = tf.data.Options()
    options.deterministic = True
    # Every process asks for its own slots, so TensorFlow must not divide the elements again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
