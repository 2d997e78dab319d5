"""Pixels from a tf.data service: TensorFlow's own dispatcher and workers read and decode, off the GPU's host.

The service sends elements in any order; each carries its number and is put back in sequence (``reorder_buffer.py``).
Elements that do not arrive (a worker died, the service is gone) and images that could not be decoded there are read and
decoded here, as without a service.  So the service affects speed only: same order, same pixels, same bad images with
the same reasons.
Does not own: which example stands where (``order.py``), starting a service (``trainer/data_service.py``).
"""

import logging
import math
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from trainer.core import proxies, storage
from trainer.core.errors import RequestError
from trainer.core.storage import files, tar_members
from trainer.data import decode, tfrecord
from trainer.data.image_source import ImageSource
from trainer.data.manifest import Split
from trainer.data.pixels import DecodedBatch, aligned_copy
from trainer.data.reorder_buffer import ReorderBuffer, ServiceHealth
from trainer.data.tfrecord import Array

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 20.0
_END_SECONDS = 1.0  # For the thread to end when the stream is closed, as it does unless the service is away.
_RETRY_SECONDS = 5.0  # Before the next request to the service after an error.
_BUFFER_BYTES = 512 * 2**20  # For elements that arrived out of sequence.
_MIN_BUFFERED, _MAX_BUFFERED = 8, 64  # Elements.
_RECORD_BYTES = 4096  # More than a record holds besides its image.

Pixels = tuple[Array, Array]  # [b, S, S, 3] uint8, and which of them were decoded, [b] bool.


