"""At which step all processes do what one of them wishes, found without a word between them at the other steps.

Each process counts its polls, one a step.  After a wish the chief asks all where they are; they wait there, and it
answers with the poll after the farthest, which none has passed.
Does not own: the connections and what is lost with them (``peers.py``).  Imports no TensorFlow.
"""

import dataclasses
import threading
from collections.abc import Callable

from trainer.distributed.messages import Message


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that all processes must do at the same point.

    Attributes:
        kind: ``stop`` or ``diverged``.
        reason: in words, and who had it.
    """

    kind: str
    reason: str


class StepBarrier:
    """One process's part in it; the chief's is to choose."""

    def __init__(self, index: int, size: int, changed: threading.Condition, tell: Callable[..., None]) -> None:
        """Begin at the first poll.

        Args:
            index: of this process; 0: the chief.
            size: processes.
            changed: held and notified by who hands messages to ``take``.
            tell: sends a message: the chief's to all others, another's to the chief.
        """
        self._is_chief, self._size, self._changed, self._tell = index == 0, size, changed, tell
        self._position = self._round = 0  # Polls done, and events taken.
        self._wished = self._frozen = False
        self._event: tuple[int, Event] | None = None
        self._proposed: Event | None = None  # On the chief, while it asks for positions.
        self._positions: dict[int, int] = {}

    def poll(self, wish: Event | None) -> Event | None:
        """Return the event that all processes take at this poll; None mostly.

        Args:
            wish: what this process wants to happen; it may wait here until all know of it.
        """
        with self._changed:
            if wish and not self._event and not self._wished:
                self._wished = True
                if self._is_chief:
                    self._propose(wish)
                else:
                    self._tell("wish", round=self._round, event=dataclasses.asdict(wish))
            self._changed.wait_for(lambda: not self._frozen and (self._event is not None or not self._wished))
            self._position += 1
            if self._event is None or self._position < self._event[0]:
                return None
            event, self._event = self._event[1], None
            self._wished, self._round = False, self._round + 1
            return event

    def take(self, peer: int, message: Message) -> None:
        """Act on a message of another process, if it is about this; holding the lock."""
        kind = message["kind"]
        if kind == "wish" and message["round"] == self._round:
            self._propose(Event(**message["event"]))
        elif kind == "freeze":
            self._frozen = True
            self._tell("position", position=self._position)
        elif kind == "position":
            self._positions[peer] = message["position"]
            self._decide()
        elif kind == "event":
            self._event, self._frozen = (message["at"], Event(**message["event"])), False

    def _propose(self, event: Event) -> None:
        """Ask all processes where they are; they stay there until the answer.  On the chief, holding the lock."""
        if self._proposed is None and self._event is None:
            self._proposed, self._frozen, self._positions = event, True, {0: self._position}
            self._tell("freeze")

    def _decide(self) -> None:
        """Answer once all have said where they are.  On the chief, holding the lock."""
        if self._proposed is not None and len(self._positions) == self._size:
            point = max(self._positions.values()) + 1
            self._tell("event", at=point, event=dataclasses.asdict(self._proposed))
            self._event, self._proposed, self._frozen = (point, self._proposed), None, False
            self._changed.notify_all()
