"""Decoded images kept for the next epoch: in memory, or in a local folder that also serves later starts.

An image is found by its example number.  A folder's name is a hash of everything that determines the pixels, so a cache
of other images is never used.  Each process verifies the checksum of an image when it first reads it from disk; a
damaged one is decoded again.
Owns: room, keys, checksums.  Does not own: decoding (``decode_batch.py``).  Imports no TensorFlow.
"""

import errno
import hashlib
import json
import logging
import os
import shutil
import threading
import weakref
from pathlib import Path

import numpy as np

from trainer.core.config.registries import BILINEAR, CROP, RESIZE
from trainer.core.errors import RequestError
from trainer.core.storage import transient
from trainer.data import readers, tfrecord
from trainer.data.input_rule import InputRule
from trainer.data.manifest import Split
from trainer.data.pixels import aligned_empty
from trainer.data.tfrecord import Array

log = logging.getLogger(__name__)

NONE, MEMORY = "none", "memory"
_MEMORY_SHARE = 0.5  # Of the free memory, unless --cache_bytes is given.
_DISK_SHARE = 0.8  # Of the free disk.
_RULE = 2  # Of decoding: pixels decoded by another rule are not used.
_PRESENT = 2**32  # Added to an image's checksum in the table, so that zero means absent.


class Cache:
    """Pixels ``[S, S, 3] uint8`` by example number, as many from the front of the split as there is room for."""

    def __init__(self, count: int, size: int) -> None:
        """Create room for ``count`` images of ``size`` pixels per side."""
        self._shape = (size, size, 3)
        self._has = np.zeros(count, bool)

    def get(self, index: Array) -> tuple[Array, Array]:
        """Return images ``[n, S, S, 3]`` of ``index [n] int64``, and ``[n] bool`` that is False where one is unset."""
        images = aligned_empty((len(index), *self._shape))
        hits = index < len(self._has)
        hits[hits] = self._has[index[hits]]
        if hits.all():
            hits = self._load_all(index, images)
        else:
            present = np.flatnonzero(hits)
            some = aligned_empty((len(present), *self._shape))
            hits[present] = self._load_all(index[present], some)
            images[present] = some
        return images, hits

    def put(self, index: Array, images: Array) -> None:
        """Store images; those without room are dropped."""
        for i, image in zip(index.tolist(), images, strict=True):
            if i < len(self._has) and not self._has[i]:
                self._has[i] = self._store(i, image)

    def _load_all(self, index: Array, images: Array) -> Array:
        """Read present images into ``images [n, S, S, 3]`` and return ``[n] bool``, False where one turned out bad."""
        raise NotImplementedError

    def _store(self, i: int, image: Array) -> bool:
        raise NotImplementedError


class _Memory(Cache):
    def __init__(self, count: int, size: int) -> None:
        super().__init__(count, size)
        self._pixels = np.empty([count, *self._shape], np.uint8)  # Allocated when written to.

    def _load_all(self, index: Array, images: Array) -> Array:
        np.take(self._pixels, index, axis=0, out=images, mode="clip")  # Other modes copy twice.
        return np.ones(len(index), bool)

    def _store(self, i: int, image: Array) -> bool:
        self._pixels[i] = image
        return True


