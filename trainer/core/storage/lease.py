"""A lock that its holder rewrites at every heartbeat: on gs://, and on file systems that cannot lock.

A process that finds the record watches it by its own clock, so clocks need not agree.  If the record changes, the
holder is alive.  If it does not change for ``_BEATS_TO_DEATH`` heartbeats, the holder is dead; fewer do for a pod that
this one replaces, and none for a holder that has certainly ended (``holder.py``).  Then exactly one of the watchers
takes over, because only one can replace the generation that they all saw.  A holder that could not confirm its lease
for ``_BEATS_TO_DOUBT`` heartbeats, which is fewer than its death takes, must confirm it before it writes anything else.
Does not own: how a record is kept (``gcs_objects.ObjectRecord``, ``file_lease.FileRecord``), what the lease protects.
Imports no TensorFlow.
"""

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import Any, Protocol

from trainer.core import environment
from trainer.core.errors import StoppedEarly
from trainer.core.storage import holder
from trainer.core.storage.base import held_by
from trainer.core.storage.fences import Fences

log = logging.getLogger(__name__)

_HEARTBEAT = "DEEPDETECT_LOCK_HEARTBEAT_SECONDS"
HEARTBEAT_SECONDS = 10.0  # That variable, if set, replaces it.
_BEATS_TO_DEATH, _BEATS_TO_DOUBT = 6, 4
_BEATS_OF_A_PREDECESSOR = 2  # Its pod is gone; a namesake in another cluster shows that it is alive.


class Record(Protocol):
    """Where a lease is kept.  Each change gives it another generation, a number above 0."""

    def read(self) -> tuple[bytes, int] | None:
        """Return content and generation; None if nobody holds the lease."""

    def take(self, content: bytes, generation: int) -> int | None:
        """Replace another holder's generation, or 0 (none); return the new one, or None if it is another by now."""

    def renew(self, content: bytes, generation: int) -> int | None:
        """Replace the own generation; return the new one, or None if it is another by now."""

    def release(self, generation: int) -> None:
        """Leave the lease to others, unless the generation is another by now."""


@contextlib.contextmanager
def held(record: Record, path: str, *, protects: str, fences: Fences) -> Iterator[None]:
    """Hold a lease while the block runs, in which each write that asks ``fences`` makes sure that it is still ours.

    Raises:
        StoppedEarly: if a live process holds it.
    """
    lease = Lease(record, path, protects=protects)
    lease.take()
    try:
        with fences.added(lease.check):
            yield
    finally:
        lease.release()


def _awake_seconds() -> float:
    """Return a clock that goes on while the machine is suspended, when others may take over; Linux has one."""
    try:
        return time.clock_gettime(time.CLOCK_BOOTTIME)
    except (AttributeError, OSError):
        return time.monotonic()


