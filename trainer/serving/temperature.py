"""Temperature scaling of probabilities.  Does not own: the choice of the temperature (``calibration.py``)."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

SMALLEST = 1e-30  # Probabilities are clipped to this before the logarithm; float32 can represent it.


def temper(probabilities: Floats, temperature: float) -> Floats:
    """Return ``softmax(log p / temperature)`` of rows ``[N, C]`` (Guo et al. 2017, arXiv:1706.04599, section 4.2).

    This equals dividing the logits that gave p.  ``temper(temper(p, t), 1 / t)`` is p again.
    """
    if temperature == 1.0:
        return probabilities
    logits = np.log(np.maximum(probabilities, SMALLEST)) / temperature
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(exponentials / exponentials.sum(axis=1, keepdims=True), np.float64)
