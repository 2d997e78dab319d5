"""Connect the processes of a job: each proves to the chief that it is of the job, and sends its flags and versions.

The chief names the processes that are missing, and refuses those that were started with other flags or versions.  It
listens only until all are connected.  Each newcomer is examined in a thread of its own, within a time limit: whoever
else reaches the port (a health check, a port scan, another job, an older start) is sent away and counted.
Does not own: the proof (``handshake.py``), what is sent over the connections afterwards (``process_group.py``).
Imports no TensorFlow.
"""

import contextlib
import errno
import importlib.metadata
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from trainer import __version__
from trainer.core.config import Config
from trainer.core.errors import RequestError, StoppedEarly
from trainer.distributed import handshake
from trainer.distributed.cluster import Cluster, split_address
from trainer.distributed.handshake import Stranger
from trainer.distributed.messages import Closed, Connection, Message

log = logging.getLogger(__name__)

_REMIND_SECONDS = 15.0  # Between log lines about who is missing.
_BIND_SECONDS = 10.0  # For a port that an earlier process still holds.
_REFUSAL_SECONDS = 15.0  # For processes that have not connected yet to get the refusal as well.
_SKEW_SECONDS = 10.0  # Between the processes of one start; one that waits for longer may be of an older start.
_AGAIN_SECONDS, _AGAIN_AFTER_STRANGER_SECONDS = 0.5, 5.0  # Between two attempts to reach the chief.
_NEWCOMERS = 256  # Examined at the same time; further ones wait in the queue of the operating system.
# Paths may differ between machines; that the files are the same is checked by content.
_MAY_DIFFER = {"data_dir", "job_dir"}

Facts = dict[str, dict[str, Any]]


def facts_of(config: Config) -> Facts:
    """Return what the chief compares: flags and versions, and to recognise other jobs, job_dir."""
    settings = {f"--{name}": value for name, value in config.flat().items() if name not in _MAY_DIFFER}
    versions: dict[str, Any] = {"deepdetect": __version__, "python": "{}.{}".format(*sys.version_info)}
    for name in ("tensorflow", "keras", "numpy"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {"flags": settings, "versions": versions, "job": {"job_dir": config.loop.job_dir}}


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
    key = handshake.job_key(cluster, facts["job"]["job_dir"], os.environ)
    deadline = time.monotonic() + timeout
    if cluster.is_chief:
        return _Chief(cluster, facts, timeout, key).meet(deadline)
    return {0: _find_chief(cluster, facts, timeout, deadline, key)}


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
            server = _bind(port)
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


def _bind(port: int) -> socket.socket:
    """Listen on IPv6 and IPv4, or on IPv4 alone where the machine has no IPv6."""
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=128)
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return socket.create_server(("", port), backlog=128)


class _Outdated(Stranger):
    """A process of this job that probably belongs to an older start: it ends, and does not try again."""


