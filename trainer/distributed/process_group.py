"""Heartbeats, gather and broadcast of small values, and termination, among the processes of one job.

The chief holds one connection to each of the other processes.  Each side sends a heartbeat at least every second.  A
process that is silent for too long, or whose connection closes without a "bye", is lost, and then all others end at
once.  A thread of this module ends them, because the main thread may be stuck in a collective, where Python cannot
interrupt it.
Does not own: how processes connect (``rendezvous.py``), at which step they act on an event (``step_barrier.py``).
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

from trainer.core import environment, proxies, starts
from trainer.core.config import Config
from trainer.core.errors import (
    EXIT_DONE,
    EXIT_FAILED,
    EXIT_LOST_PEER,
    EXIT_REQUEST,
    EXIT_STOPPED,
    JobFailed,
    LostPeer,
    RequestError,
    StoppedEarly,
    of_process,
)
from trainer.distributed import rendezvous
from trainer.distributed.cluster import Cluster, split_address
from trainer.distributed.messages import Closed, Connection, Message
from trainer.distributed.step_barrier import Event, StepBarrier

log = logging.getLogger(__name__)

_HEARTBEAT_SECONDS = 1.0
_GRACE_SECONDS = 5.0  # For the main thread to end by itself, with its own message.
_CHIEF_WAIT_SECONDS = 10.0  # For the others to leave before the chief does.
# Kubernetes fails the whole set for the pod whose end it sees first.  That of the lost process shall be the first, so
# in a pod the others leave this much later.
_POD_YIELDS_SECONDS = 5.0
_EXIT_CODES = {  # Of the first that fits.
    RequestError: EXIT_REQUEST, LostPeer: EXIT_LOST_PEER, StoppedEarly: EXIT_STOPPED, JobFailed: EXIT_FAILED,
}  # fmt: skip


class SingleProcess:
    """The group of a process without peers, which decides alone."""

    index = 0
    size = 1

    def gather(self, value: Any) -> list[Any]:
        """Return every process's value, ordered by index; all must call it at the same point."""
        return [value]

    def broadcast(self, value: Any) -> Any:
        """Return the chief's value; all must call it at the same point."""
        return value

    def poll(self, request: Event | None) -> Event | None:
        """Return the event that all processes act on at this call (their n-th), usually None.

        Args:
            request: what this process wants to happen; the call may block until all processes know of it.
        """
        return request

    def mark_training_done(self) -> None:
        """Declare that this process no longer needs the others."""

    @contextlib.contextmanager
    def time_limit(self, seconds: float, line: str) -> Iterator[None]:
        """End all processes with code 75 and these words if the block, stuck in a collective, takes longer."""
        yield

    def on_abort(self, action: Callable[[float], None]) -> None:
        """Register a callback to run before this process aborts; its argument is how many seconds it may take."""


