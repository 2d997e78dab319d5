"""Connect the processes of a job: each sends the chief its index, flags and versions.

The chief names the processes that are missing, and refuses those that were started with other flags or versions.  It
listens only until all are connected.  Imports no TensorFlow.
Does not own: what is sent over the connections afterwards (``process_group.py``).
"""

import contextlib
import importlib.metadata
import logging
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

from trainer import __version__
from trainer.core.config import Config
from trainer.core.errors import RequestError, StoppedEarly
from trainer.distributed.cluster import Cluster, split_address
from trainer.distributed.messages import Closed, Connection, Message

log = logging.getLogger(__name__)

_HELLO_SECONDS = 10.0  # For the first message of a new connection.
_REMIND_SECONDS = 15.0  # Between log lines about who is missing.
_BIND_SECONDS = 10.0  # For a port that an earlier process still holds.
_REFUSAL_SECONDS = 15.0  # For processes that have not connected yet to get the refusal as well.
# Paths may differ between machines; that the files are the same is checked by content.
_MAY_DIFFER = {"data_dir", "job_dir"}

Facts = dict[str, dict[str, Any]]


def facts_of(config: Config, cluster: Cluster) -> Facts:
    """Return what must be the same on all processes: flags, versions and addresses."""
    settings = {f"--{name}": value for name, value in config.flat().items() if name not in _MAY_DIFFER}
    versions: dict[str, Any] = {"deepdetect": __version__, "python": "{}.{}".format(*sys.version_info)}
    for name in ("tensorflow", "keras", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"flags": settings, "versions": versions, "cluster": {"addresses": ",".join(cluster.addresses)}}


def meet(cluster: Cluster, facts: Facts, timeout: float) -> dict[int, Connection]:
    """Return connections to all others (chief), or to the chief alone.

    Args:
        cluster: of several processes.
        facts: from ``facts_of`` this process.
        timeout: seconds to wait for the others.

    Raises:
        RequestError: if the processes were not started with the same flags and versions.
        StoppedEarly: if some did not connect in time, or a port is taken; a retry can help.
    """
    _require_free(split_address(cluster.addresses[cluster.worker_index])[1])
    deadline = time.monotonic() + timeout
    if cluster.is_chief:
        return _Chief(cluster, facts, timeout).meet(deadline)
    return {0: _find_chief(cluster, facts, timeout, deadline)}


def _require_free(port: int) -> None:
    """Refuse a port that another process holds; TensorFlow's server would share it silently (SO_REUSEPORT)."""
    with _listening(port):
        pass


@contextlib.contextmanager
def _listening(port: int) -> Iterator[socket.socket]:
    """Listen on all addresses; wait a moment if a process that is still ending holds the port."""
    deadline = time.monotonic() + _BIND_SECONDS
    while True:
        try:
            server = socket.create_server(("", port), backlog=128)
            break
        except OSError as error:
            if time.monotonic() > deadline:
                raise StoppedEarly(
                    f"expected port {port} of this machine to be free, received: {error.strerror}; an earlier start "
                    "of the job may still be ending: wait for it or choose another port"
                ) from error
            time.sleep(0.5)
    with server:
        yield server


