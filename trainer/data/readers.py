"""The encoded bytes of a split's images, by example number: files of a folder, or records of packed shards.

From a remote packed set a block of neighbours is fetched in one request, ahead of time if the caller announces what it
needs (``Order`` keeps such blocks together), and cached until the window that uses it is over.
Does not own: which image is read when (``order.py``), decoding (``decode.py``).  Imports no TensorFlow.
"""

import collections
import errno
import functools
import hashlib
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from trainer.core.errors import StorageDown
from trainer.core.storage import files, tar_members, transient
from trainer.data import image_files, slow_reads, tfrecord
from trainer.data.decoding.worker import Place
from trainer.data.manifest import Split
from trainer.data.tfrecord import Array, Records

Content = bytes | OSError

BLOCK = 8  # Neighbours that ``Order`` keeps together, so that they can be read together.
WINDOW = 4096  # Examples among which ``Order`` spreads those of a block; a multiple of BLOCK.

_REQUESTS_AT_ONCE = 32
_MAX_GAP = 0.5  # Share of a request that may be unused bytes.
_MIN_CACHED_BYTES = 64 * 2**20


class Reader:
    """Reads images of one split; safe to call from several threads."""

    looks_ahead = False  # Whether ``prefetch`` has any effect.

    def read(self, index: Array) -> list[Content]:
        """Return the bytes of each image ``index [n] int64``, or the error of reading it, if that is its own fault.

        Raises:
            StorageDown: if trouble of another kind does not pass.
        """
        raise NotImplementedError

    def places(self, index: Array) -> list[Place]:
        """Return where images lie on this machine, so that another process can read them; none if they do not."""
        return []

    def read_one(self, number: int) -> bytes:
        """Return the bytes of one image.

        Raises:
            OSError: if it cannot be read.
        """
        (content,) = self.read(np.array([number], np.int64))
        if isinstance(content, OSError):
            raise content
        return content

    def prefetch(self, index: Array) -> None:
        """Start to fetch images that will be read soon."""


def open_reader(split: Split) -> Reader:
    """Return the reader for a split."""
    if split.records is None:
        return _Folder(split)
    if files.is_remote(split.root):
        return _RemoteShards(split.records)
    return _LocalShards(split.records)


