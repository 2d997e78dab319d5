"""Pixels of a split's images by example number: read, decoded, and cached if there is a cache.

Does not own: which image is read when (``order.py``), what happens to a bad one (``bad_images.py``).
"""

import numpy as np
import tensorflow as tf

from trainer.core.config import DataConfig
from trainer.core.config.registries import CROP
from trainer.core.errors import RequestError, StoppedEarly
from trainer.core.storage import transient
from trainer.data import cache as cache_lib
from trainer.data import decode, decode_batch, input_rule, interruptible, readers
from trainer.data.input_rule import Draws
from trainer.data.manifest import Split
from trainer.data.pixels import DecodedBatch
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
        contents = self.encoded(index)

        def attempt() -> DecodedBatch:
            try:
                return decode_batch.load_batch(contents, self.rule, self.max_pixels, draws)
            except tf.errors.ResourceExhaustedError as error:  # Of this process, not of an image.
                raise MemoryError(decode.reason(error)) from error

        return transient.retry(self._split.path(int(index[0])) if len(index) else "", attempt)
