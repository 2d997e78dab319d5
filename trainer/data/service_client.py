"""Pixels from a tf.data service: TensorFlow's own dispatcher and workers read and decode, off the GPU's host.

The service sends elements in any order; each carries its number and waits for its turn (``reorder_buffer.py``).  What does not
come (a worker died, the service is gone) or could not be decoded there is read and decoded here, as without a service:
so it decides nothing but speed.  Same order, same pixels, same bad images with the same reasons.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.core.storage import files
from trainer.data import decode, tfrecord
from trainer.data.image_source import ImageSource
from trainer.data.manifest import Split
from trainer.data.pixels import DecodedBatch
from trainer.data.reorder_buffer import ReorderBuffer, ServiceHealth
from trainer.data.tfrecord import Array

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 20.0
_AGAIN_SECONDS = 5.0  # Before the service is asked again after an error.
_WAITING_BYTES = 512 * 2**20  # Of elements that came before their turn,
_WAITING = (8, 64)  # and their number at least and at most.
_RECORD_BYTES = 4096  # More than a record holds beside its image.

Pixels = tuple[Array, Array]  # [b, S, S, 3] uint8, and which of them are there, [b] bool.


class DataServiceClient:
    """The images of one share of the global stream, decoded by a service; safe to use from several threads."""

    def __init__(
        self,
        address: str,
        sender: ServiceHealth,
        split: Split,
        images: ImageSource,
        slots: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
        count: int,
        stop: int,
    ) -> None:
        """Bind everything; the service is asked at the first ``load``.

        Args:
            address: ``grpc://host:port`` of the dispatcher.
            sender: the same for all streams from there.
            split: the images; the service must see them at the same path.
            images: reads here what the service does not send.
            slots: what stands in the slots of an element of this number, see ``Order.slots``.
            count: slots of an element.
            stop: number after the last element.
        """
        self._address, self._sender, self._split, self._images = address, sender, split, images
        self._slots, self._count, self._stop = slots, count, stop
        room = _WAITING_BYTES // (count * images.size**2 * 3)
        self._turns: ReorderBuffer[Pixels] = ReorderBuffer(
            min(max(room, _WAITING[0]), _WAITING[1]), _PATIENCE_SECONDS, sender
        )
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._served = self._decoded_here = 0  # Images.
        self._told_unread = False

    def load(self, number: int, index: Array) -> DecodedBatch:
        """Return images ``index [n] int64``, the first slots of element ``number``; see ``ImageSource.load``."""
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._receive, args=(number,), name="data-service", daemon=True)
                self._thread.start()
        was_silent = self._sender.silent
        element = self._turns.take(number)
        if element is None:
            if self._sender.silent and not was_silent:
                log.warning("--data_service: %s has sent nothing for %.0f s; decoding here until it does",
                            self._address, _PATIENCE_SECONDS)  # fmt: skip
            self._decoded_here += len(index)
            return self._images.load(index)
        pixels, good = (part[: len(index)] for part in element)
        missing = np.flatnonzero(~good)
        self._served += len(index) - len(missing)
        if not len(missing):
            return DecodedBatch(pixels, {})
        own = self._images.load(index[missing])
        self._tell_unread([i for place, i in enumerate(index[missing].tolist()) if place not in own.errors])
        pixels = pixels.copy()
        pixels[missing] = own.images
        return DecodedBatch(pixels, {int(missing[place]): why for place, why in own.errors.items()})

    def close(self) -> None:
        """Take nothing more, and say where the images came from."""
        self._turns.end()
        if self._thread is not None:
            log.info("--data_service: %s: %d images decoded there, %d here", self._split.name, self._served,
                     self._decoded_here)  # fmt: skip

    def _tell_unread(self, readable: list[int]) -> None:
        self._decoded_here += len(readable)
        if readable and not self._told_unread:
            self._told_unread = True
            log.warning("--data_service: %s cannot be read there, but here; its workers must see data_dir at the same "
                        "path", self._split.names[readable[0]])  # fmt: skip

    def _receive(self, start: int) -> None:
        """Take what the service sends until all is there, on a thread of its own."""
        while not self._turns.over:
            try:
                for number, pixels, good in self._dataset(max(start, self._turns.next - 1)):
                    self._turns.put(int(number), (np.asarray(pixels), np.asarray(good)))
                    if self._turns.over:
                        return
                self._turns.end()
            except tf.errors.OpError as error:
                log.warning("--data_service: %s: %s; asking again", self._address, decode.reason(error))
                time.sleep(_AGAIN_SECONDS)

    def _dataset(self, start: int) -> tf.data.Dataset:
        """Return elements ``(number, pixels [b, S, S, 3] uint8, good [b] bool)`` as the service sends them."""
        read, count = reader(self._split), self._count
        size, max_pixels = self._images.size, self._images.max_pixels

        def decoded(slot: tf.Tensor, example: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return slot, decode.resize(decode.decode(read(example), max_pixels), size)

        def element(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            _, index, real = self._slots(number)
            wanted = tf.boolean_mask(tf.range(count), real), tf.boolean_mask(index, real)
            each = tf.data.Dataset.from_tensor_slices(wanted).map(_plain(decoded), num_parallel_calls=tf.data.AUTOTUNE)
            # A bad image, which ends its own map call, is left out; the extra slot is there if all are.
            extra = tf.data.Dataset.from_tensors((count, tf.zeros([size, size, 3], tf.uint8)))
            slots, pixels = each.ignore_errors().concatenate(extra).batch(count + 1).get_single_element()
            images = tf.scatter_nd(slots[:, None], pixels, [count + 1, size, size, 3])[:-1]
            good = tf.scatter_nd(slots[:, None], tf.ones_like(slots), [count + 1])[:-1] > 0
            return number, images, good

        service = tf.data.experimental.service
        return (
            tf.data.Dataset.range(start, self._stop)
            .map(_plain(element), num_parallel_calls=tf.data.AUTOTUNE)
            # Each number goes to one worker; compression hardly makes pixels smaller, and costs time on both ends.
            .apply(service.distribute(service.ShardingPolicy.DYNAMIC, self._address, compression=None))
        )


def _plain(function: Any) -> Any:
    """Keep AutoGraph away: there is no Python control flow on tensors, and converting costs seconds."""
    return tf.autograph.experimental.do_not_convert(function)


def reader(split: Split) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function in graph ops alone from an example number to its encoded bytes; a bad record is an error."""
    if split.records is None:
        root = split.root if files.is_remote(split.root) else os.path.abspath(split.root)
        paths = tf.constant([os.fsencode(files.join(root, name)) for name in split.names])
        return lambda example: tf.io.read_file(paths[example])
    records = split.records
    shards = tf.constant([path if files.is_remote(path) else os.path.abspath(path) for path in records.shards])
    shard, length = tf.constant(records.shard), tf.constant(records.length, tf.int64)
    begin = tf.constant(tfrecord.record_starts(records, split.names, split.labels))

    def read(example: tf.Tensor) -> tf.Tensor:
        from_here = tf.raw_ops.TFRecordDatasetV2(
            filenames=shards[shard[example]][None], compression_type="", buffer_size=length[example] + _RECORD_BYTES,
            byte_offsets=begin[example][None],
        )  # fmt: skip
        shapes: dict[str, Any] = {"output_types": [tf.string], "output_shapes": [[]]}
        first = tf.raw_ops.TakeDataset(input_dataset=from_here, count=1, **shapes)
        (record,) = tf.raw_ops.DatasetToSingleElement(dataset=first, **shapes)
        return tf.io.parse_single_example(record, {"image": tf.io.FixedLenFeature([], tf.string)})["image"]

    return read
