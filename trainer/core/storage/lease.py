"""A lock on gs://: an object that its holder rewrites at every heartbeat, by generation preconditions.

Whoever finds the object watches it by a clock of its own, so that clocks need not agree: it changes, so the holder
lives; it does not change for ``_BEATS_TO_DEATH`` heartbeats, so the holder is dead and is replaced, by exactly one of
those who watch, because only one can replace the generation that they all saw.  A holder that could not confirm its
lease for ``_BEATS_TO_DOUBT`` heartbeats, which is less, must confirm it before it writes anything else.
Does not own: what the lease protects.  Imports no TensorFlow.
"""

import json
import logging
import os
import socket
import threading
import time
import uuid
from typing import Any

from trainer.core.errors import StoppedEarly
from trainer.core.storage import gcs

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0  # DEEPDETECT_LOCK_HEARTBEAT_SECONDS, if set, replaces it.
_BEATS_TO_DEATH, _BEATS_TO_DOUBT = 6, 4


class Lease:
    """The right of one process to write below a gs:// path."""

    def __init__(self, path: str, *, protects: str, heartbeat: float | None = None) -> None:
        """Describe a lease; ``take`` takes it.

        Args:
            path: gs:// object.
            protects: what is leased, for messages.
            heartbeat: seconds between two beats; None asks the environment.
        """
        given = os.environ.get("DEEPDETECT_LOCK_HEARTBEAT_SECONDS", HEARTBEAT_SECONDS)
        self._path, self._protects = path, protects
        self._heartbeat = float(given if heartbeat is None else heartbeat)
        self._token, self._beats, self._generation = uuid.uuid4().hex, 0, 0
        self._confirmed, self._lost = 0.0, ""
        self._mutex, self._ending = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._keep_beating, name="lease", daemon=True)

    def take(self) -> None:
        """Take the lease and keep it until ``release``.

        Raises:
            StoppedEarly: if a live process holds it.
        """
        watched, since = 0, 0.0
        while True:
            asked = time.monotonic()
            found = gcs.read_with_generation(self._path)
            record = _record(found[0]) if found else {}
            generation = found[1] if found else 0
            if found and record.get("token") == self._token:  # Ours, though the answer to an attempt got lost.
                self._generation, self._confirmed = generation, asked
                break
            patience = _BEATS_TO_DEATH * float(record.get("heartbeat_seconds", self._heartbeat))
            if found and not watched:
                watched, since = generation, asked
                log.info("%s is held by %s: waiting up to %.0f s to see whether that job is alive",
                         self._protects, record.get("owner", "an unknown job"), patience)  # fmt: skip
            elif found and generation != watched:
                raise StoppedEarly(
                    f"expected {self._protects!r} to be free, found a live job in it ({record.get('owner', 'unknown')})"
                    "; stop that one, wait for it, or use another --job_dir"
                )
            if not found or asked - since > patience:
                self._try_to_write(generation)
                continue
            time.sleep(min(self._heartbeat, patience) / 4)
        self._thread.start()

    def _try_to_write(self, generation: int) -> None:
        """Replace a generation (0: none) by our own; whether that worked the next look tells."""
        self._beats += 1
        gcs.write_if(self._path, self._content(), generation, fenced=False)

    def _content(self) -> bytes:
        record = {
            "owner": f"process {os.getpid()} on {socket.gethostname()}",
            "token": self._token,
            "heartbeat_seconds": self._heartbeat,
            "beats": self._beats,
        }
        return (json.dumps(record) + "\n").encode()

    def check(self) -> None:
        """Return if the lease is still ours.

        Raises:
            StoppedEarly: if not.
            StorageDown: if that cannot be found out.
        """
        if not self._lost and self._in_doubt():
            with self._mutex:
                if not self._lost and self._in_doubt():
                    self._beat()
        if self._lost:
            raise StoppedEarly(self._lost)

    def _in_doubt(self) -> bool:
        return time.monotonic() - self._confirmed > _BEATS_TO_DOUBT * self._heartbeat

    def _keep_beating(self) -> None:
        while not self._ending.wait(self._heartbeat) and not self._lost:
            try:
                with self._mutex:
                    self._beat()
            except Exception as error:  # ``check`` finds it out again in the thread that has to stop.
                log.warning("%s could not be refreshed: %s", self._path, error)

    def _beat(self) -> None:
        """Rewrite the object if it is as we left it, and note if it is not ours any more."""
        asked = time.monotonic()
        self._beats += 1
        generation = gcs.write_if(self._path, self._content(), self._generation, fenced=False)
        if generation is None:
            found = gcs.read_with_generation(self._path)
            record = _record(found[0]) if found else {}
            if not found or record.get("token") != self._token:
                now = f"held by {record.get('owner', 'an unknown job')}" if found else "removed"
                self._lost = (
                    f"this job lost its lock on {self._protects!r}, which is now {now}; it stops without writing "
                    "anything else"
                )
                return
            generation = found[1]
        self._generation, self._confirmed = generation, asked

    def release(self) -> None:
        """Give the lease back; if the storage does not answer, it runs out by itself."""
        self._ending.set()
        if not self._mutex.acquire(timeout=self._heartbeat):
            return
        try:
            if not self._lost and not self._in_doubt():
                gcs.remove(self._path, generation=self._generation, fenced=False)
        except Exception as error:  # What the job has to say matters more.
            log.warning("%s could not be removed (%s); it runs out by itself", self._path, error)
        finally:
            self._mutex.release()


def _record(content: bytes) -> dict[str, Any]:
    try:
        return dict(json.loads(content))
    except (ValueError, TypeError):
        return {}
