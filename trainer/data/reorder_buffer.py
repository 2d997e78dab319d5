"""A reorder buffer: elements arrive in any order and leave in sequence.  Imports no TensorFlow."""

import dataclasses
import threading
import time
from typing import Generic, TypeVar

Element = TypeVar("Element")


@dataclasses.dataclass
class ServiceHealth:
    """What all buffers of one service know about it.

    Attributes:
        silent: whether one of them has waited too long for an element.
        abandoned: thread that still waits for the service although nobody takes elements from its buffer any more.
    """

    silent: bool = False
    abandoned: threading.Thread | None = None


class ReorderBuffer(Generic[Element]):
    """A buffer between one thread that puts elements in and several that take them by number.

    The service hands out numbers in sequence, but it may lose some elements and deliver others late.
    """

    def __init__(self, capacity: int, patience: float, health: ServiceHealth) -> None:
        """Create an empty buffer.

        Args:
            capacity: elements to hold; if all of them are later than one that is waited for, that one is given up.
            patience: seconds without any element after which none is waited for, until one arrives again.
            health: of the service, shared with its other buffers.
        """
        self._capacity = capacity
        self._patience = patience
        self._health = health
        self._changed = threading.Condition()
        self._elements: dict[int, Element] = {}
        self._given_up: set[int] = set()
        self._last_arrival = time.monotonic()
        self._over = False
        self._next = 0

    @property
    def next(self) -> int:
        """The number after the largest one that was requested."""
        return self._next

    @property
    def over(self) -> bool:
        """Whether the stream has ended."""
        return self._over

    def put(self, number: int, element: Element) -> None:
        """Store an element, then wait until there is room for another one."""
        with self._changed:
            self._last_arrival = time.monotonic()
            self._health.silent = False
            if number in self._given_up:  # Too late: the reader has already moved on.
                self._given_up.remove(number)
                return
            self._elements[number] = element
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._elements) < self._capacity or self._over)

    def take(self, number: int) -> Element | None:
        """Wait for an element and return it; None if it is given up: lost, late or timed out."""
        with self._changed:
            self._next = max(self._next, number + 1)
            while number not in self._elements:
                remaining = self._last_arrival + self._patience - time.monotonic()
                self._health.silent = self._health.silent or remaining <= 0.0
                # A full buffer has no room for this element, so waiting for it would block both sides for ever.
                if self._over or self._health.silent or len(self._elements) >= self._capacity:
                    self._given_up.add(number)
                    return None
                self._changed.wait(remaining)
            self._changed.notify_all()
            return self._elements.pop(number)

    def end(self) -> None:
        """End the stream: nothing more arrives, or nobody takes any more."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
