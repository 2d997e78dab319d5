"""Pixels of a split's images by example number: read, decoded, and kept if there is a cache.

Does not own: which image comes when (``order.py``), what becomes of a bad one (``bad_images.py``).
"""

import numpy as np

from trainer.core.config import DataConfig
from trainer.core.errors import RequestError, StoppedEarly
from trainer.data import cache as cache_lib
from trainer.data import decode_batch, readers
from trainer.data.manifest import Split
from trainer.data.pixels import DecodedBatch
from trainer.data.readers import Content
from trainer.data.tfrecord import Array


class ImageSource:
    """The images of one split at one size; safe to use from several threads."""

    def __init__(self, split: Split, config: DataConfig, *, size: int = 0, cached: bool = True) -> None:
        """Open the split.

        Args:
            split: the images.
            config: image size, largest number of pixels, cache.
            size: pixels a side; 0: as configured.
            cached: whether the configured cache is to be used.

        Raises:
            RequestError: if the cache cannot be used.
        """
        self.failure: Exception | None = None  # Why nothing can be read any more: TensorFlow keeps only its text.
        self.size, self.max_pixels = size or config.image_size, config.max_image_pixels
        self._reader = readers.open_reader(split)
        self._cache = (
            cache_lib.open_cache(config.cache, config.cache_bytes, split, self.size, self.max_pixels)
            if cached
            else None
        )

    @property
    def looks_ahead(self) -> bool:
        """Whether ``ahead`` does anything."""
        return self._reader.looks_ahead

    def load(self, index: Array) -> DecodedBatch:
        """Return images ``index [n] int64``.

        Raises:
            StoppedEarly: if the storage does not answer; ``failure`` keeps it, as RequestError.
            RequestError: if it refuses to.
        """
        try:
            return self._load(index)
        except (StoppedEarly, RequestError) as failure:
            self.failure = failure
            raise

    def _load(self, index: Array) -> DecodedBatch:
        if self._cache is None:
            return self._decode(index)
        images, known = self._cache.get(index)
        missing = np.flatnonzero(~known)
        if not len(missing):
            return DecodedBatch(images, {})
        fresh = self._decode(index[missing])
        images[missing] = pixels = fresh.images
        good = [position for position in range(len(missing)) if position not in fresh.errors]
        self._cache.put(index[missing[good]], pixels[good])
        return DecodedBatch(images, {int(missing[position]): why for position, why in fresh.errors.items()})

    def encoded(self, index: Array) -> list[Content]:
        """Return the bytes as they are stored, or the error that stands in the way."""
        return self._reader.read(index)

    def prefetch(self, index: Array) -> None:
        """Begin to fetch images that are wanted soon."""
        self._reader.prefetch(index)

    def _decode(self, index: Array) -> DecodedBatch:
        return decode_batch.load_batch(self.encoded(index), self.size, self.max_pixels)
