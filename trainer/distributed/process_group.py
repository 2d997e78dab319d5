"""What the processes of one job tell each other beside TensorFlow: I am here, this is my value, I must end.

The chief holds one connection to each of the others.  Each side hears the other at least every second; who is silent
for too long, or whose connection closes without a word, is lost, and then every other process ends at once: the main
thread may be stuck in a collective for good, where Python cannot reach it, so a thread of this module decides.
Does not own: how they meet (``rendezvous.py``), at which step they take an event (``appointment.py``).
Imports no TensorFlow.
"""

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from trainer.core.config import Config
from trainer.core.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_REQUEST,
    EXIT_STOPPED,
    JobFailed,
    RequestError,
    StoppedEarly,
)
from trainer.distributed import rendezvous
from trainer.distributed.cluster import Cluster
from trainer.distributed.messages import Closed, Connection, Message
from trainer.distributed.step_barrier import Event, StepBarrier

log = logging.getLogger(__name__)

_BEAT_SECONDS = 1.0
_GRACE_SECONDS = 5.0  # For a process to come to the same end by itself, with its own words.
_LAST_SECONDS = 10.0  # For the others to be gone before the chief goes.
_CODES = {RequestError: EXIT_REQUEST, StoppedEarly: EXIT_STOPPED, JobFailed: EXIT_FAILED}


class SingleProcess:
    """The group of a process that has no peers: every decision is its own."""

    index = 0
    size = 1

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, in the order of their indices; all must call it at the same point."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """Return the chief's value; all must call it at the same point."""
        return value

    def poll(self, wish: Event | None) -> Event | None:
        """Return the event that all processes take at this call, the n-th of each; None mostly.

        Args:
            wish: what this process wants to happen; it may wait here until all know of it.
        """
        return wish

    def mark_training_done(self) -> None:
        """Say that this process needs the others no more."""

    def on_abort(self, action: Callable[[float], None]) -> None:
        """Name what a thread may finish, in so many seconds, before it ends the process."""