def stamp(split: Split) -> str:
    """Return a checksum over sizes and times of a local folder's files; empty for a bucket, whose listing has none.

    Together with the fingerprint it shows whether any image was changed.
    """
    if files.is_remote(split.root):
        return ""
    digest = hashlib.sha256()
    for i in range(len(split)):
        path = tar_members.file_of(split.path(i))
        try:
            stat = transient.retry(path, functools.partial(os.stat, path))
        except OSError:
            continue
        digest.update(f"{i} {stat.st_size} {stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


class _Folder(Reader):
    """One file per image."""

    def __init__(self, split: Split) -> None:
        self._split = split
        # Remote reads wait for the network, so many run at once; a local disk gains nothing from that.
        self._pool = ThreadPoolExecutor(_REQUESTS_AT_ONCE, "read") if split.is_remote else None

    def read(self, index: Array) -> list[Content]:
        if self._pool:
            return list(self._pool.map(self._read_remote, index.tolist()))
        with slow_reads.watched_each() as begin:
            return [self._read_local(number, begin) for number in index.tolist()]

    def places(self, index: Array) -> list[Place]:
        return [] if self._pool else [Place(self._split.path(number)) for number in index.tolist()]

    def _read_remote(self, number: int) -> Content:
        try:
            return image_files.read(self._split.path(number), self._split.folder(number))
        except OSError as error:
            return error

    def _read_local(self, number: int, begin: Callable[[str], None]) -> Content:
        path = self._split.path(number)
        begin(path)
        try:
            return transient.retry(path, functools.partial(image_files.read_local, path, self._split.folder(number)))
        except OSError as error:
            return error


class _LocalShards(Reader):
    """Shards on a disk: the operating system caches and reads ahead."""

    def __init__(self, records: Records) -> None:
        self._records = records
        self._lock = threading.Lock()
        self._open: dict[int, int] = {}
        # Not at exit, when a pipeline's threads may still be reading.
        weakref.finalize(self, _close, self._open).atexit = False

    def read(self, index: Array) -> list[Content]:
        records = self._records.select(index)
        columns = (records.shard, records.length, records.offset, records.crc)
        with slow_reads.watched_each() as begin:
            rows = zip(*(column.tolist() for column in columns), strict=True)
            return [self._read(begin, *row) for row in rows]

    def places(self, index: Array) -> list[Place]:
        records = self._records.select(index)
        columns = (records.offset, records.length, records.crc)
        rows = zip(records.shard.tolist(), *(column.tolist() for column in columns), strict=True)
        return [Place(self._records.shards[shard], *row) for shard, *row in rows]

    def _read(self, begin: Callable[[str], None], shard: int, length: int, offset: int, crc: int) -> Content:
        path = self._records.shards[shard]
        begin(path)
        try:
            content = transient.retry(path, functools.partial(self._read_once, shard, length, offset))
        except OSError as error:
            raise _lost(path, error) from error
        return _checked(content, crc, path)

    def _read_once(self, shard: int, length: int, offset: int) -> bytes:
        try:
            return os.pread(self._open.get(shard) or self._descriptor(shard), length, offset)
        except OSError as error:
            if error.errno == errno.ESTALE:  # The server knows the open file no more, perhaps only the name.
                self._reopen(shard)
            raise

    def _descriptor(self, shard: int) -> int:
        with self._lock:
            if shard not in self._open:
                self._open[shard] = self._opened(shard)
            return self._open[shard]

    def _opened(self, shard: int) -> int:
        path = self._records.shards[shard]
        return image_files.open_regular(path, os.path.dirname(path))

    def _reopen(self, shard: int) -> None:
        """Open a shard again under the descriptor that it has, which other threads may be using."""
        with self._lock:
            if shard in self._open:
                descriptor = self._opened(shard)
                os.dup2(descriptor, self._open[shard], inheritable=False)
                os.close(descriptor)


def _close(descriptors: dict[int, int]) -> None:
    for descriptor in descriptors.values():
        os.close(descriptor)


class _RemoteShards(Reader):
    """Shards on a remote storage: one request for a block of neighbours, cached until newer blocks displace it."""

    looks_ahead = True

    def __init__(self, records: Records) -> None:
        self._records = records
        self._pool = ThreadPoolExecutor(_REQUESTS_AT_ONCE, "fetch")
        self._lock = threading.Lock()
        self._blocks: collections.OrderedDict[int, Future[list[Content]]] = collections.OrderedDict()
        mean = float(records.length.mean()) if len(records.length) else 0.0
        # The current window and half of the next one, which may be in flight.
        self._max_blocks = max(int(1.5 * WINDOW), int(_MIN_CACHED_BYTES / max(mean, 1.0))) // BLOCK + 1

    def read(self, index: Array) -> list[Content]:
        futures = [self._block(i // BLOCK) for i in index.tolist()]
        return [future.result()[i % BLOCK] for future, i in zip(futures, index.tolist(), strict=True)]

    def prefetch(self, index: Array) -> None:
        for number in np.unique(index // BLOCK).tolist():
            self._block(number)

    def _block(self, number: int) -> "Future[list[Content]]":
        """Return a block that is cached or in flight; request it if it is neither."""
        with self._lock:
            if number not in self._blocks:
                self._blocks[number] = self._pool.submit(self._fetch, number)
                if len(self._blocks) > self._max_blocks:
                    self._blocks.popitem(last=False)
            self._blocks.move_to_end(number)
            return self._blocks[number]

    def _fetch(self, number: int) -> list[Content]:
        records = self._records
        members = range(number * BLOCK, min((number + 1) * BLOCK, len(records.shard)))
        contents: list[Content] = []
        for run in _runs(records, members):
            start = int(records.offset[run[0]])
            shard = records.shards[int(records.shard[run[0]])]
            try:
                span = files.read_range(shard, start, _end(records, run[-1]) - start)
            except OSError as error:
                raise _lost(shard, error) from error
            for i in run:
                piece = span[int(records.offset[i]) - start : _end(records, i) - start]
                contents.append(_checked(piece, int(records.crc[i]), shard))
        return contents


def _runs(records: Records, members: Sequence[int]) -> list[list[int]]:
    """Divide neighbours into runs for one request each: within one shard, without large gaps.

    Holding out a share of Train leaves gaps: of few images in what remains, of many in the share.
    """
    runs: list[list[int]] = []
    for i in members:
        if runs and records.shard[runs[-1][-1]] == records.shard[i]:
            used = int(records.length[[*runs[-1], i]].sum())
            if (1.0 - _MAX_GAP) * (_end(records, i) - int(records.offset[runs[-1][0]])) <= used:
                runs[-1].append(i)
                continue
        runs.append([i])
    return runs


def _end(records: Records, i: int) -> int:
    return int(records.offset[i] + records.length[i])


def _lost(shard: str, error: OSError) -> StorageDown:
    """Return the error for a shard that cannot be read: not a fault of its images, which may be thousands."""
    return StorageDown(
        f"{shard!r} cannot be read ({transient.reason(error)}), and its images are not to blame; restore it or "
        "copy the packed set again, then rerun the same command"
    )


def _checked(content: bytes, crc: int, shard: str) -> Content:
    return content if tfrecord.checksum(content) == crc else OSError(f"other bytes than were packed in {shard}")
