"""Random numbers as functions of (seed, pass, example) alone.  Imports no TensorFlow."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainer.data.pixels import Floats

DRAWS = 8  # What one block of Philox gives.


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
) -> npt.NDArray[np.uint64]:  # fmt: skip
    """Return the first ``words`` numbers of 64 bits of each block, ``[N, len(counters) * words]``.

    Args:
        seed: of the job.
        pass_number: counted from 0; or ``[N]``.
        index: numbers of the examples in the split.
        counters: of each block, the three words of its counter that follow the example's number.
        words: at most 4.
    """
    numbers = [
        np.random.Philox(key=[seed, number], counter=[example, *counter]).random_raw(words)
        for number, example in zip(np.broadcast_to(pass_number, index.shape).tolist(), index.tolist(), strict=True)
        for counter in counters
    ]
    return np.array(numbers, np.uint64).reshape(-1, len(counters) * words)
