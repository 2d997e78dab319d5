"""Images of a training batch before and after augmentation, for people to look at."""

import dataclasses
from typing import Any

import tensorflow as tf

from trainer.core.config import DataConfig
from trainer.data import augment, input_rule, order, pipeline
from trainer.data.image_source import ImageSource
from trainer.data.manifest import Split
from trainer.data.pixels import Pixels

_DEFAULTS = augment.Settings()


@dataclasses.dataclass(frozen=True, eq=False)
class Preview:
    """Images ``[N, S, S, 3]`` in [0, 255], the same ones augmented, and the class of each.

    Where augmentation changes the class, the text names both; of a mixture it gives the share of the first one.
    """

    images: Pixels
    augmented: Pixels
    labels: list[str]


def of_batch(
    split: Split, data: DataConfig, seed: int, *,
    step: int, batch_size: int, count: int, settings: augment.Settings = _DEFAULTS,
) -> Preview:  # fmt: skip
    """Return the first images of the batch of ``step``, exactly as training gets them, without bad ones.

    Args:
        split: the training images.
        data: size and augmentation; its cache is not used.
        seed: of the job.
        step: number of the batch, counted from 0.
        batch_size: of the global batch.
        count: images at most.
        settings: what the augmentation follows besides its draws.

    Raises:
        StoppedEarly: if the storage does not answer.
    """
    stream = order.of_training(split, data.sampling, batch_size, seed)
    passes, index, real = stream.slots(tf.constant(step, tf.int64), 0, min(count, batch_size))
    chosen: Any = index.numpy()[real.numpy()]
    numbers = passes.numpy()[real.numpy()]
    images = ImageSource(split, data, cached=False, training=True)
    loaded = images.load(chosen, input_rule.draw(seed, numbers, chosen) if images.is_random else None)
    batch = pipeline.examples(split, images, data.augment, settings, seed=seed, passes=numbers, index=chosen)
    augmented = augment.to_pixels(augment.on_device(augment.load(data.augment, settings.config), batch))
    good = [position for position in range(len(chosen)) if position not in loaded.errors]
    labels = [_label(split, int(chosen[position]), batch, position) for position in good]
    return Preview(loaded.images[good], augmented[good], labels)


def _label(split: Split, example: int, batch: pipeline.Batch, position: int) -> str:
    """Return the class of an image, and what augmentation made of it."""
    before, now = split.class_names[split.labels[example]], split.class_names[int(batch["label"][position])]
    name = now if before == now else f"{before} as {now}"
    share = float(batch["target"][position, split.class_names.index(now)]) if "target" in batch else 1.0
    return name if share > 0.995 else f"{name} {share:.0%}"
