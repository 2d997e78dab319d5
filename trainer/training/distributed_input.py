"""Batches on the devices of a strategy, fetched ahead: the pipeline's elements, one for each local replica."""

import functools
import logging
from collections.abc import Callable, Generator, Iterable

import tensorflow as tf

from trainer.core.config import DataConfig
from trainer.core.config.registries import CROP
from trainer.core.errors import StoppedEarly
from trainer.data import augment, interruptible, pipeline
from trainer.data import order as order_lib
from trainer.data.bad_images import BadImages
from trainer.data.image_source import ImageSource
from trainer.data.manifest import Split
from trainer.data.order import Order
from trainer.data.reorder_buffer import ServiceHealth
from trainer.data.service_client import DataServiceClient
from trainer.distributed import consistency
from trainer.distributed.process_group import SingleProcess
from trainer.distributed.strategy import Runtime
from trainer.training.transfers import Transfers

log = logging.getLogger(__name__)

Batches = Generator[pipeline.Batch, None, None]  # Close it if you stop early.


class InputDown(StoppedEarly):
    """The next batch does not come: the storage is away, or a read hangs in a job that is to stop.

    It is raised between two steps, so the state is that of the last finished one.
    """


class DistributedInput:
    """Makes distributed iterators over the splits of a job, from any step, and watches the share of bad images."""

    def __init__(
        self, runtime: Runtime, config: DataConfig, seed: int, bad_images: BadImages, group: SingleProcess, *,
        train: Split, validation: Split, augmentation: augment.Settings, ahead: int = 1,
    ) -> None:  # fmt: skip
        """Bind the devices, the settings, the job's seed, its bad images, all processes and the splits.

        ``ahead`` is the number of batches that lie on the devices before they are needed.
        """
        self._augmentation = augmentation
        self._strategy = runtime.strategy
        self._config = config
        self._seed = seed
        self._bad_images = bad_images
        self._group = group
        self.train_split = train
        self.validation_split = validation
        self._images: dict[tuple[Split, bool], ImageSource] = {}
        self._health = ServiceHealth()
        self.share = pipeline.ReplicaShare(runtime.num_devices, runtime.first_device, runtime.local_devices)
        # One for all passes, because its graphs are traced once.
        has_transfers = runtime.device_kind == "GPU" or ahead > 1
        self._transfers = Transfers(runtime.strategy, runtime.local_devices, ahead) if has_transfers else None

    @property
    def train_order(self) -> Order:
        """The order of the training images."""
        config = self._config
        return order_lib.of_training(self.train_split, config.sampling, config.batch_size, self._seed)

    @property
    def validation_order(self) -> Order:
        """Every validation image once, in the manifest's order."""
        return Order(len(self.validation_split), self._config.batch_size, shuffle=False)

    def training(self, start_step: int, stop_step: int) -> Batches:
        """Return shuffled, augmented training batches of steps ``[start_step, stop_step)``."""
        return self._distribute(
            self.train_split, self.train_order, start_step, stop_step, augmentation=self._config.augment, training=True
        )

    def validation(self) -> Batches:
        """Return every validation image once, in the manifest's order, as the views that are averaged."""
        return self.plain(self.validation_split, self.validation_order, 0)

    def plain(self, split: Split, order: Order, start_step: int) -> Batches:
        """Return the images of one pass in an order from a step on, as validation sees them."""
        return self._distribute(split, order, start_step, order.steps_per_pass, augmentation="none", training=False)

    def on_devices(self, elements: tf.data.Dataset) -> Iterable[pipeline.Batch]:
        """Return the elements that this process has made for its replicas as batches on their devices.

        They are brought there before they are asked for, as many as ``ahead``.
        """
        # A GPU's function takes integers of 32 bits from the host.  Those of a batch that is on the card already would
        # come back from it, after all work that the card still has to do.
        wide = elements.map(tf.autograph.experimental.do_not_convert(_with_wide_labels)).with_options(
            elements.options()
        )
        if self._transfers is not None:
            return self._transfers.batches(wide)
        batches: Iterable[pipeline.Batch] = self._strategy.distribute_datasets_from_function(lambda _: wide)
        return batches

    def check_bad_images(self, *, merge: bool = False) -> None:
        """Warn of the bad images found since the last call.

        Args:
            merge: whether to exchange them with the other processes first, which must be at the same point.

        Raises:
            RequestError: if too many are bad.
        """
        if merge:
            consistency.merge_skipped(self._group, self._bad_images)
        for line in self._bad_images.check_limit():
            log.warning("%s", line)

    def _distribute(
        self, split: Split, order: Order, start_step: int, stop_step: int, *, augmentation: str, training: bool
    ) -> Batches:
        images, share = self._source(split, training), self.share
        remote = self._remote(split, images, order, stop_step * share.local) if self._config.data_service else None
        dataset = pipeline.batches(
            split,
            images,
            order,
            self._bad_images,
            augmentation=augmentation,
            settings=self._augmentation,
            share=share,
            start_step=start_step,
            stop_step=stop_step,
            remote=remote,
        )
        return _with_own_errors(images, remote, self.on_devices(dataset))

    def _source(self, split: Split, training: bool) -> ImageSource:
        """Return the images of a split; those with random crops apart.  Kept, because a cache lives in it."""
        key = split, training and self._config.input == CROP
        if key not in self._images:
            self._images[key] = _with_own_stop(lambda: ImageSource(split, self._config, training=key[1]))
        return self._images[key]

    def _remote(self, split: Split, images: ImageSource, order: Order, stop: int) -> DataServiceClient:
        """Return the client of the servers that decode elements up to ``stop`` in place of this process."""
        share, count = self.share, order.batch_size // self.share.replicas
        slots = functools.partial(share.slots, order)
        return DataServiceClient(self._config.data_service, self._health, split, images, slots, count, stop)


def _with_wide_labels(batch: pipeline.Batch) -> pipeline.Batch:
    return {**batch, "label": tf.cast(batch["label"], tf.int64)}


def _with_own_errors(
    images: ImageSource, remote: DataServiceClient | None, batches: Iterable[pipeline.Batch]
) -> Batches:
    """Yield the batches; if reading failed, re-raise the reader's own error instead of TensorFlow's wrapper."""
    try:
        yield from batches
    except tf.errors.OpError as error:
        if images.failure is None:
            raise
        if isinstance(images.failure, StoppedEarly):
            raise InputDown(str(images.failure)) from images.failure
        raise images.failure from error
    finally:
        if remote is not None:
            remote.close()


def _with_own_stop(open_images: Callable[[], ImageSource]) -> ImageSource:
    """Open a split's images, which reads from a cache or asks for every file's time and so may hang.

    Raises:
        InputDown: if that does not end although the job is to stop, or the storage is away.
    """
    try:
        return interruptible.run(open_images)
    except StoppedEarly as stop:
        raise InputDown(str(stop)) from stop
