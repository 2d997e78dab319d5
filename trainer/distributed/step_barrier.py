"""Agree on the step at which all processes act on what one of them requests, without messages at ordinary steps.

Each process counts its polls, one per step.  After a request the chief asks all processes for their count; they wait
there, and it answers with the poll after the furthest, which no process has passed.
Does not own: the connections and the loss of a peer (``process_group.py``).  Imports no TensorFlow.
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
        reason: in words, and which process had it.
    """

    kind: str
    reason: str


class StepBarrier:
    """The part of one process; the chief's part chooses the step."""

    def __init__(self, index: int, size: int, changed: threading.Condition, send: Callable[..., None]) -> None:
        """Start before the first poll.

        Args:
            index: of this process; 0 is the chief.
            size: number of processes.
            changed: held, and notified afterwards, by whoever passes messages to ``receive``.
            send: sends a message: the chief's to all others, another process's to the chief.
        """
        self._is_chief = index == 0
        self._size = size
        self._changed = changed
        self._send = send
        self._position = 0  # Polls so far.
        self._round = 0  # Events so far; a request of an earlier round is out of date.
        self._is_waiting = False  # This process requested an event that has not happened.
        self._is_frozen = False  # The chief asked for this process's position and has not answered.
        self._event: tuple[int, Event] | None = None  # With the poll at which it happens.
        self._proposal: Event | None = None  # On the chief, while it collects positions.
        self._positions: dict[int, int] = {}

    def poll(self, request: Event | None) -> Event | None:
        """Return the event that all processes act on at this poll, usually None.

        Args:
            request: what this process wants to happen; the call may block until all processes know of it.
        """
        with self._changed:
            if request and not self._event and not self._is_waiting:
                self._is_waiting = True
                if self._is_chief:
                    self._propose(request)
                else:
                    self._send("wish", round=self._round, event=dataclasses.asdict(request))
            # No process may take a step between its answer to the chief and the chief's decision.
            self._changed.wait_for(lambda: not self._is_frozen and (self._event is not None or not self._is_waiting))
            self._position += 1
            if self._event is None or self._position < self._event[0]:
                return None
            event = self._event[1]
            self._event = None
            self._is_waiting = False
            self._round += 1
            return event

    def receive(self, peer: int, message: Message) -> None:
        """Act on another process's message if it concerns the barrier; the caller holds the lock."""
        kind = message["kind"]
        if kind == "wish" and message["round"] == self._round:
            self._propose(Event(**message["event"]))
        elif kind == "freeze":
            self._is_frozen = True
            self._send("position", position=self._position)
        elif kind == "position":
            self._positions[peer] = message["position"]
            self._decide()
        elif kind == "event":
            self._event = (message["at"], Event(**message["event"]))
            self._is_frozen = False

    def _propose(self, event: Event) -> None:
        """Ask all processes for their positions; they wait there for the answer.  On the chief, holding the lock."""
        if self._proposal is None and self._event is None:
            self._proposal = event
            self._is_frozen = True
            self._positions = {0: self._position}
            self._send("freeze")

    def _decide(self) -> None:
        """Answer once all processes have sent their positions.  On the chief, holding the lock."""
        if self._proposal is not None and len(self._positions) == self._size:
            point = max(self._positions.values()) + 1
            self._send("event", at=point, event=dataclasses.asdict(self._proposal))
            self._event = (point, self._proposal)
            self._proposal = None
            self._is_frozen = False
            self._changed.notify_all()
