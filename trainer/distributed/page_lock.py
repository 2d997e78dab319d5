"""Batches in memory that the operating system never moves, so that a GPU fetches them by itself.

From other memory a thread of the driver first copies each batch, piece by piece (CUDA programming guide, "Page-locked
host memory").  Without NVIDIA's driver, or if it refuses, memory stays as it is.  Imports no TensorFlow.
"""

import contextlib
import ctypes
import functools
import logging
import weakref
from collections.abc import Iterator
from typing import Any

from trainer.data import pixels
from trainer.data.pixels import Pixels

log = logging.getLogger(__name__)

_LIBRARY = "libcuda.so.1"
_PORTABLE = 1  # CU_MEMHOSTREGISTER_PORTABLE: for the contexts of all GPUs.


def enable() -> None:
    """Lock all batches that this process makes from now on."""
    try:
        pixels.prepare_with(_process_lock())
    except OSError as error:
        _explain(error)


@functools.cache
def _process_lock() -> "PageLock":
    """Return the lock of this process: each one keeps the GPU's context, which nothing gives back.

    Raises:
        OSError: if there is no driver or no GPU.
    """
    return PageLock(ctypes.CDLL(_LIBRARY))


class PageLock:
    """Locks arrays for as long as they live, unless the driver refuses; safe to call from several threads."""

    def __init__(self, cuda: Any) -> None:
        """Bind the driver's library.

        Raises:
            OSError: if it has no GPU.
        """
        self._cuda = cuda
        self._has_explained = False
        self._context = ctypes.c_void_p()
        _require(cuda.cuInit(0), "cuInit")
        # The context of TensorFlow, and of all libraries.
        _require(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), 0), "cuDevicePrimaryCtxRetain")

    def __call__(self, array: Pixels) -> None:
        """Lock the memory of an array, which has pages of its own, until it is freed."""
        address = ctypes.c_void_p(array.ctypes.data)
        try:
            with self._in_context():
                _require(
                    self._cuda.cuMemHostRegister_v2(address, ctypes.c_size_t(array.nbytes), _PORTABLE),
                    "cuMemHostRegister",
                )
        except OSError as error:
            if not self._has_explained:
                self._has_explained = True
                _explain(error)
            return
        # NumPy tells weak references before it frees the memory.
        weakref.finalize(array, self._unlock, address).atexit = False

    def _unlock(self, address: ctypes.c_void_p) -> None:
        with self._in_context():
            self._cuda.cuMemHostUnregister(address)

    @contextlib.contextmanager
    def _in_context(self) -> Iterator[None]:
        """Make the GPU's context that of this thread for a moment."""
        _require(self._cuda.cuCtxPushCurrent_v2(self._context), "cuCtxPushCurrent")
        try:
            yield
        finally:
            self._cuda.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _explain(error: OSError) -> None:
    log.info("batches go to the GPU from ordinary memory, which is slower: %s", str(error))


def _require(code: int, function: str) -> None:
    if code:
        raise OSError(f"{function} of NVIDIA's driver returned {code}")
