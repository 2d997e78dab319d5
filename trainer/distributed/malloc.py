"""Memory that tensors free on the host stays with the process for the next ones.

Owns: the thresholds of glibc's malloc.  Does not own: batches of pixels (``data/pixels.py``), memory of GPUs.
"""

import ctypes

import tensorflow as tf

# Of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
# Larger blocks get pages of their own, which the kernel fills with zeros, and lose them at once.  The most that mallopt
# takes, and what glibc would come to by itself: DEFAULT_MMAP_THRESHOLD_MAX of malloc.c, for 64 bits.
_MMAP_BYTES = 32 * 2**20
_TRIM_BYTES = 2**30  # Free memory at the end of the heap that may stay.


def keep_freed_blocks() -> None:
    """Undo what TensorFlow does to malloc; where that is not glibc's, do nothing.

    From Python 3.11 on, the first generator dataset of a process sets the threshold to 128 KB (TensorFlow 2.21,
    ``ApplyPython311MemoryPatch``), and any iterator of a strategy has such datasets inside.  Each larger tensor of a
    step is then made of fresh pages.  Must be called once the process has its logical devices.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    with tf.device("CPU:0"):  # A first one, so that it happens now and never again.
        nothing = tf.data.Dataset.from_generator(lambda: iter(()), output_signature=tf.TensorSpec([], tf.int32))
        list(nothing)
    mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
    mallopt(_M_TRIM_THRESHOLD, _TRIM_BYTES)