class _Disk(Cache):
    """Two files: the pixels of all images in sequence, and a table with the checksum of each, or zero.

    Several processes may use them at once: they write the same bytes, and each table entry after its pixels.
    """

    def __init__(self, folder: Path, count: int, size: int) -> None:
        super().__init__(count, size)
        transient.retry(str(folder), lambda: folder.mkdir(parents=True, exist_ok=True))
        self._pixels, self._table = self._open(folder / "pixels"), self._open(folder / "table")
        table = os.pread(self._table, 8 * count, 0).ljust(8 * count, b"\0")[: 8 * count]
        self._sums = np.frombuffer(table, "<u8").copy()
        self._has = self._sums != 0
        self._verified = np.zeros(count, bool)
        self._bytes = int(np.prod(self._shape))
        self._full = threading.Event()
        self._unreadable = threading.Event()

    def _open(self, path: Path) -> int:
        """Return a descriptor that is closed when this object goes; the end of the process closes it by itself."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        weakref.finalize(self, os.close, descriptor).atexit = False
        return descriptor

    def _load_all(self, index: Array, images: Array) -> Array:
        return np.fromiter(map(self._load, index.tolist(), images), bool, len(index))

    def _load(self, i: int, image: Array) -> bool:
        try:
            count = os.preadv(self._pixels, [image.data], i * self._bytes)
        except OSError as error:  # It may pass; until then the image itself can still be read.
            if not self._unreadable.is_set():
                log.warning("--cache: %s; images are decoded again while it cannot be read", error)
            self._unreadable.set()
            return False
        if not self._verified[i]:
            good = count == self._bytes and tfrecord.checksum(image.tobytes()) + _PRESENT == int(self._sums[i])
            self._verified[i], self._has[i] = good, good
        return bool(self._verified[i])

    def _store(self, i: int, image: Array) -> bool:
        if self._full.is_set():
            return False
        content = image.tobytes()
        total = tfrecord.checksum(content) + _PRESENT
        try:
            _write(self._pixels, content, i * self._bytes)  # First, so that an entry never precedes its pixels.
            _write(self._table, total.to_bytes(8, "little"), 8 * i)
        except OSError as error:  # A full disk: keep what is cached and stop writing.
            self._full.set()
            log.warning("--cache: %s; images that are not cached yet are decoded every time", error)
            return False
        self._sums[i], self._verified[i] = total, True
        return True


def _write(descriptor: int, content: bytes, offset: int) -> None:
    while content:
        written = os.pwrite(descriptor, content, offset)
        content, offset = content[written:], offset + written


def open_cache(kind: str, limit: int, split: Split, rule: InputRule, max_pixels: int) -> Cache | None:
    """Return the cache of a split, or None for ``none``.

    Args:
        kind: ``none``, ``memory`` or a local folder.
        limit: bytes to use at most; 0: half of the free memory, or 80% of the free disk.
        split: the images.
        rule: how an image becomes one view of S x S pixels.
        max_pixels: larger images are not decoded.

    A disk that is full or in trouble, or memory that is short, costs the cache and not the job.

    Raises:
        RequestError: if the folder cannot be used, or the listing of the files does not identify their content.
    """
    if kind == NONE:
        return None
    size = rule.size
    folder = Path() if kind == MEMORY else Path(kind) / f"{split.name}-{size}-{_key(split, rule, max_pixels)}"
    try:
        return _open_memory(split, limit, size) if kind == MEMORY else _open_disk(folder, split, limit, size)
    except (OSError, MemoryError) as error:
        if transient.is_transient(error) or getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT):
            log.warning("--cache: %s; this start decodes the images of %s every time", error, split.name)
            return None
        raise RequestError(
            f"--cache: expected none, memory or a folder that can be written, received {kind!r}: "
            f"{transient.reason(error)}"
        ) from error


def _open_memory(split: Split, limit: int, size: int) -> Cache:
    room = limit or int(_MEMORY_SHARE * free_memory())
    return _Memory(_count(split, room, 3 * size * size, "memory"), size)


def _open_disk(folder: Path, split: Split, limit: int, size: int) -> Cache:
    folder.mkdir(parents=True, exist_ok=True)
    used = os.stat(folder / "pixels").st_blocks * 512 if (folder / "pixels").exists() else 0
    room = limit or int(_DISK_SHARE * (shutil.disk_usage(folder).free + used))
    return _Disk(folder, _count(split, room, 3 * size * size, str(folder)), size)


def _count(split: Split, room: int, image_bytes: int, where: str) -> int:
    count = min(len(split), room // image_bytes)
    log.info("cache for %s: %d of %d images, up to %.1f GB in %s",
             split.name, count, len(split), count * image_bytes / 1e9, where)  # fmt: skip
    return count


def _key(split: Split, rule: InputRule, max_pixels: int) -> str:
    """Return a hash of everything that determines the pixels: the files, their content and the rule."""
    parts = [_RULE, split.fingerprint, rule.size, max_pixels]
    if rule.mode != RESIZE:  # Which was the only mode once; its keys stay.
        parts.append(rule.mode)
    if rule.mode != CROP and rule.interpolation != BILINEAR:  # As before.
        parts.append(rule.interpolation)
    digest = hashlib.sha256(json.dumps(parts).encode())
    if split.records is not None:
        digest.update(split.records.crc.tobytes())
    elif split.is_remote:
        raise RequestError(
            "--cache=DIR: expected a local folder or a packed set, received a bucket of single files, whose content "
            "is unknown without reading it; pack it (scripts/prepare_data.py pack), or use --cache=memory"
        )
    else:
        digest.update(readers.stamp(split).encode())
    return digest.hexdigest()[:16]


def free_memory() -> int:
    """Return the available memory in bytes: of the machine, or within the container's limit if that is less."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return max(free, 0)
