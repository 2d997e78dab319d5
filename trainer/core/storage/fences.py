"""Writes of a process that holds locks which it can lose.  Imports no TensorFlow.

Does not own: how a lock is lost (``lease.py``).
"""

import contextlib
from collections.abc import Callable, Iterator


class Fences:
    """The locks that this process holds on a storage; each write asks all of them first.

    The first one belongs to the outermost lock: a sweep's, around its trial's.
    """

    def __init__(self) -> None:
        self._checks: list[Callable[[], None]] = []

    @contextlib.contextmanager
    def added(self, check: Callable[[], None]) -> Iterator[None]:
        """Call ``check`` before each write while the block runs; it raises if this process may no longer write."""
        self._checks.append(check)
        try:
            yield
        finally:
            self._checks.remove(check)

    def check(self) -> None:
        """Return if this process may write."""
        for check in list(self._checks):
            check()

    def __bool__(self) -> bool:
        """Return whether there are any."""
        return bool(self._checks)
