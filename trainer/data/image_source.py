"""Pixels of a split's images by example number: read, decoded, and cached if there is a cache.

Does not own: which image is read when (``order.py``), what happens to a bad one (``bad_images.py``).
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from trainer.core.config import DataConfig
from trainer.core.config.registries import CROP
from trainer.core.errors import RequestError, StoppedEarly
from trainer.core.storage import transient
from trainer.data import cache as cache_lib
from trainer.data import decode, decode_batch, input_rule, interruptible, readers, slow_reads
from trainer.data.decoding import pool as pool_lib
from trainer.data.decoding.pool import DecodePool
from trainer.data.decoding.worker import Source
from trainer.data.input_rule import Draws
from trainer.data.manifest import Split
from trainer.data.pixels import DecodedBatch, aligned_empty
from trainer.data.readers import Content
from trainer.data.self_blending import validation
from trainer.data.tfrecord import Array


class ImageSource:
    """The images of one split as model input; safe to use from several threads."""

    def __init__(self, split: Split, config: DataConfig, *, cached: bool = True, training: bool = False) -> None:
        """Open the split.

        Args:
            split: the images.
            config: how an image becomes model input, largest number of pixels, cache.
            cached: whether to use the configured cache.
            training: whether crops are at random places; else the views are those that are averaged.

        Raises:
            RequestError: if the cache cannot be used.
        """
        self.failure: Exception | None = None  # First storage error, kept because TensorFlow preserves only its text.
        self._split = split
        self.rule = input_rule.of_config(config, training=training)
        self.is_random = training and self.rule.mode == CROP
        self.max_pixels = config.max_image_pixels
        self._reader = readers.open_reader(split)
        self._processes = _decode_pool(config.decode_processes)
        self._cache = (
            cache_lib.open_cache(config.cache, config.cache_bytes, split, self.rule, self.max_pixels)
            if cached
            else None
        )

    @property
    def size(self) -> int:
        """Pixels per side of a view."""
        return self.rule.size

    @property
    def looks_ahead(self) -> bool:
        """Whether ``prefetch`` has any effect."""
        return self._reader.looks_ahead

    def load(self, index: Array, draws: Draws | None = None) -> DecodedBatch:
        """Return images ``index [n] int64``, each in the shape ``rule.shape``.

        Args:
            index: example numbers.
            draws: ``[n, 2]``, places of random crops (``input_rule.draw``); needed if ``is_random``.

        Raises:
            StoppedEarly: if the storage does not answer or memory is short for long, or if the job is to stop and a
                read hangs; kept in ``failure``, as RequestError is.
            RequestError: if the storage refuses access.
        """
        try:
            # The first failure is the job's, so nobody waits for what other threads are still trying.
            loaded = interruptible.run(lambda: self._load(index, draws), is_void=lambda: self.failure is not None)
        except (StoppedEarly, RequestError) as failure:
            self.failure = self.failure or failure
            raise
        return validation.blended(self._split, index, loaded)

    def _load(self, index: Array, draws: Draws | None) -> DecodedBatch:
        if self.is_random != (draws is not None):
            raise ValueError("random crops need draws, and nothing else takes any")
        if self._cache is None:
            return self._decode(index, draws)
        images, hits = self._cache.get(index)
        missing = np.flatnonzero(~hits)
        if not len(missing):
            return DecodedBatch(images, {})
        decoded = self._decode(index[missing], None)  # Random crops are never cached.
        images[missing] = decoded.images
        good = [position for position in range(len(missing)) if position not in decoded.errors]
        self._cache.put(index[missing[good]], decoded.images[good])
        return DecodedBatch(images, {int(missing[position]): why for position, why in decoded.errors.items()})

    def encoded(self, index: Array) -> list[Content]:
        """Return the stored bytes of each image, or the error of reading it; see ``Reader.read``."""
        return self._reader.read(index)

    def prefetch(self, index: Array) -> None:
        """Start to fetch images that will be loaded soon."""
        self._reader.prefetch(index)

    def _decode(self, index: Array, draws: Draws | None) -> DecodedBatch:
        if self._processes is None or len(index) < pool_lib.LEAST:
            return self._decode_here(self.encoded(index), index, draws)
        sources: Sequence[Source] = self._reader.places(index)
        contents = [] if sources else self.encoded(index)
        sources = sources or [content if isinstance(content, bytes) else b"" for content in contents]
        images = aligned_empty((len(index), *self.rule.shape))
        with slow_reads.watched(self._split.path(int(index[0]))):
            rest = self._processes.load(sources, self.rule, self.max_pixels, draws, images)
        if not rest:
            return DecodedBatch(images, {})
        # What was left out is done here, with retries and reasons.
        others = [contents[at] for at in rest] if contents else self.encoded(index[rest])
        here = self._decode_here(others, index[rest], None if draws is None else draws[rest])
        images[rest] = here.images
        return DecodedBatch(images, {rest[at]: reason for at, reason in here.errors.items()})

    def _decode_here(self, contents: Sequence[Content], index: Array, draws: Draws | None) -> DecodedBatch:

        def attempt() -> DecodedBatch:
            try:
                return decode_batch.load_batch(contents, self.rule, self.max_pixels, draws)
            except tf.errors.ResourceExhaustedError as error:  # Of this process, not of an image.
                raise MemoryError(decode.reason(error)) from error

        return transient.retry(self._split.path(int(index[0])) if len(index) else "", attempt)


def _decode_pool(processes: int) -> DecodePool | None:
    """Return the processes of ``--decode_processes`` that decode for this one; None: it decodes itself."""
    count = processes or pool_lib.automatic()
    return pool_lib.shared(count) if count > 1 and decode_batch.decoders_agree() else None
