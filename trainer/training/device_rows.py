"""Outputs of batches that stay on the device until those of several are fetched at once, so that none is waited for."""

import numpy as np
import numpy.typing as npt
import tensorflow as tf

# So many batches may still be computed on a GPU after a stop request.
_BATCHES = 16


class DeviceRows:
    """Rows of consecutive batches, on the device; the host gets them in larger pieces."""

    def __init__(self) -> None:
        """Begin without a row."""
        self._outputs: list[tf.Tensor] = []

    def __len__(self) -> int:
        return sum(len(output) for output in self._outputs)

    @property
    def is_full(self) -> bool:
        """Whether it is time to fetch them."""
        return len(self._outputs) >= _BATCHES

    def add(self, output: tf.Tensor) -> None:
        """Add the rows of the next batch, which may not be computed yet."""
        self._outputs.append(output)

    def fetch(self) -> npt.NDArray[np.float32]:
        """Return all rows, and forget them; waits until they are computed."""
        outputs, self._outputs = self._outputs, []
        rows: npt.NDArray[np.float32] = tf.concat(outputs, axis=0).numpy()
        return rows
