"""Which of many things are connected by pairs that arrive in blocks."""

import numpy as np
import numpy.typing as npt
from scipy import sparse

_WAITING = 1 << 22  # Pairs; each merge costs a pass over all things.

Ints = npt.NDArray[np.int64]


class Union:
    """The connected parts of ``size`` things; memory does not grow with the number of pairs."""

    def __init__(self, size: int) -> None:
        """Begin with no thing connected to another."""
        self._parts = np.arange(size)
        self._blocks: list[tuple[Ints, Ints]] = []
        self._waiting = 0

    def join(self, first: Ints, second: Ints) -> None:
        """Connect ``first[i]`` with ``second[i]``."""
        if len(first):
            self._blocks.append((first, second))
            self._waiting += len(first)
        if self._waiting > _WAITING:
            self._merge()

    def parts(self) -> Ints:
        """Return ``[size]``, the number of each thing's part."""
        self._merge()
        return self._parts

    def _merge(self) -> None:
        if not self._blocks:
            return
        first, second = (self._parts[np.concatenate(side)] for side in zip(*self._blocks, strict=True))
        size = len(self._parts)
        graph = sparse.coo_matrix((np.ones(len(first), np.bool_), (first, second)), shape=(size, size))
        numbers = sparse.csgraph.connected_components(graph, directed=False)[1]
        self._parts = numbers[self._parts].astype(np.int64)
        self._blocks, self._waiting = [], 0
