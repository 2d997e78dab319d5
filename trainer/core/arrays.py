"""Named NumPy arrays: how weights travel between checkpoints, models and exports."""

from typing import Any

import numpy.typing as npt

Arrays = dict[str, npt.NDArray[Any]]