class _Chief:
    """The chief while it waits for the others."""

    def __init__(self, cluster: Cluster, facts: Facts, timeout: float, key: bytes) -> None:
        self._cluster = cluster
        self._facts = facts
        self._timeout = timeout
        self._key = key
        self._began = time.monotonic()
        self._newcomers = threading.BoundedSemaphore(_NEWCOMERS)
        self._lock = threading.RLock()  # Of all that follows: each newcomer has a thread.
        self._connections: dict[int, Connection] = {}
        self._refusal = ""
        self._is_over = False
        self._strangers = 0
        self._last_stranger = ""
        self._remarks: list[str] = []  # On processes of this job that had to go; in the order of time.

    def meet(self, deadline: float) -> dict[int, Connection]:
        """Return a connection for each other process; see ``meet`` of the module."""
        with _listening(self._cluster.peer_port) as server:
            server.settimeout(0.25)
            self._wait(server, deadline)
        with self._lock:
            self._is_over = True
            if self._strangers:
                log.warning("%s", self._about_strangers())
            if self._refusal:
                raise RequestError(self._refusal)
            if self._missing():
                self._give_up()
            for connection in self._connections.values():
                connection.send("welcome")
            return self._connections

    def _wait(self, server: socket.socket, deadline: float) -> None:
        """Let newcomers in until nobody is missing or time is up."""
        reminder = time.monotonic() + _REMIND_SECONDS
        while self._missing():
            self._accept(server)
            now = time.monotonic()
            if self._refusal:  # Refuse those that connect soon, too, instead of leaving them waiting.
                deadline = min(deadline, now + _REFUSAL_SECONDS)
            if now >= deadline:
                return
            if now >= reminder:
                log.info("waiting for %s%s", self._names(self._missing()), self._about_strangers("; "))
                reminder = now + _REMIND_SECONDS

    def _missing(self) -> list[int]:
        with self._lock:
            return [index for index in range(1, self._cluster.num_workers) if index not in self._connections]

    def _names(self, indices: list[int]) -> str:
        return ", ".join(self._cluster.name(index) for index in indices)

    def _about_strangers(self, separator: str = "") -> str:
        """Return how many connections were sent away, as a clause; nothing if none was."""
        if not self._strangers:
            return ""
        return (
            f"{separator}sent away {self._strangers} connections to port {self._cluster.peer_port} that are not of "
            f"this start of the job; the last came from {self._last_stranger}"
        )

    def _accept(self, server: socket.socket) -> None:
        """Accept at most one connection, and forget those that were closed."""
        if not self._newcomers.acquire(timeout=0.25):
            return
        try:
            raw, address = server.accept()
        except OSError as error:
            self._newcomers.release()
            if not isinstance(error, TimeoutError):  # Such as too many open files.
                time.sleep(0.25)
            self._drop_closed()
            return
        threading.Thread(target=self._examine, args=(raw, address[0]), name="newcomer", daemon=True).start()

    def _drop_closed(self) -> None:
        """Forget processes that died while they waited; they may connect again."""
        with self._lock:
            if not self._refusal:
                self._connections = {index: peer for index, peer in self._connections.items() if peer.is_open()}

    def _examine(self, raw: socket.socket, address: str) -> None:
        """Let a newcomer in, or send it away; runs in a thread."""
        connection = None
        try:
            connection = Connection(raw)
            hello = handshake.examine(connection, self._key, handshake.HELLO_SECONDS)
            with self._lock:
                self._register(connection, hello)
        except (Stranger, Closed, OSError, LookupError, TypeError, ValueError, AttributeError) as error:
            with self._lock:
                self._strangers += 1
                self._last_stranger = f"{address.removeprefix('::ffff:')}: {error}"
            if connection is not None:
                # Only "gave_up" ends a process of this job; "sent_away" lets it try again.
                connection.send("gave_up" if isinstance(error, _Outdated) else "sent_away", message=str(error))
                connection.close()
            raw.close()
        finally:
            self._newcomers.release()

    def _register(self, connection: Connection, hello: Message) -> None:
        """Keep a connection, and refuse all of them from the first difference on.

        Raises:
            Stranger: if the process is of another job or of an older start.
        """
        index = int(hello["index"])
        if self._is_over or not 0 < index < self._cluster.num_workers:
            raise Stranger(f"expected one of the missing workers, received one with index {index}")
        difference = self._difference(index, hello["facts"])
        if difference and not self._refusal:
            self._require_this_start(index, hello, difference)
            self._refusal = difference
            for other in self._connections.values():
                other.send("refused", message=self._refusal)
        if self._refusal:
            connection.send("refused", message=self._refusal)
        elif index in self._connections:
            self._replace(index)
        self._connections[index] = connection

    def _difference(self, index: int, facts: Facts) -> str:
        """Return in what a new process differs; empty if in nothing."""
        differences = []
        for section in ("flags", "versions"):
            own, theirs = self._facts[section], facts[section]
            differences += [
                f"{name} (chief: {own.get(name)}, worker {index}: {theirs.get(name)})"
                for name in sorted(own.keys() | theirs.keys())
                if own.get(name) != theirs.get(name)
            ]
        if not differences:
            return ""
        return (
            f"expected all processes to be started alike, received different values of {'; '.join(differences)}; "
            "start all of them with the same flags, cluster and installation"
        )

    def _require_this_start(self, index: int, hello: Message, difference: str) -> None:
        """Send a different process away if it can go by itself; otherwise a retry cannot help.

        Raises:
            Stranger: if it writes to another job_dir, or was waiting long before this process began.
        """
        if hello["facts"]["job"] != self._facts["job"]:
            raise Stranger(f"it is of a job with the same addresses and another --job_dir: {difference}")
        if float(hello["waited"]) > time.monotonic() - self._began + _SKEW_SECONDS:
            line = (
                f"worker {index} was already waiting when the chief began, so it is taken for one of an older start "
                f"and ends: {difference}"
            )
            self._remark(line)
            raise _Outdated(line)

    def _replace(self, index: int) -> None:
        """Let go of an earlier connection of the same index: its process was replaced, and may not know it."""
        connection = self._connections.pop(index)
        if connection.is_open():
            line = (
                f"{self._cluster.name(index)} came again, and the newer process counts; give each an index of its own"
            )
            self._remark(line)
            connection.send("gave_up", message=line)
        connection.close()

    def _remark(self, line: str) -> None:
        log.warning("%s", line)
        if line not in self._remarks:
            self._remarks.append(line)

    def _give_up(self) -> None:
        reason = (
            f"{self._names(self._missing())} did not come within {self._timeout:g} s (--startup_timeout_seconds)"
            + "".join(f"; {line}" for line in self._remarks)
            + self._about_strangers("; ")
        )
        for connection in self._connections.values():
            connection.send("gave_up", message=reason)
        raise StoppedEarly(f"{reason}; nothing was lost: start all processes again")


