"""Named NumPy arrays: the form of weights between checkpoints, models and exports.  Imports no TensorFlow."""

from typing import Any

import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]

MODEL_PREFIX = "model/"  # Of a model's variables in a checkpoint.
