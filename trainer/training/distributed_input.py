"""Batches on the devices of a strategy: the pipeline's elements, one for each local replica."""

import functools
import logging
from collections.abc import Generator, Iterable

import tensorflow as tf

from trainer.core.config import DataConfig
from trainer.data import pipeline
from trainer.data.bad_images import BadImages
from trainer.data.image_source import ImageSource
from trainer.data.manifest import Split
from trainer.data.order import Order
from trainer.data.reorder_buffer import ServiceHealth
from trainer.data.service_client import DataServiceClient
from trainer.distributed.strategy import Runtime

log = logging.getLogger(__name__)

Batches = Generator[pipeline.Batch, None, None]  # To be closed by who does not come to its end.


class DistributedInput:
    """Makes distributed iterators over a split, from any step."""

    def __init__(self, runtime: Runtime, config: DataConfig, seed: int, skipped: BadImages) -> None:
        """Bind the devices, the data settings, the job's seed and the list of bad images."""
        self._strategy, self._config, self._seed, self._skipped = runtime.strategy, config, seed, skipped
        self._images: dict[Split, ImageSource] = {}
        self._sender = ServiceHealth()
        self._share = pipeline.ReplicaShare(runtime.num_devices, runtime.first_device, runtime.local_devices)

    def training(self, split: Split, start_step: int, stop_step: int) -> Batches:
        """Return shuffled, augmented batches of steps ``[start_step, stop_step)``."""
        order = Order(len(split), self._config.batch_size, self._seed)
        return self._distribute(split, order, self._config.augment, start_step, stop_step)

    def validation(self, split: Split) -> Batches:
        """Return every image once, in the manifest's order, only resized."""
        order = Order(len(split), self._config.batch_size, shuffle=False)
        return self._distribute(split, order, "none", 0, order.steps_per_pass)

    def check_bad_images(self) -> None:
        """Warn of the bad images met since the last call.

        Raises:
            RequestError: if too many are bad.
        """
        for line in self._skipped.check_limit():
            log.warning("%s", line)

    def _distribute(self, split: Split, order: Order, augmentation: str, start_step: int, stop_step: int) -> Batches:
        if split not in self._images:  # Kept, because a cache lives in it.
            self._images[split] = ImageSource(split, self._config)
        images, share = self._images[split], self._share
        remote = self._remote(split, order, stop_step * share.local) if self._config.data_service else None
        dataset = pipeline.batches(
            split,
            images,
            order,
            self._skipped,
            augmentation=augmentation,
            share=share,
            start_step=start_step,
            stop_step=stop_step,
            remote=remote,
        )
        return _told(images, remote, self._strategy.distribute_datasets_from_function(lambda _: dataset))

    def _remote(self, split: Split, order: Order, stop: int) -> DataServiceClient:
        """Return what decodes in place of this process, up to an element."""
        share, count = self._share, order.batch_size // self._share.replicas
        slots = functools.partial(share.slots, order)
        return DataServiceClient(
            self._config.data_service, self._sender, split, self._images[split], slots, count, stop
        )


def _told(images: ImageSource, remote: DataServiceClient | None, batches: Iterable[pipeline.Batch]) -> Batches:
    """Yield the batches; if reading failed, raise what it failed with and not what TensorFlow makes of it."""
    try:
        yield from batches
    except tf.errors.OpError as error:
        if images.failure is None:
            raise
        raise images.failure from error
    finally:
        if remote is not None:
            remote.close()
