"""How many bytes the bodies of all requests may take together."""

import contextlib
from collections.abc import Iterator

from trainer.server.refusal import Busy


class Budget:
    """Bytes that requests hold from their arrival to their answer; used on the event loop alone.

    Attributes:
        used: bytes that are held now.
    """

    def __init__(self, limit: int) -> None:
        """Set the limit in bytes."""
        self.used = 0
        self._limit = limit

    @contextlib.contextmanager
    def share(self) -> Iterator["Share"]:
        """Yield a request's share, which is given back at the end of the block."""
        share = Share(self)
        try:
            yield share
        finally:
            self.used -= share.size

    def take(self, size: int) -> None:
        """Take bytes.

        Raises:
            Busy: if they are more than the rest.
        """
        if self.used + size > self._limit:
            raise Busy(
                f"the requests here hold {self.used} of {self._limit} bytes (--max_queue_bytes); try again later"
            )
        self.used += size


class Share:
    """What one request holds of a budget."""

    def __init__(self, budget: Budget) -> None:
        """Hold nothing yet."""
        self.size = 0
        self._budget = budget

    def add(self, size: int) -> None:
        """Take bytes from the budget; raises as ``Budget.take`` does."""
        self._budget.take(size)
        self.size += size
