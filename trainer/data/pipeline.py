"""Batches of tensors for the replicas of one process, starting at any step.

The step number determines the examples (``order.py``), so earlier steps leave no state.  A replica's batch is read,
decoded and augmented in one call; as many calls as there are cores run at once, some more have ended or wait for a
core, and their results keep a fixed order (``deterministic=True``).  Prefetch comes last, to overlap all of it with the
device.
Owns: the elements and their order.  Does not own: reading (``image_source.py``), augmentations (``augmentations/``).
"""

import dataclasses
import functools
import os

import joblib
import numpy as np
import tensorflow as tf

from trainer.data import augment, input_rule
from trainer.data.bad_images import BadImages
from trainer.data.image_source import ImageSource
from trainer.data.manifest import Split
from trainer.data.order import Order
from trainer.data.pixels import DecodedBatch, aligned_copy, aligned_empty
from trainer.data.readers import WINDOW
from trainer.data.self_blending import validation
from trainer.data.service_client import DataServiceClient
from trainer.data.tfrecord import Array

Batch = dict[str, tf.Tensor]

_DEFAULTS = augment.Settings()


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
    settings: augment.Settings = _DEFAULTS,
    share: ReplicaShare,
    start_step: int,
    stop_step: int,
    remote: DataServiceClient | None = None,
    calls: int = 0,
) -> tf.data.Dataset:
    """Return the batches of steps ``[start_step, stop_step)``: one element for each local replica in turn.

    Elements hold, for the replica's ``b = batch_size / replicas`` slots: ``image [b, S, S, 3] uint8`` (with several
    views ``[b, V, S, S, 3]``),
    ``label [b] int32``, ``weight [b] float32`` (1, or 0 for padding and images that could not be decoded),
    ``index [b] int64`` (example number in the split); with an augmentation also ``draws [b, DRAWS] float32``, and
    ``parameters [b, ...] float32`` if it has any; those of the second in a sequence are ``draws_1``, and so on
    (``augment.Augmentation``).  If images are mixed, ``target [b, C] float32`` is the share of each class in them.
    The label of an image that became a forgery is that of forgeries.

    Args:
        split: the images and labels.
        images: its pixels, S x S; if they are random crops, the pass and the example decide their places.
        order: the global order; its batch_size must be divisible by ``share.replicas``.
        bad_images: records images that cannot be decoded.
        augmentation: value of ``--augment``; what runs on the host runs here, the rest later in the train step.
        settings: what it follows besides its draws.
        share: this process's replicas.
        start_step: first step, counted over the whole job.
        stop_step: step after the last.
        remote: decodes instead of this process; None: decode here.
        calls: elements that are begun and not yet taken; 0: as many as keep all cores busy.
    """
    labels = tf.constant(split.labels, tf.int32)  # Outside the graph, which must not grow with the set.
    sequence = augment.load(augmentation, settings.config)
    source = _Source(split, labels, images, order, bad_images, sequence, settings.positive, share, remote)
    elements = tf.data.Dataset.range(start_step * share.local, stop_step * share.local)
    # No AutoGraph: there is no Python control flow on tensors here, and conversion costs seconds at every start.
    make_element = tf.autograph.experimental.do_not_convert(source.element)
    loaded = elements.map(make_element, num_parallel_calls=calls or _calls(joblib.cpu_count()), deterministic=True)
    return loaded.prefetch(2 * share.local).with_options(options())


def _calls(cores: int) -> int:
    """Return how many elements to begin.

    They are taken in order, so those that are ready wait for the slowest before them, and with one call a core their
    cores would wait too.
    """
    return cores + (cores + 1) // 2


def examples(
    split: Split, images: ImageSource, augmentation: str, settings: augment.Settings, *,
    seed: int, passes: Array, index: Array,
) -> Batch:  # fmt: skip
    """Return examples ``index [N]`` of passes ``[N]`` as they are in ``batches``, for people to look at."""
    order = Order(len(split), len(index), seed)
    sequence = augment.load(augmentation, settings.config)
    nowhere = BadImages(os.devnull, 1.0, write=False)
    labels = tf.constant(split.labels, tf.int32)
    source = _Source(split, labels, images, order, nowhere, sequence, settings.positive, ReplicaShare(), None)
    return source.examples(tf.constant(passes, tf.int64), tf.constant(index), tf.ones([len(index)]))


