"""Random numbers as functions of (seed, pass, example) alone.  Imports no TensorFlow."""

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
    blocks = range(-(-count // DRAWS))
    raw = [
        np.random.Philox(key=[seed, number], counter=[example, stream, block, 0]).random_raw(DRAWS // 2)
        for number, example in zip(np.broadcast_to(pass_number, index.shape).tolist(), index.tolist(), strict=True)
        for block in blocks
    ]
    bits = np.array(raw, np.uint64).reshape(-1, len(blocks) * DRAWS // 2).view(np.uint32)[:, :count]
    return (bits >> 8).astype(np.float32) / np.float32(2**24)  # The 24 bits that a float32 holds.