class Lease:
    """The right of one process to write below a path."""

    def __init__(self, record: Record, path: str, *, protects: str, heartbeat: float | None = None) -> None:
        """Describe a lease; ``take`` acquires it.

        Args:
            record: where it is kept.
            path: of the record, for messages.
            protects: what is leased, for messages.
            heartbeat: seconds between two beats; None reads the environment.
        """
        self._record = record
        self._path = path
        self._protects = protects
        self._heartbeat = heartbeat or environment.seconds(_HEARTBEAT, HEARTBEAT_SECONDS, minimum=0.01)
        self._token = uuid.uuid4().hex  # Recognises our own record after a lost answer.
        self._holder = holder.describe()
        self._beats = 0
        self._generation = 0  # Of the record as we last wrote it.
        self._confirmed = 0.0  # When a request that confirmed the lease was sent, by ``_awake_seconds``.
        self._lost = ""  # Why the lease is no longer ours.
        self._mutex = threading.Lock()
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="lease", daemon=True)

    def take(self) -> None:
        """Acquire the lease and keep it until ``release``.

        Raises:
            StoppedEarly: if a live process holds it.
        """
        watched_generation = 0  # Of another holder; 0: none was seen yet.
        watched_since = 0.0
        while True:
            # By a clock that stands still in a suspended machine: there the holder may have been suspended as well.
            now, before = time.monotonic(), _awake_seconds()
            record, generation = self._read()
            if generation and record.get("token") == self._token:  # Our own attempt, or one whose answer got lost.
                self._generation = generation
                self._confirmed = before
                break
            owner = str(record.get("owner", "an unknown job"))
            patience = self._beats_to_death(record) * float(record.get("heartbeat_seconds", self._heartbeat))
            if generation and not watched_generation:
                watched_generation, watched_since = generation, now
                self._log_watch(owner, patience)
            elif generation and generation != watched_generation:  # The holder's heart beats.
                raise held_by(owner, self._protects)
            if not generation or now - watched_since > patience or not patience:
                self._try_to_write(generation)
                continue
            time.sleep(min(self._heartbeat, patience) / 4)
        self._thread.start()

    def _read(self) -> tuple[dict[str, Any], int]:
        """Return what the record says and its generation; an empty record and 0 if there is none."""
        answer = self._record.read()
        return (_record(answer[0]), answer[1]) if answer else ({}, 0)

    def _log_watch(self, owner: str, patience: float) -> None:
        if patience:
            log.info("%s is held by %s: waiting up to %.0f s to see whether that job is alive",
                     self._protects, owner, patience)  # fmt: skip
        else:
            log.info("%s was held by %s, which has ended: taking it over", self._protects, owner)

    def _beats_to_death(self, record: dict[str, Any]) -> int:
        """Return for how many heartbeats a record must not change, for its holder to count as dead."""
        about = record.get("holder")
        if not isinstance(about, dict):
            return _BEATS_TO_DEATH
        if holder.is_dead(about, self._holder):
            return 0
        return _BEATS_OF_A_PREDECESSOR if holder.is_predecessor(about, self._holder) else _BEATS_TO_DEATH

    def _try_to_write(self, generation: int) -> None:
        """Replace a generation (0: none) by our own; the next read shows whether that succeeded."""
        self._beats += 1
        self._record.take(self._content(), generation)

    def _content(self) -> bytes:
        record = {
            "owner": f"process {os.getpid()} on {socket.gethostname()}",
            "holder": self._holder,
            "token": self._token,
            "heartbeat_seconds": self._heartbeat,
            "beats": self._beats,
        }
        return (json.dumps(record) + "\n").encode()

    def check(self) -> None:
        """Return if the lease is still ours.

        Raises:
            StoppedEarly: if not.
            StorageDown: if the storage does not answer.
        """
        if not self._lost and self._in_doubt():
            with self._mutex:
                if not self._lost and self._in_doubt():
                    self._beat()
        if self._lost:
            raise StoppedEarly(self._lost)

    def _in_doubt(self) -> bool:
        return _awake_seconds() - self._confirmed > _BEATS_TO_DOUBT * self._heartbeat

    def _keep_beating(self) -> None:
        while not self._ending.wait(self._heartbeat) and not self._lost:
            try:
                with self._mutex:
                    self._beat()
            except Exception as error:  # ``check`` meets it again, in the thread that has to stop.
                if not self._ending.is_set():  # A beat that was on its way when the job ended.
                    log.warning("%s could not be refreshed: %s", self._path, error)

    def _beat(self) -> None:
        """Rewrite the record if it is as we left it; record if it is no longer ours."""
        now = _awake_seconds()
        self._beats += 1
        generation = self._record.renew(self._content(), self._generation)
        if generation is None:  # Someone else wrote, or our last beat arrived and its answer got lost.
            record, generation = self._read()
            if not generation or record.get("token") != self._token:
                state = f"held by {record.get('owner', 'an unknown job')}" if generation else "removed"
                self._lost = (
                    f"this job lost its lock on {self._protects!r}, which is now {state}; it stops without writing "
                    "anything else"
                )
                return
        self._generation = generation
        self._confirmed = now

    def release(self) -> None:
        """Release the lease; if the storage does not answer, it expires by itself."""
        self._ending.set()
        if not self._mutex.acquire(timeout=self._heartbeat):
            return
        try:
            if not self._lost and not self._in_doubt():
                self._record.release(self._generation)
        except Exception as error:  # Must not hide the error that ended the job.
            log.warning("%s could not be released (%s); it expires by itself", self._path, error)
        finally:
            self._mutex.release()


def _record(content: bytes) -> dict[str, Any]:
    """Return what a lock says; an empty record for damaged content."""
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError):
        return {}