@dataclasses.dataclass(frozen=True)
class _Source:
    """Makes the elements of ``batches``: labels and draws of the slots, and the pixels."""

    split: Split
    labels: tf.Tensor
    images: ImageSource
    order: Order
    bad_images: BadImages
    sequence: augment.Sequence
    positive: int
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
        passes, index, real = self.share.slots(self.order, number)
        batch = {"index": index, "label": tf.gather(self.labels, index), "weight": tf.cast(real, tf.float32)}
        # The pixels; the weight of an image that cannot be decoded becomes 0.
        image, good = self._load(number, passes, batch)
        return self._augmented({**batch, "image": image, "weight": good}, passes, self.sequence)

    def examples(self, passes: tf.Tensor, index: tf.Tensor, weight: tf.Tensor) -> Batch:
        """Return examples outside the order, as they would be in an element; those of weight 0 are not read."""
        return self._apart(passes, index, weight, self.sequence)

    def _apart(self, passes: tf.Tensor, index: tf.Tensor, weight: tf.Tensor, sequence: augment.Sequence) -> Batch:
        """Return examples after the first augmentations."""
        image, good = tf.numpy_function(self._read_here, [passes, index, weight], [tf.uint8, tf.float32])
        batch = {"index": index, "label": tf.gather(self.labels, index)}
        batch |= {"image": tf.ensure_shape(image, self._shape), "weight": tf.ensure_shape(good, [self._slots])}
        return self._augmented(batch, passes, sequence)

    @property
    def _shape(self) -> list[int]:
        return [self._slots, *self.images.rule.shape]

    def _augmented(self, batch: Batch, passes: tf.Tensor, sequence: augment.Sequence) -> Batch:
        """Return a batch after what augmentations do on the host, and with what their part on the device needs."""
        if any(each.mix for each in self.sequence):
            batch["target"] = tf.one_hot(batch["label"], len(self.split.class_names))
        for each in sequence:
            draws = tf.numpy_function(functools.partial(self._draw, each), [passes, batch["index"]], tf.float32)
            batch[each.draws_key] = tf.ensure_shape(draws, [self._slots, each.draws])
            batch = self._applied(each, batch, passes)
        return batch

    def _applied(self, each: augment.Augmentation, batch: Batch, passes: tf.Tensor) -> Batch:
        """Return a batch after one augmentation."""
        draws = batch[each.draws_key]
        if each.forge is not None:
            batch = self._forged(each, batch)
        if each.host is not None:
            batch = {**batch, "image": tf.ensure_shape(each.host(batch["image"], draws), self._shape)}
        if each.mix is not None:
            batch = self._mixed(each, batch, passes)
        if each.parameters is not None:
            # NumPy on the host, example by example: vectorised TensorFlow rounds differently in other batch sizes.
            make = functools.partial(self._parameters, each)
            shape = [self._slots, *each.parameter_shape(self.images.size)]
            batch[each.parameters_key] = tf.ensure_shape(tf.numpy_function(make, [draws], tf.float32), shape)
        return batch

    def _forged(self, each: augment.Augmentation, batch: Batch) -> Batch:
        """Return a batch in which some images of the negative class are forgeries, and labelled so."""
        arguments = [batch[name] for name in ("image", "label", "weight", each.draws_key)]
        image, label = tf.numpy_function(functools.partial(self._forge, each), arguments, [tf.uint8, tf.int32])
        image, label = tf.ensure_shape(image, self._shape), tf.ensure_shape(label, [self._slots])
        if "target" not in batch:
            return {**batch, "image": image, "label": label}
        changed = tf.not_equal(label, batch["label"])[:, None]
        target = tf.where(changed, tf.one_hot(label, len(self.split.class_names)), batch["target"])
        return {**batch, "image": image, "label": label, "target": target}

    def _mixed(self, each: augment.Augmentation, batch: Batch, passes: tf.Tensor) -> Batch:
        """Return a batch whose images are mixed with others, which have the same augmentations behind them."""
        arguments = [batch["index"], batch[each.draws_key]]
        index = tf.ensure_shape(tf.numpy_function(self._partners, arguments, tf.int64), [self._slots])
        before = tuple(other for other in self.sequence[: each.position] if other.host or other.mix or other.forge)
        others = self._apart(passes, index, batch["weight"], before)
        # An image whose partner cannot be decoded is mixed with itself, which changes nothing.
        has_other = others["weight"] > 0.0
        image = tf.where(has_other[:, None, None, None], others["image"], batch["image"])
        target = tf.where(has_other[:, None], others["target"], batch["target"])
        arguments = [batch["image"], image, batch[each.draws_key]]
        image, share = tf.numpy_function(each.mix, arguments, [tf.uint8, tf.float32])
        share = tf.ensure_shape(share, [self._slots])[:, None]
        target = share * batch["target"] + (1.0 - share) * target
        return {**batch, "image": tf.ensure_shape(image, self._shape), "target": target}

    def _draw(self, each: augment.Augmentation, passes: Array, index: Array) -> Array:
        return augment.draw(self.order.seed, passes, index, stream=each.position, count=each.draws)

    def _parameters(self, each: augment.Augmentation, draws: Array) -> Array:
        assert each.parameters is not None
        return each.parameters(draws, self.images.size)

    def _partners(self, index: Array, draws: Array) -> Array:
        return augment.partners(index, draws, len(self.split))

    def _forge(
        self, each: augment.Augmentation, images: Array, labels: Array, weights: Array, draws: Array
    ) -> tuple[Array, Array]:
        assert each.is_forged is not None
        assert each.forge is not None
        assert self.positive >= 0
        chosen = np.flatnonzero(each.is_forged(draws) & (labels != self.positive) & (weights > 0.0))
        images, labels = aligned_copy(images), labels.copy()
        for slot in chosen.tolist():
            images[slot] = each.forge(images[slot], draws[slot])
        labels[chosen] = self.positive
        return images, labels

    def _load(self, number: tf.Tensor, passes: tf.Tensor, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the pixels, and the weights, which are 0 for images without any."""
        arguments = [number, passes, batch["index"], batch["weight"]]
        if self._looks_ahead:
            # Images of a later step, whose bytes are then fetched in large requests.
            steps = WINDOW // 2 // self.order.batch_size
            arguments.append(self.share.slots(self.order, number + steps * self.share.local)[1])
        # Unlike py_function, numpy_function takes the pixels over without a copy.
        image, good = tf.numpy_function(self._read, arguments, [tf.uint8, tf.float32])
        return tf.ensure_shape(image, self._shape), tf.ensure_shape(good, [self._slots])

    def _read_here(self, passes: Array, index: Array, weight: Array) -> tuple[Array, Array]:
        """Read examples of nonzero weight in this process, whose data service knows the order's only."""
        real = np.flatnonzero(weight)
        return self._checked(self._decode(passes[real], index[real]), index, weight, real)

    def _read(self, number: Array, passes: Array, index: Array, weight: Array, *ahead: Array) -> tuple[Array, Array]:
        """Read the real slots of an element; padding and undecodable images are zeros."""
        for later in ahead:
            self.images.prefetch(later)
        real = np.flatnonzero(weight)
        examples = index[real]
        if self.remote:
            loaded = validation.blended(self.split, examples, self.remote.load(int(number), examples))
        else:
            loaded = self._decode(passes[real], examples)
        return self._checked(loaded, index, weight, real)

    def _checked(self, loaded: DecodedBatch, index: Array, weight: Array, real: Array) -> tuple[Array, Array]:
        """Return the pixels of all slots from those of the real ones, and the weights; report what is bad."""
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
        if len(real) < len(index):
            images = aligned_empty((len(index), *images.shape[1:]))
            images[real] = loaded.images
            images[np.flatnonzero(weight == 0.0)] = 0
        return images, good

    def _decode(self, passes: Array, examples: Array) -> DecodedBatch:
        draws = input_rule.draw(self.order.seed, passes, examples) if self.images.is_random else None
        return self.images.load(examples, draws)


def options() -> tf.data.Options:
    """Return how batches are made: in order, and by each process for itself."""
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False  # For its cost see docs/decisions.md.
    # Every process makes its own slots only, so TensorFlow must not divide the elements again.
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return options
