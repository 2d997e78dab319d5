"""Elements that come in any order, and wait here until it is their turn.  Imports no TensorFlow."""

import dataclasses
import threading
import time
from typing import Generic, TypeVar

Element = TypeVar("Element")


@dataclasses.dataclass
class ServiceHealth:
    """What all waiting rooms of one sender know about it: whether it has kept one of them waiting for too long."""

    silent: bool = False


class ReorderBuffer(Generic[Element]):
    """A waiting room between one thread that puts elements in and several that take them by number.

    The sender hands numbers out in turn, but may lose some and send others late.
    """

    def __init__(self, room: int, patience: float, sender: ServiceHealth) -> None:
        """Make room.

        Args:
            room: elements to hold; if all of them are later than one that is waited for, that one is given up.
            patience: seconds without any element after which nothing is waited for, until one comes again.
            sender: of this and other rooms.
        """
        self._room, self._patience, self._sender = room, patience, sender
        self._changed = threading.Condition()
        self._here: dict[int, Element] = {}
        self._given_up: set[int] = set()
        self._heard = time.monotonic()
        self._over = False
        self._next = 0

    @property
    def next(self) -> int:
        """The number after the largest one that was asked for."""
        return self._next

    @property
    def over(self) -> bool:
        """Whether nothing comes any more."""
        return self._over

    def put(self, number: int, element: Element) -> None:
        """Take an element in, and wait until there is room for another one."""
        with self._changed:
            self._heard, self._sender.silent = time.monotonic(), False
            if number in self._given_up:
                self._given_up.remove(number)
                return
            self._here[number] = element
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._here) < self._room or self._over)

    def take(self, number: int) -> Element | None:
        """Wait for an element and return it; None if it is given up: lost, late, or no longer to be hoped for."""
        with self._changed:
            self._next = max(self._next, number + 1)
            while number not in self._here:
                left = self._heard + self._patience - time.monotonic()
                self._sender.silent = self._sender.silent or left <= 0.0
                if self._over or self._sender.silent or len(self._here) >= self._room:
                    self._given_up.add(number)
                    return None
                self._changed.wait(left)
            self._changed.notify_all()
            return self._here.pop(number)

    def end(self) -> None:
        """Say that nothing comes any more, or that nobody takes any more."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
