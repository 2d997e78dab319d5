"""Decoded images as NumPy arrays, in memory that is used again.  Imports no TensorFlow.

The kernel hands out memory page by page and zeroes each page; threads of one process that do so wait for each other,
and giving it back interrupts all cores.  So batches take over the memory of earlier ones.
"""

import collections
import dataclasses
import math
import mmap
import os
import threading
import weakref
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]
Image = TypeVar("Image", Pixels, Floats)

_ALIGNMENT = 64  # Bytes: EIGEN_MAX_ALIGN_BYTES; TensorFlow uses such memory without a copy.
_SMALLEST_BLOCK = 2**20  # Bytes; malloc itself uses smaller ones again.
_MOST_FREE = max(4, os.cpu_count() or 1)  # Blocks that nobody uses, of all sizes together: one for each reading thread.
_MOST_SCRATCH = 2**24  # Bytes that a thread keeps; larger images are rare.

_prepare: Callable[[Pixels], object] = len  # Nothing.
_free: collections.deque[Pixels] = collections.deque(maxlen=_MOST_FREE)  # Its single operations are atomic.


@dataclasses.dataclass(frozen=True)
class DecodedBatch:
    """A batch of pixels, zeros for bad images, and the ``errors`` by position.

    The pixels are ``images [N, S, S, 3] uint8``, or with several views of each ``[N, V, S, S, 3]``.
    """

    images: Pixels
    errors: dict[int, str]


def aligned_empty(shape: tuple[int, ...]) -> Pixels:
    """Return uninitialised memory, aligned for TensorFlow.

    A large array's memory goes to a later one as soon as neither it nor a view of it nor a tensor made of it is alive.
    """
    count = math.prod(shape)
    if count < _SMALLEST_BLOCK:
        return _allocated(count).reshape(shape)
    block = _freed(count)
    if block is None:
        # Pages of its own, so that they can be locked without those of a neighbour.
        block = np.frombuffer(mmap.mmap(-1, count), np.uint8)
        _prepare(block)
    # Every view's base is this array, because NumPy looks for an owner no further than the memoryview.
    whole = np.frombuffer(block.data, np.uint8)
    weakref.finalize(whole, _free.append, block).atexit = False
    return whole.reshape(shape)


def aligned_copy(images: Pixels) -> Pixels:
    """Return a copy in such memory, which becomes a tensor as it is, and which a GPU fetches by itself."""
    copy = aligned_empty(images.shape)
    copy[:] = images
    return copy


def prepare_with(function: Callable[[Pixels], object]) -> None:
    """Call a function with each large block from now on, before it is used for the first time."""
    global _prepare
    _prepare = function


def _freed(count: int) -> Pixels | None:
    """Return a block of ``count`` bytes that nobody uses; None if there is none."""
    for _ in range(_MOST_FREE):
        try:
            block = _free.pop()
        except IndexError:
            break
        if len(block) == count:
            return block
        _free.appendleft(block)  # Of another size; the oldest is dropped.
    return None


def _allocated(count: int) -> Pixels:
    room = np.empty(count + _ALIGNMENT, np.uint8)
    start = -room.ctypes.data % _ALIGNMENT
    return room[start : start + count]


class Scratch(threading.local):
    """Aligned memory that each thread overwrites again and again."""

    def __init__(self) -> None:
        """Allocate nothing yet."""
        self._room = _allocated(0)

    def take(self, count: int) -> Pixels:
        """Return ``count`` bytes, uninitialised, that are this thread's until its next call."""
        if count > _MOST_SCRATCH:
            return _allocated(count)
        if count > len(self._room):
            self._room = _allocated(count)
        return self._room[:count]