class _Chief:
    """The chief while it waits for the others."""

    def __init__(self, cluster: Cluster, facts: Facts, timeout: float) -> None:
        self._cluster = cluster
        self._facts = facts
        self._timeout = timeout
        self._connections: dict[int, Connection] = {}
        self._refusal = ""

    def meet(self, deadline: float) -> dict[int, Connection]:
        """Return a connection for each other process; see ``meet`` of the module."""
        reminder = time.monotonic() + _REMIND_SECONDS
        with _listening(self._cluster.peer_port) as server:
            server.settimeout(0.25)
            while self._missing():
                self._accept(server)
                now = time.monotonic()
                if self._refusal:  # Refuse those that connect soon, too, instead of leaving them waiting.
                    deadline = min(deadline, now + _REFUSAL_SECONDS)
                if now >= deadline:
                    break
                if now >= reminder:
                    log.info("waiting for %s", self._names(self._missing()))
                    reminder = now + _REMIND_SECONDS
        if self._refusal:
            raise RequestError(self._refusal)
        if self._missing():
            self._give_up()
        for connection in self._connections.values():
            connection.send("welcome")
        return self._connections

    def _missing(self) -> list[int]:
        return [index for index in range(1, self._cluster.num_workers) if index not in self._connections]

    def _names(self, indices: list[int]) -> str:
        return ", ".join(self._cluster.name(index) for index in indices)

    def _accept(self, server: socket.socket) -> None:
        """Accept at most one connection; a process that died while it waited may connect again."""
        try:
            raw, address = server.accept()
        except TimeoutError:
            if not self._refusal:
                self._connections = {index: peer for index, peer in self._connections.items() if peer.is_open()}
            return
        connection = Connection(raw)
        try:
            hello = connection.receive(_HELLO_SECONDS)
            self._register(connection, hello)
        except (Closed, TimeoutError, KeyError, TypeError, ValueError) as error:
            log.warning("refused a connection from %s: %s", address[0], error)
            connection.close()

    def _register(self, connection: Connection, hello: Message) -> None:
        """Keep a connection, and refuse all of them from the first difference on."""
        index = int(hello["index"])
        difference = self._difference(index, hello)
        if difference and not self._refusal:
            self._refusal = difference
            for other in self._connections.values():
                other.send("refused", message=self._refusal)
        if self._refusal:
            connection.send("refused", message=self._refusal)
        if 0 < index < self._cluster.num_workers:
            self._connections.setdefault(index, connection)

    def _difference(self, index: int, hello: Message) -> str:
        """Return what is wrong with a new process; empty if nothing is."""
        differences = []
        for section, own in self._facts.items():
            theirs = hello["facts"].get(section, {})
            differences += [
                f"{name} (chief: {own.get(name)}, worker {index}: {theirs.get(name)})"
                for name in sorted(own.keys() | theirs.keys())
                if own.get(name) != theirs.get(name)
            ]
        if differences:
            return (
                f"expected all processes to be started alike, received different values of {'; '.join(differences)}; "
                "start all of them with the same flags, cluster and installation"
            )
        if not 0 < index < self._cluster.num_workers:
            return f"expected worker indices in 1..{self._cluster.num_workers - 1}, received {index}"
        if index in self._connections and self._connections[index].is_open():
            return f"expected one process for each worker index, received two with index {index}; give each its own"
        self._connections.pop(index, None)
        return ""

    def _give_up(self) -> None:
        reason = f"{self._names(self._missing())} did not come within {self._timeout:g} s"
        for connection in self._connections.values():
            connection.send("gave_up", message=reason)
        raise StoppedEarly(f"{reason} (--startup_timeout_seconds); nothing was lost: start all processes again")


def _find_chief(cluster: Cluster, facts: Facts, timeout: float, deadline: float) -> Connection:
    """Return a connection to the chief, once it has welcomed this process."""
    host, port = cluster.meeting_place
    reminder = time.monotonic() + _REMIND_SECONDS
    reason = ""
    while time.monotonic() < deadline:
        try:
            connection = Connection(socket.create_connection((host, port), timeout=5.0))
            connection.send("hello", index=cluster.worker_index, facts=facts)
            # The chief started its own deadline at another time.  Wait for its answer, which names the missing ones.
            answer = connection.receive(max(deadline - time.monotonic(), 0.0) + timeout)
            break
        except (OSError, Closed) as error:  # Not started, not in the DNS yet, or ended while it waited.
            reason = str(error)
            if time.monotonic() >= reminder:
                log.info("waiting for %s at %s:%d: %s", cluster.name(0), host, port, reason)
                reminder = time.monotonic() + _REMIND_SECONDS
            time.sleep(0.5)
    else:
        raise StoppedEarly(
            f"{cluster.name(0)} did not come to {host}:{port} within {timeout:g} s (--startup_timeout_seconds): "
            f"{reason}; nothing was lost: start all processes again"
        )
    if answer["kind"] == "refused":
        raise RequestError(str(answer["message"]))
    if answer["kind"] != "welcome":
        raise StoppedEarly(f"{answer.get('message')} (--startup_timeout_seconds); start all processes again")
    return connection
