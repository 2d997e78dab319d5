"""Decoded images kept for the next epoch: in memory, or in a folder on a local disk for the next start as well.

An image is found by its example number; what was cached of other images never fits, because the folder's name is made
of all that decides the pixels.  A cached image is read back with its checksum once in each process, so a torn or
flipped one is decoded again.  Imports no TensorFlow.
"""

import hashlib
import json
import logging
import os
import shutil
import threading
from pathlib import Path

import numpy as np

from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.data import readers, tfrecord
from trainer.data.manifest import Split
from trainer.data.pixels import aligned_empty
from trainer.data.tfrecord import Array

log = logging.getLogger(__name__)

NONE, MEMORY = "none", "memory"
_MEMORY_SHARE = 0.5  # Of what is free, if no --cache_bytes says otherwise.
_DISK_SHARE = 0.8
_WRITTEN = 2**32  # Added to an image's checksum in the table, so that zero means absent.


class Cache:
    """Pixels ``[S, S, 3] uint8`` by example number, as many from the front of the split as there is room for."""

    def __init__(self, count: int, size: int) -> None:
        """Make room for ``count`` images of ``size`` pixels a side."""
        self._shape = (size, size, 3)
        self._has = np.zeros(count, bool)

    def get(self, index: Array) -> tuple[Array, Array]:
        """Return ``images [n, S, S, 3]`` for ``index [n] int64``, unset where the second, ``[n] bool``, is False."""
        images = aligned_empty((len(index), *self._shape))
        known = index < len(self._has)
        known[known] = self._has[index[known]]
        for position in np.flatnonzero(known):
            known[position] = self._load(int(index[position]), images[position])
        return images, known

    def put(self, index: Array, images: Array) -> None:
        """Keep images; those that there is no room for are forgotten."""
        for i, image in zip(index.tolist(), images, strict=True):
            if i < len(self._has) and not self._has[i]:
                self._has[i] = self._store(i, image)

    def _load(self, i: int, image: Array) -> bool:
        raise NotImplementedError

    def _store(self, i: int, image: Array) -> bool:
        raise NotImplementedError


class _Memory(Cache):
    def __init__(self, count: int, size: int) -> None:
        super().__init__(count, size)
        self._pixels = np.empty([count, *self._shape], np.uint8)  # The system gives memory when it is written to.

    def _load(self, i: int, image: Array) -> bool:
        image[:] = self._pixels[i]
        return True

    def _store(self, i: int, image: Array) -> bool:
        self._pixels[i] = image
        return True


class _Disk(Cache):
    """Two files: the pixels of all images one after the other, and a table with the checksum of each, or zero.

    Several processes may use them at once: they write the same bytes, and the table's entry after the pixels.
    """

    def __init__(self, folder: Path, count: int, size: int) -> None:
        super().__init__(count, size)
        folder.mkdir(parents=True, exist_ok=True)
        self._pixels = os.open(folder / "pixels", os.O_RDWR | os.O_CREAT, 0o644)
        self._table = os.open(folder / "table", os.O_RDWR | os.O_CREAT, 0o644)
        stored = np.frombuffer(os.pread(self._table, 8 * count, 0).ljust(8 * count, b"\0")[: 8 * count], "<u8")
        self._sums = stored.copy()
        self._has = self._sums != 0
        self._verified = np.zeros(count, bool)
        self._bytes = int(np.prod(self._shape))
        self._full = threading.Event()

    def _load(self, i: int, image: Array) -> bool:
        got = os.preadv(self._pixels, [image.data], i * self._bytes)
        if not self._verified[i]:
            good = got == self._bytes and tfrecord.checksum(image.tobytes()) + _WRITTEN == int(self._sums[i])
            self._verified[i], self._has[i] = good, good
        return bool(self._verified[i])

    def _store(self, i: int, image: Array) -> bool:
        if self._full.is_set():
            return False
        content = image.tobytes()
        total = tfrecord.checksum(content) + _WRITTEN
        try:
            _write(self._pixels, content, i * self._bytes)
            _write(self._table, total.to_bytes(8, "little"), 8 * i)
        except OSError as error:
            self._full.set()
            log.warning("--cache: %s; images that are not cached yet are decoded every time", error)
            return False
        self._sums[i], self._verified[i] = total, True
        return True

    def __del__(self) -> None:
        for name in ("_pixels", "_table"):
            if hasattr(self, name):
                os.close(getattr(self, name))


def _write(descriptor: int, content: bytes, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def open_cache(kind: str, limit: int, split: Split, size: int, max_pixels: int) -> Cache | None:
    """Return the cache of a split, or None if there is to be none.

    Args:
        kind: ``none``, ``memory`` or a local folder.
        limit: bytes to use at most; 0: half of the free memory, or 80% of the free disk.
        split: the images.
        size: pixels a side.
        max_pixels: images above are not decoded.

    Raises:
        RequestError: if the folder cannot be used, or what is in the images' files cannot be told from their listing.
    """
    if kind == NONE:
        return None
    image_bytes = 3 * size * size
    if kind == MEMORY:
        room = limit or int(_MEMORY_SHARE * _free_memory())
        return _Memory(_count(split, room, image_bytes, "memory"), size)
    folder = Path(kind) / f"{split.name}-{size}-{_key(split, size, max_pixels)}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = os.stat(folder / "pixels").st_blocks * 512 if (folder / "pixels").exists() else 0
        room = limit or int(_DISK_SHARE * (shutil.disk_usage(folder).free + taken))
        return _Disk(folder, _count(split, room, image_bytes, str(folder)), size)
    except OSError as error:
        raise RequestError(
            f"--cache: expected none, memory or a folder that can be written, received {kind!r}: {error.strerror}"
        ) from error


def _count(split: Split, room: int, image_bytes: int, where: str) -> int:
    count = min(len(split), room // image_bytes)
    log.info("cache for %s: %d of %d images, up to %.1f GB in %s",
             split.name, count, len(split), count * image_bytes / 1e9, where)  # fmt: skip
    return count


def _key(split: Split, size: int, max_pixels: int) -> str:
    """Return a name for exactly these pixels: of which files, with which content, at which size."""
    digest = hashlib.sha256(json.dumps([1, split.fingerprint, size, max_pixels]).encode())
    if split.records is not None:
        digest.update(split.records.crc.tobytes())
    elif files.is_remote(split.root):
        raise RequestError(
            "--cache=DIR: expected a local folder or a packed set, received a bucket of single files, whose content "
            "cannot be told without reading it; pack it (scripts/prepare_data.py pack), or use --cache=memory"
        )
    else:
        digest.update(readers.stamp(split).encode())
    return digest.hexdigest()[:16]


def _free_memory() -> int:
    """Return what /proc/meminfo calls available, or the container's limit where that is less, in bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return max(free, 0)
