"""Pixels of a split's images by example number: read, decoded, and cached if there is a cache.

Does not own: which image is read when (``order.py``), what happens to a bad one (``bad_images.py``).
"""

import numpy as np
import tensorflow as tf

from trainer.core.config import DataConfig
from trainer.core.errors import RequestError, StoppedEarly
from trainer.core.storage import transient
from trainer.data import cache as cache_lib
from trainer.data import decode, decode_batch, interruptible, readers
from trainer.data.manifest import Split
from trainer.data.pixels import DecodedBatch
from trainer.data.readers import Content
from trainer.data.self_blending import validation
from trainer.data.tfrecord import Array


class ImageSource:
    """The images of one split at one size; safe to use from several threads."""

    def __init__(self, split: Split, config: DataConfig, *, size: int = 0, cached: bool = True) -> None:
        """Open the split.

        Args:
            split: the images.
            config: image size, largest number of pixels, cache.
            size: pixels per side; 0: as configured.
            cached: whether to use the configured cache.

        Raises:
            RequestError: if the cache cannot be used.
        """
        self.failure: Exception | None = None  # First storage error, kept because TensorFlow preserves only its text.
        self._split = split
        self.size = size or config.image_size
        self.max_pixels = config.max_image_pixels
        self._reader = readers.open_reader(split)
        self._cache = (
            cache_lib.open_cache(config.cache, config.cache_bytes, split, self.size, self.max_pixels)
            if cached
            else None
        )

    @property
    def looks_ahead(self) -> bool:
        """Whether ``prefetch`` has any effect."""
        return self._reader.looks_ahead

    def load(self, index: Array) -> DecodedBatch:
        """Return images ``index [n] int64``.

        Raises:
            StoppedEarly: if the storage does not answer or memory is short for long, or if the job is to stop and a
                read hangs; kept in ``failure``, as RequestError is.
            RequestError: if the storage refuses access.
        """
        try:
            # The first failure is the job's, so nobody waits for what other threads are still trying.
            loaded = interruptible.run(lambda: self._load(index), is_void=lambda: self.failure is not None)
        except (StoppedEarly, RequestError) as failure:
            self.failure = self.failure or failure
            raise
        return validation.blended(self._split, index, loaded)

    def _load(self, index: Array) -> DecodedBatch:
        if self._cache is None:
            return self._decode(index)
        images, hits = self._cache.get(index)
        missing = np.flatnonzero(~hits)
        if not len(missing):
            return DecodedBatch(images, {})
        decoded = self._decode(index[missing])
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

    def _decode(self, index: Array) -> DecodedBatch:
        contents = self.encoded(index)

        def attempt() -> DecodedBatch:
            try:
                return decode_batch.load_batch(contents, self.size, self.max_pixels)
            except tf.errors.ResourceExhaustedError as error:  # Of this process, not of an image.
                raise MemoryError(decode.reason(error)) from error

        return transient.retry(self._split.path(int(index[0])) if len(index) else "", attempt)
