"""Batches on the devices of a strategy: the pipeline's elements, one for each local replica."""

from collections.abc import Iterable, Iterator

import tensorflow as tf

from trainer.config import DataConfig
from trainer.data import pipeline
from trainer.data.images import Images
from trainer.data.manifest import Split
from trainer.data.order import Order
from trainer.data.skipped import Skipped
from trainer.runtime import Runtime


class Feed:
    """Makes distributed iterators over a split, from any step."""

    def __init__(self, runtime: Runtime, config: DataConfig, seed: int, skipped: Skipped) -> None:
        """Bind the devices, the data settings, the job's seed and the list of bad images."""
        self._strategy, self._config, self._seed, self._skipped = runtime.strategy, config, seed, skipped
        self._images: dict[Split, Images] = {}
        self._share = pipeline.Share(runtime.num_devices, runtime.first_device, runtime.local_devices)

    def training(self, split: Split, start_step: int, stop_step: int) -> Iterator[pipeline.Batch]:
        """Return shuffled, augmented batches of steps ``[start_step, stop_step)``."""
        order = Order(len(split), self._config.batch_size, self._seed)
        return self._distribute(split, order, self._config.augment, start_step, stop_step)

    def validation(self, split: Split) -> Iterator[pipeline.Batch]:
        """Return every image once, in the manifest's order, only resized."""
        order = Order(len(split), self._config.batch_size, shuffle=False)
        return self._distribute(split, order, "none", 0, order.steps_per_pass)

    def _distribute(
        self, split: Split, order: Order, augmentation: str, start_step: int, stop_step: int
    ) -> Iterator[pipeline.Batch]:
        if split not in self._images:  # Kept, because a cache lives in it.
            self._images[split] = Images(split, self._config)
        dataset = pipeline.batches(
            split,
            self._images[split],
            order,
            self._skipped,
            augmentation=augmentation,
            share=self._share,
            start_step=start_step,
            stop_step=stop_step,
        )
        return _told(self._images[split], self._strategy.distribute_datasets_from_function(lambda _: dataset))


def _told(images: Images, batches: Iterable[pipeline.Batch]) -> Iterator[pipeline.Batch]:
    """Yield the batches; if reading failed, raise what it failed with and not what TensorFlow makes of it."""
    try:
        yield from batches
    except tf.errors.OpError as error:
        if images.failure is None:
            raise
        raise images.failure from error