class ProcessGroup(SingleProcess):
    """The group of several processes, once they have met."""

    def __init__(self, cluster: Cluster, connections: dict[int, Connection], timeout: float) -> None:
        """Begin to listen and to be heard.

        Args:
            cluster: of several processes.
            connections: of ``rendezvous.meet``.
            timeout: seconds of silence after which a peer is lost.
        """
        self.index, self.size = cluster.worker_index, cluster.num_workers
        self._cluster, self._connections, self._timeout = cluster, connections, timeout
        self._changed = threading.Condition()
        self._heard = dict.fromkeys(connections, time.monotonic())
        self._gone: set[int] = set()
        self._over = self._leaving = self._decided_end = self._ending = False
        self._actions: list[Callable[[float], None]] = []
        self._number = 0  # Of gather and share.
        self._values: dict[int, dict[int, Any]] = {}
        self._answers: dict[int, Any] = {}
        self._appointment = StepBarrier(self.index, self.size, self._changed, self._tell)
        for peer in connections:
            threading.Thread(target=self._listen, args=(peer,), name=f"peer-{peer}", daemon=True).start()
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    # Values and events.

    def gather(self, value: Any) -> list[Any]:
        """See ``SingleProcess``; values are JSON."""
        return list(self._answer(value, own=True))

    def broadcast(self, value: Any) -> Any:
        """See ``SingleProcess``; the value of a process that is not the chief is ignored."""
        return self._answer(value, own=False)

    def _answer(self, value: Any, *, own: bool) -> Any:
        with self._changed:
            number, self._number = self._number, self._number + 1
        if self.index:
            if own:
                self._connections[0].send("value", number=number, value=value)
            with self._changed:
                self._changed.wait_for(lambda: number in self._answers)
                return self._answers.pop(number)
        answer = value
        if own:
            with self._changed:
                self._changed.wait_for(lambda: len(self._values.get(number, {})) == self.size - 1)
                values = self._values.pop(number)
            answer = [value, *(values[index] for index in range(1, self.size))]
        self._tell("answer", number=number, value=answer)
        return answer

    def poll(self, wish: Event | None) -> Event | None:
        """See ``SingleProcess``."""
        event = self._appointment.poll(wish)
        if event is not None:
            self._decided_end = event.kind == "stop"
        return event

    # The end.

    def mark_training_done(self) -> None:
        """See ``SingleProcess``: from here on a peer that leaves is no loss to the chief."""
        self._over = True

    def on_abort(self, action: Callable[[float], None]) -> None:
        """See ``SingleProcess``."""
        self._actions.append(action)

    def leave(self, error: BaseException | None) -> None:
        """Tell the others how this process ends.

        The chief goes last.  After a common stop, the others wait for it, as it may still be saving.
        """
        code = next((code for kind, code in _CODES.items() if isinstance(error, kind)), EXIT_FAILED if error else 0)
        message = " ".join(str(error).split()) if type(error) in _CODES else repr(error)
        waits = self.index > 0 and (code == EXIT_DONE or (code == EXIT_STOPPED and self._decided_end))
        self._leaving = not waits
        self._tell("bye", code=code, message=message, expected=waits or self._decided_end)
        with self._changed:
            if waits:
                self._changed.wait_for(lambda: self._gone)
            elif not self.index:
                self._changed.wait_for(lambda: len(self._gone) == self.size - 1, timeout=_LAST_SECONDS)
        self._leaving = True

    def explain(self, error: Exception) -> StoppedEarly:
        """Return what to raise for an error of a collective: a peer is gone, and its connection will tell which."""
        time.sleep(2 * _BEAT_SECONDS)  # The listening thread ends the process here if it knows more.
        first = str(error).strip().splitlines()[0][:300]
        return StoppedEarly(f"the processes lost each other ({first}); start all of them again")

    def _tell(self, kind: str, **values: Any) -> None:
        for connection in self._connections.values():
            connection.send(kind, **values)

    # Threads.

    def _watch(self) -> None:
        before = time.monotonic()
        while not self._leaving:
            for connection in self._connections.values():
                connection.send_unless_busy("beat")
            time.sleep(min(_BEAT_SECONDS, self._timeout / 10))
            now = time.monotonic()
            if now - before > self._timeout / 2:  # This process was suspended itself, and heard nobody.
                self._heard = dict.fromkeys(self._heard, now)
            before = now
            for peer, heard in list(self._heard.items()):
                if now - heard > self._timeout and peer not in self._gone:
                    self._lost(peer, f"it has been silent for {now - heard:.0f} s (--peer_timeout_seconds)")

    def _listen(self, peer: int) -> None:
        connection = self._connections[peer]
        try:
            while True:
                message = connection.receive()
                self._heard[peer] = time.monotonic()
                self._take(peer, message)
        except Closed as closed:
            self._lost(peer, str(closed))

    def _take(self, peer: int, message: Message) -> None:
        kind = message["kind"]
        if kind == "bye":
            self._said_bye(peer, message)
        elif kind == "lost":
            self._end(int(message["code"]), str(message["message"]), grace=0.0)
        with self._changed:
            if kind == "value":
                self._values.setdefault(message["number"], {})[peer] = message["value"]
            elif kind == "answer":
                self._answers[message["number"]] = message["value"]
            else:
                self._appointment.take(peer, message)
            self._changed.notify_all()

    def _said_bye(self, peer: int, message: Message) -> None:
        with self._changed:
            self._gone.add(peer)
            self._changed.notify_all()
        if message.get("expected") or message["code"] == EXIT_DONE or self._leaving or (self._over and not self.index):
            return
        line = f"{self._cluster.name(peer)} ended with code {message['code']}: {message['message']}"
        self._end(int(message["code"]), line, grace=_GRACE_SECONDS)

    def _lost(self, peer: int, reason: str) -> None:
        with self._changed:
            if peer in self._gone:
                return
            self._gone.add(peer)
            self._changed.notify_all()
        line = f"lost {self._cluster.name(peer)}: {reason}"
        if self._over and not self.index:
            log.warning("%s; the training is over, so this process goes on", line)
            return
        self._end(EXIT_STOPPED, f"{line}; start all processes again: they continue from the newest checkpoint", 0.0)

    def _end(self, code: int, line: str, grace: float) -> None:
        """End the process from a thread, unless the main thread ends first by itself; the first verdict stands."""
        with self._changed:
            if self._ending or self._leaving:
                return
            self._ending = True
        if not self.index:
            for peer, connection in self._connections.items():
                if peer not in self._gone:
                    connection.send("lost", code=code, message=line)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and not self._leaving:
            time.sleep(0.05)
        if self._leaving:
            return
        self._leaving = True
        for action in self._actions:
            with contextlib.suppress(Exception):
                action(_GRACE_SECONDS)
        words = {EXIT_STOPPED: "stopped", EXIT_REQUEST: "error"}
        print(f"{words.get(code, 'failed')}: {line}", file=sys.stderr)
        for stream in (sys.stderr, sys.stdout):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


@contextlib.contextmanager
def join(cluster: Cluster, config: Config) -> Iterator[SingleProcess]:
    """Meet the other processes, be one of them while the block runs, and tell them how it ended.

    Raises:
        RequestError: if the processes were not started alike.
        StoppedEarly: if some never came.
    """
    if cluster.num_workers == 1:
        yield SingleProcess()
        return
    runtime = config.runtime
    facts = rendezvous.facts_of(config, cluster)
    connections = rendezvous.meet(cluster, facts, runtime.startup_timeout_seconds)
    log.info("%s: all %d processes are here", cluster.name(cluster.worker_index), cluster.num_workers)
    group = ProcessGroup(cluster, connections, runtime.peer_timeout_seconds)
    try:
        yield group
    except BaseException as error:
        group.leave(error)
        raise
    group.leave(None)
