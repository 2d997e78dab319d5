"""Images of a training batch before and after augmentation, for people to look at."""

import dataclasses
from typing import Any

import tensorflow as tf

from trainer.core.config import DataConfig
from trainer.data import augment, input_rule
from trainer.data.image_source import ImageSource
from trainer.data.manifest import Split
from trainer.data.order import Order
from trainer.data.pixels import Pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Preview:
    """Images ``[N, S, S, 3]`` in [0, 255], the same ones augmented, and the class of each."""

    images: Pixels
    augmented: Pixels
    labels: list[str]


def of_batch(split: Split, data: DataConfig, seed: int, *, step: int, batch_size: int, count: int) -> Preview:
    """Return the first images of the batch of ``step``, exactly as training gets them, without bad ones.

    Args:
        split: the training images.
        data: size and augmentation; its cache is not used.
        seed: of the job.
        step: number of the batch, counted from 0.
        batch_size: of the global batch.
        count: images at most.

    Raises:
        StoppedEarly: if the storage does not answer.
    """
    order = Order(len(split), batch_size, seed)
    number, index, real = order.slots(tf.constant(step, tf.int64), 0, min(count, batch_size))
    chosen: Any = index.numpy()[real.numpy()]
    source = ImageSource(split, data, cached=False, training=True)
    loaded = source.load(chosen, input_rule.draw(seed, int(number), chosen) if source.is_random else None)
    augmented = augment.preview(data.augment, loaded.images, augment.draw(seed, int(number), chosen))
    good = [position for position in range(len(chosen)) if position not in loaded.errors]
    return Preview(loaded.images[good], augmented[good], [split.class_names[split.labels[i]] for i in chosen[good]])