class DataServiceClient:
    """The images of one share of the global stream, decoded by a service; safe to use from several threads."""

    def __init__(
        self,
        address: str,
        health: ServiceHealth,
        split: Split,
        images: ImageSource,
        slots: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor, tf.Tensor]],
        count: int,
        stop: int,
    ) -> None:
        """Prepare a stream; the service is contacted at the first ``load``.

        Args:
            address: ``grpc://host:port`` of the dispatcher.
            health: shared by all streams of this service.
            split: the images; the service must see them at the same path.
            images: reads here what the service does not send.
            slots: maps an element's number to what its slots hold, see ``Order.slots``.
            count: slots of an element.
            stop: number after the last element.

        Raises:
            RequestError: if the workers, which read with TensorFlow, cannot read the split's storage.
        """
        place = split.path(0) if len(split) and split.records is None else split.root
        if not storage.for_path(place).tensorflow_reads or tar_members.place(place):
            raise RequestError(
                f"--data_service: expected images that TensorFlow can read, received {place!r}; leave "
                "--data_service out, or copy them to another storage"
            )
        proxies.go_past([address.removeprefix("grpc://").rpartition(":")[0].strip("[]")])
        self._address = address
        self._health = health
        self._split = split
        self._images = images
        self._slots = slots
        self._count = count
        self._stop = stop
        room = _BUFFER_BYTES // (count * math.prod(images.rule.shape))
        capacity = min(max(room, _MIN_BUFFERED), _MAX_BUFFERED)
        self._buffer: ReorderBuffer[Pixels] = ReorderBuffer(capacity, _PATIENCE_SECONDS, health)
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._counting = threading.Lock()  # Batches are loaded on several threads.
        self._decoded_there = self._decoded_here = 0  # Images, without the bad ones.
        self._warned_unreadable = False

    def load(self, number: int, index: Array) -> DecodedBatch:
        """Return images ``index [n] int64``, the first slots of element ``number``; see ``ImageSource.load``."""
        was_silent = self._health.silent
        element = self._buffer.take(number) if self._is_receiving(number) else None
        if element is None:  # Lost or late: the same images, decoded here.
            if self._health.silent and not was_silent:
                log.warning("--data_service: %s has sent nothing for %.0f s; decoding here until it does",
                            self._address, _PATIENCE_SECONDS)  # fmt: skip
            batch = self._images.load(index)
            self._count_decoded(here=len(index) - len(batch.errors))
            return batch
        pixels, good = (part[: len(index)] for part in element)
        missing = np.flatnonzero(~good)
        self._count_decoded(there=len(index) - len(missing))
        if not len(missing):
            return DecodedBatch(pixels, {})
        # What failed there is tried here: either it is bad, which gives the reason, or the workers cannot see it.
        local = self._images.load(index[missing])
        self._count_decoded(here=len(missing) - len(local.errors))
        self._warn_unreadable([i for place, i in enumerate(index[missing].tolist()) if place not in local.errors])
        pixels = aligned_copy(pixels)
        pixels[missing] = local.images
        return DecodedBatch(pixels, {int(missing[place]): why for place, why in local.errors.items()})

    def _is_receiving(self, number: int) -> bool:
        """Return whether the thread runs that receives elements; start it with element ``number`` if it may."""
        with self._starting:
            if self._thread is None:
                # A wait for a service that is away cannot be cancelled, so there is at most one that nobody needs.
                if self._health.abandoned is not None and self._health.abandoned.is_alive():
                    return False
                self._thread = threading.Thread(target=self._receive, args=(number,), name="data-service", daemon=True)
                self._thread.start()
            return True

    def close(self) -> None:
        """Stop receiving, and log where the images were decoded."""
        self._buffer.end()
        if self._thread is not None:
            self._thread.join(_END_SECONDS)
            self._health.abandoned = self._thread
        if self._decoded_there or self._decoded_here:
            log.info("--data_service: %s: %d images decoded there, %d here", self._split.name, self._decoded_there,
                     self._decoded_here)  # fmt: skip

    def _count_decoded(self, *, there: int = 0, here: int = 0) -> None:
        with self._counting:
            self._decoded_there += there
            self._decoded_here += here

    def _warn_unreadable(self, examples: list[int]) -> None:
        """Warn once about images that this process can read and the workers cannot."""
        if examples and not self._warned_unreadable:
            self._warned_unreadable = True
            log.warning("--data_service: %s cannot be read there, but here; its workers must see data_dir at the same "
                        "path", self._split.names[examples[0]])  # fmt: skip

    def _receive(self, start: int) -> None:
        """Buffer what the service sends until the stream ends, on a thread of its own."""
        while not self._buffer.over:
            try:
                # After an error the stream restarts at the last element that was requested.
                for number, pixels, good in self._dataset(max(start, self._buffer.next - 1)):
                    self._buffer.put(int(number), (np.asarray(pixels), np.asarray(good)))
                    if self._buffer.over:
                        return
                self._buffer.end()
            except tf.errors.OpError as error:
                log.warning("--data_service: %s: %s; asking again", self._address, decode.reason(error))
                time.sleep(_RETRY_SECONDS)

    def _dataset(self, start: int) -> tf.data.Dataset:
        """Return elements ``(number, pixels [b, S, S, 3] uint8, good [b] bool)`` as the service sends them."""
        read, count = reader(self._split), self._count
        rule, max_pixels = self._images.rule, self._images.max_pixels

        def decoded(slot: tf.Tensor, example: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            return slot, decode.to_input(decode.decode(read(example), max_pixels), rule)

        def element(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            _, index, real = self._slots(number)
            examples = tf.boolean_mask(tf.range(count), real), tf.boolean_mask(index, real)
            each = tf.data.Dataset.from_tensor_slices(examples)
            each = each.map(_plain(decoded), num_parallel_calls=tf.data.AUTOTUNE)
            # A bad image fails its own map call and is left out.  The extra slot keeps the batch from being empty.
            extra = tf.data.Dataset.from_tensors((count, tf.zeros(rule.shape, tf.uint8)))
            slots, pixels = each.ignore_errors().concatenate(extra).batch(count + 1).get_single_element()
            # Back to the slots of the element; those without an image stay zero and are marked.
            images = tf.scatter_nd(slots[:, None], pixels, [count + 1, *rule.shape])[:-1]
            good = tf.scatter_nd(slots[:, None], tf.ones_like(slots), [count + 1])[:-1] > 0
            return number, images, good

        service = tf.data.experimental.service
        return (
            tf.data.Dataset.range(start, self._stop)
            .map(_plain(element), num_parallel_calls=tf.data.AUTOTUNE)
            # Each number goes to one worker.  Compression hardly makes pixels smaller and costs time on both ends.
            .apply(service.distribute(service.ShardingPolicy.DYNAMIC, self._address, compression=None))
        )


def _plain(function: Any) -> Any:
    """Exempt a function from AutoGraph: it has no Python control flow on tensors, and conversion takes seconds."""
    return tf.autograph.experimental.do_not_convert(function)


def reader(split: Split) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a function, in graph ops alone, from an example number to its encoded bytes; a bad record is an error."""
    if split.records is None:
        paths = tf.constant([os.fsencode(files.absolute(split.path(number))) for number in range(len(split))])
        return lambda example: tf.io.read_file(paths[example])
    records = split.records
    shards = tf.constant([files.absolute(path) for path in records.shards])
    shard, length = tf.constant(records.shard), tf.constant(records.length, tf.int64)
    begin = tf.constant(tfrecord.record_starts(records, split.names, split.labels))

    def read(example: tf.Tensor) -> tf.Tensor:
        # The first record of a TFRecord file that is read from the record's start on.
        from_here = tf.raw_ops.TFRecordDatasetV2(
            filenames=shards[shard[example]][None], compression_type="", buffer_size=length[example] + _RECORD_BYTES,
            byte_offsets=begin[example][None],
        )  # fmt: skip
        shapes: dict[str, Any] = {"output_types": [tf.string], "output_shapes": [[]]}
        first = tf.raw_ops.TakeDataset(input_dataset=from_here, count=1, **shapes)
        (record,) = tf.raw_ops.DatasetToSingleElement(dataset=first, **shapes)
        return tf.io.parse_single_example(record, {"image": tf.io.FixedLenFeature([], tf.string)})["image"]

    return read
