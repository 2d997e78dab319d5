"""Random numbers as functions of (seed, pass, example) alone.  Imports no TensorFlow."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainer.data.pixels import Floats

DRAWS = 8  # What one block of Philox gives.

# Philox4x64-10: multipliers of the even and of the odd words, and what the key grows by in each round (Salmon et al.
# 2011, "Parallel random numbers: as easy as 1, 2, 3", table 2 and section 3.3).
_MULTIPLIERS = np.array([0xD2E7470EE14C6C93, 0xCA5A826395121157], np.uint64)[:, None, None]
_KEY_STEPS = np.array([0x9E3779B97F4A7C15, 0xBB67AE8584CAA73B], np.uint64)[:, None, None]
_ROUNDS = 10
_HALF, _MASK = np.uint64(32), np.uint64(2**32 - 1)
_UPPER, _LOWER = _MULTIPLIERS >> _HALF, _MULTIPLIERS & _MASK

Words = npt.NDArray[np.uint64]


def draw(
    seed: int, pass_number: int | npt.NDArray[np.int64], index: npt.NDArray[np.int64], *, stream: int = 0,
    count: int = DRAWS,
) -> Floats:  # fmt: skip
    """Draw ``[N, count]`` uniform in [0, 1) for examples ``index [N]`` of a pass, or each of its own pass.

    Blocks of Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), whose key is the seed and
    the pass, and whose counter is the example, the stream and the block.

    Args:
        seed: of the job.
        pass_number: counted from 0; or ``[N]``.
        index: numbers of the examples in the split.
        stream: streams are independent; each augmentation of a sequence has its own.
        count: numbers for each example.
    """
    counters = [[stream, block, 0] for block in range(-(-count // DRAWS))]
    bits = raw(seed, pass_number, index, counters, DRAWS // 2).view(np.uint32)[:, :count]
    return (bits >> 8).astype(np.float32) / np.float32(2**24)  # The 24 bits that a float32 holds.


def raw(
    seed: int, pass_number: int | npt.NDArray[np.int64], index: npt.NDArray[np.int64],
    counters: Sequence[Sequence[int]], words: int,
) -> Words:  # fmt: skip
    """Return the first ``words`` numbers of 64 bits of each block, ``[N, len(counters) * words]``.

    The bits of ``numpy.random.Philox`` with ``key=[seed, pass_number]`` and ``counter=[index, *counter]``, for all
    examples at once: one object for each example took 10 us of the interpreter's lock, and reading is threads.

    Args:
        seed: of the job.
        pass_number: counted from 0; or ``[N]``.
        index: numbers of the examples in the split.
        counters: of each block, the three words of its counter that follow the example's number.
        words: at most 4.
    """
    blocks = np.array(counters, np.uint64)
    shape = (len(index), len(blocks))
    first = index.astype(np.uint64)[:, None] + np.uint64(1)  # NumPy counts before it gives a block.
    counter = np.stack([np.broadcast_to(word, shape) for word in (first, *blocks.T)])
    key = np.empty((2, len(index), 1), np.uint64)
    key[0], key[1] = seed, np.broadcast_to(pass_number, index.shape)[:, None]
    numbers = np.stack([*_philox(counter, key)[:words]], axis=-1)
    return numbers.reshape(len(index), len(blocks) * words)


def _philox(counter: Words, key: Words) -> Words:
    """Return the four words of blocks with counters ``[4, N, B]`` and keys ``[2, N, 1]``."""
    for _ in range(_ROUNDS):
        high, low = _products(counter[::2])
        counter = np.stack([high[1] ^ counter[1] ^ key[0], low[1], high[0] ^ counter[3] ^ key[1], low[0]])
        key = key + _KEY_STEPS
    return counter


def _products(words: Words) -> tuple[Words, Words]:
    """Return the upper and the lower 64 bits of words ``[2, N, B]`` times the multipliers, from products of halves."""
    upper, lower = words >> _HALF, words & _MASK
    low, cross, other = _LOWER * lower, _LOWER * upper, _UPPER * lower
    middle = (low >> _HALF) + (cross & _MASK) + (other & _MASK)
    return _UPPER * upper + (cross >> _HALF) + (other >> _HALF) + (middle >> _HALF), _MULTIPLIERS * words