class ProcessGroup(SingleProcess):
    """The group of several processes, once they are connected."""

    def __init__(self, cluster: Cluster, connections: dict[int, Connection], timeout: float) -> None:
        """Start listening and sending heartbeats.

        Args:
            cluster: of several processes.
            connections: by process index, from ``rendezvous.meet``.
            timeout: seconds of silence after which a peer is lost.
        """
        self.index = cluster.worker_index
        self.size = cluster.num_workers
        self._cluster = cluster
        self._connections = connections
        self._timeout = timeout
        self._changed = threading.Condition()  # Notified of every message; the barrier uses it as well.
        self._last_heard = dict.fromkeys(connections, time.monotonic())
        self._departed: set[int] = set()
        self._training_done = False
        self._is_leaving = False  # The main thread ends, or a thread ends the process: nobody else may.
        self._stop_agreed = False
        self._is_aborting = False
        self._abort_actions: list[Callable[[float], None]] = []
        self._next_exchange = 0  # Gathers and broadcasts are numbered, as all processes make the same ones.
        self._values: dict[int, dict[int, Any]] = {}  # On the chief: by exchange and peer.
        self._answers: dict[int, Any] = {}  # On the others: by exchange.
        self._barrier = StepBarrier(self.index, self.size, self._changed, self._send)
        for peer in connections:
            threading.Thread(target=self._listen, args=(peer,), name=f"peer-{peer}", daemon=True).start()
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    # Values and events.

    def gather(self, value: Any) -> list[Any]:
        """See ``SingleProcess``; values are JSON."""
        return list(self._exchange(value, gathers=True))

    def broadcast(self, value: Any) -> Any:
        """See ``SingleProcess``; the value of a process that is not the chief is ignored."""
        return self._exchange(value, gathers=False)

    def _exchange(self, value: Any, *, gathers: bool) -> Any:
        """Return what the chief answers to all: its own value, or everyone's if it gathers them first."""
        with self._changed:
            number = self._next_exchange
            self._next_exchange += 1
        if self.index:
            if gathers:
                self._connections[0].send("value", number=number, value=value)
            with self._changed:
                self._changed.wait_for(lambda: number in self._answers)
                return self._answers.pop(number)
        answer = value
        if gathers:
            with self._changed:
                self._changed.wait_for(lambda: len(self._values.get(number, {})) == self.size - 1)
                values = self._values.pop(number)
            answer = [value, *(values[index] for index in range(1, self.size))]
        self._send("answer", number=number, value=answer)
        return answer

    def poll(self, request: Event | None) -> Event | None:
        """See ``SingleProcess``."""
        event = self._barrier.poll(request)
        if event is not None:
            self._stop_agreed = event.kind == "stop"
        return event

    # Termination.

    def mark_training_done(self) -> None:
        """See ``SingleProcess``: from now on, the chief continues if a peer is lost."""
        self._training_done = True

    @contextlib.contextmanager
    def time_limit(self, seconds: float, line: str) -> Iterator[None]:
        """See ``SingleProcess``."""
        timer = threading.Timer(seconds, self._abort, (EXIT_STOPPED, line, 0.0))
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def on_abort(self, action: Callable[[float], None]) -> None:
        """See ``SingleProcess``."""
        self._abort_actions.append(action)

    def leave(self, error: BaseException | None) -> None:
        """Tell the other processes how this one ends, and wait where the order of leaving matters.

        The chief leaves last.  After an agreed stop the others wait for it, because it may still be saving.
        """
        default = EXIT_FAILED if error else EXIT_DONE
        code = next((code for kind, code in _EXIT_CODES.items() if isinstance(error, kind)), default)
        message = " ".join(str(error).split()) if type(error) in _EXIT_CODES else repr(error)
        is_orderly = code == EXIT_DONE or (code == EXIT_STOPPED and self._stop_agreed)
        waits = self.index > 0 and is_orderly
        # While this process waits for the chief, a lost peer may still end it.
        self._is_leaving = not waits
        self._send("bye", code=code, message=message, expected=waits or self._stop_agreed)
        with self._changed:
            if waits:
                self._changed.wait_for(lambda: self._departed)
            elif not self.index:
                self._changed.wait_for(lambda: len(self._departed) == self.size - 1, timeout=_CHIEF_WAIT_SECONDS)
        self._is_leaving = True

    def explain(self, error: Exception) -> LostPeer:
        """Return what to raise instead of an error of a collective, so that all processes exit alike."""
        # A peer is gone.  Usually the listening thread knows which, and ends the process during this wait.
        time.sleep(2 * _HEARTBEAT_SECONDS + _yield_seconds())
        first = str(error).strip().splitlines()[0][:300]
        return LostPeer(f"the processes lost each other ({first}); start all of them again")

    def _send(self, kind: str, **values: Any) -> None:
        for connection in self._connections.values():
            connection.send(kind, **values)

    # Threads.

    def _watch(self) -> None:
        """Send heartbeats, and abort when a peer's stay out; runs in a thread."""
        before = time.monotonic()
        while not self._is_leaving:
            for connection in self._connections.values():
                connection.send_unless_busy("beat")
            time.sleep(min(_HEARTBEAT_SECONDS, self._timeout / 10))
            now = time.monotonic()
            if now - before > self._timeout / 2:  # This process itself was suspended, and heard nobody.
                self._last_heard = dict.fromkeys(self._last_heard, now)
            before = now
            for peer, last_heard in list(self._last_heard.items()):
                if now - last_heard > self._timeout and peer not in self._departed:
                    self._on_lost(peer, f"it has been silent for {now - last_heard:.0f} s (--peer_timeout_seconds)")

    def _listen(self, peer: int) -> None:
        """Receive one peer's messages until its connection closes; runs in a thread."""
        connection = self._connections[peer]
        try:
            while True:
                message = connection.receive()
                self._last_heard[peer] = time.monotonic()
                self._on_message(peer, message)
        except Closed as closed:
            self._on_lost(peer, str(closed))

    def _on_message(self, peer: int, message: Message) -> None:
        kind = message["kind"]
        if kind == "bye":
            self._on_bye(peer, message)
        elif kind == "lost":
            self._abort(int(message["code"]), str(message["message"]), grace=0.0)
        with self._changed:
            if kind == "value":
                self._values.setdefault(message["number"], {})[peer] = message["value"]
            elif kind == "answer":
                self._answers[message["number"]] = message["value"]
            else:
                self._barrier.receive(peer, message)
            self._changed.notify_all()

    def _on_bye(self, peer: int, message: Message) -> None:
        with self._changed:
            self._departed.add(peer)
            self._changed.notify_all()
        chief_continues = self._training_done and not self.index
        if message.get("expected") or message["code"] == EXIT_DONE or self._is_leaving or chief_continues:
            return
        line = f"{self._cluster.name(peer)} ended with code {message['code']}: {message['message']}"
        self._abort(int(message["code"]), line, grace=_GRACE_SECONDS)

    def _on_lost(self, peer: int, reason: str) -> None:
        with self._changed:
            if peer in self._departed:
                return
            self._departed.add(peer)
            self._changed.notify_all()
        line = f"lost {self._cluster.name(peer)}: {reason}"
        if self._training_done and not self.index:
            log.warning("%s; training is done, so this process continues", line)
            return
        line += "; start all processes again: they continue from the newest checkpoint"
        self._abort(EXIT_LOST_PEER, line, grace=0.0)

    def _abort(self, code: int, line: str, grace: float) -> None:
        """End the process, unless the main thread ends within ``grace`` seconds; only the first call counts."""
        with self._changed:
            if self._is_aborting or self._is_leaving:
                return
            self._is_aborting = True
        if not self.index:  # Only the chief is connected to all; it passes the verdict on.
            for peer, connection in self._connections.items():
                if peer not in self._departed:
                    connection.send("lost", code=code, message=line)
        elif code != EXIT_LOST_PEER:  # Not a word would make the chief take this process for a lost one.
            self._send("bye", code=code, message=line, expected=False)
        deadline = time.monotonic() + grace
        while time.monotonic() < deadline and not self._is_leaving:
            time.sleep(0.05)
        if code == EXIT_LOST_PEER:
            time.sleep(_yield_seconds())
        if self._is_leaving:
            return
        self._is_leaving = True
        for action in self._abort_actions:
            with contextlib.suppress(Exception):
                action(_GRACE_SECONDS)
        # As ``cli.run_command`` would print it, which the main thread may never reach.
        titles = {EXIT_STOPPED: "stopped", EXIT_LOST_PEER: "stopped", EXIT_REQUEST: "error"}
        print(f"{titles.get(code, 'failed')}: {line}", file=sys.stderr)
        code = of_process(code, in_pod=environment.is_pod())
        starts.end(code, line)
        for stream in (sys.stderr, sys.stdout):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(code)


def _yield_seconds() -> float:
    return _POD_YIELDS_SECONDS if environment.is_pod() else 0.0


@contextlib.contextmanager
def join(cluster: Cluster, config: Config) -> Iterator[SingleProcess]:
    """Connect to the other processes, yield their group, and tell them how the block ended.

    Raises:
        RequestError: if the processes were not started with the same flags and versions.
        StoppedEarly: if some did not start in time.
    """
    if cluster.num_workers == 1:
        yield SingleProcess()
        return
    proxies.go_past(split_address(address)[0] for address in cluster.addresses)
    runtime = config.runtime
    facts = rendezvous.facts_of(config)
    connections = rendezvous.meet(cluster, facts, runtime.startup_timeout_seconds)
    log.info("%s: all %d processes are here", cluster.name(cluster.worker_index), cluster.num_workers)
    group = ProcessGroup(cluster, connections, runtime.peer_timeout_seconds)
    try:
        yield group
    except BaseException as error:
        group.leave(error)
        raise
    group.leave(None)