def _find_chief(cluster: Cluster, facts: Facts, timeout: float, deadline: float, key: bytes) -> Connection:
    """Return a connection to the chief, once it has welcomed this process."""
    host, port = cluster.meeting_place
    reminder = time.monotonic() + _REMIND_SECONDS
    reason = ""
    while time.monotonic() < deadline:
        pause = _AGAIN_SECONDS
        try:
            connection, answer = _ask_chief(cluster, facts, timeout, deadline, key)
        except Stranger as error:  # Another job's chief may leave the address to ours.
            reason, pause = str(error), _AGAIN_AFTER_STRANGER_SECONDS
        except (OSError, Closed) as error:  # Not started, not in the DNS yet, or ended while it waited.
            reason = str(error)
        else:
            return _welcomed(connection, answer)
        if time.monotonic() >= reminder:
            log.info("waiting for %s at %s:%d: %s", cluster.name(0), host, port, reason)
            reminder = time.monotonic() + _REMIND_SECONDS
        time.sleep(min(pause, max(deadline - time.monotonic(), 0.0)))
    raise StoppedEarly(
        f"{cluster.name(0)} did not come to {host}:{port} within {timeout:g} s (--startup_timeout_seconds): "
        f"{reason}; nothing was lost: start all processes again"
    )


def _ask_chief(
    cluster: Cluster, facts: Facts, timeout: float, deadline: float, key: bytes
) -> tuple[Connection, Message]:
    """Connect to the chief and return its answer, after waiting for it.

    Raises:
        Stranger: if it is not the chief of this job, or does not want this process now.
        OSError, Closed: if there is no connection or no answer.
    """
    connection = Connection(socket.create_connection(cluster.meeting_place, timeout=5.0))
    try:
        left = max(deadline - time.monotonic(), 0.0)
        about = {"index": cluster.worker_index, "facts": facts, "waited": timeout - left}
        handshake.introduce(connection, key, min(handshake.HELLO_SECONDS, left), about)
        # The chief started its own deadline at another time.  Wait for its answer, which names the missing ones.
        answer = connection.receive(left + timeout)
        if answer["kind"] == "sent_away":
            raise Stranger(str(answer.get("message")))
        return connection, answer
    except BaseException:
        connection.close()
        raise


def _welcomed(connection: Connection, answer: Message) -> Connection:
    """Return the connection if the answer is a welcome.

    Raises:
        RequestError, StoppedEarly: if it is not.
    """
    if answer["kind"] == "welcome":
        return connection
    connection.close()
    if answer["kind"] == "refused":
        raise RequestError(str(answer["message"]))
    raise StoppedEarly(f"{answer.get('message')}; nothing was lost: start all processes again")
