"""The forgeries of a Validation that has none: some of its images, blended with themselves by fixed draws.

Owns: their pixels.  Does not own: which images they are (``manifest.py``).  Imports no TensorFlow.
"""

import dataclasses

import numpy as np
import numpy.typing as npt

from trainer.data import draws as draws_lib
from trainer.data.manifest import Split
from trainer.data.pixels import DecodedBatch, aligned_copy
from trainer.data.self_blending import blend

_PASS = 2**63  # None of training.


def blended(split: Split, index: npt.NDArray[np.int64], loaded: DecodedBatch) -> DecodedBatch:
    """Return images ``index [n]`` of a split as they count there; a split without such forgeries as it is."""
    if split.self_blended is None:
        return loaded
    examples = split.self_blended.examples[index]
    chosen = [slot for slot in np.flatnonzero(examples >= 0).tolist() if slot not in loaded.errors]
    if not chosen:
        return loaded
    images = aligned_copy(loaded.images)
    draws = draws_lib.draw(split.self_blended.seed, _PASS, examples[chosen], count=blend.DRAWS)
    for slot, row in zip(chosen, draws, strict=True):
        for view in images[slot].reshape(-1, *images.shape[-3:]):  # In place: a reshaped row is a view of it.
            view[:] = blend.self_blend(view, row)
    return dataclasses.replace(loaded, images=images)
