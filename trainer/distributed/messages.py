"""JSON messages over one TCP connection: four bytes of length, then UTF-8.  Imports no TensorFlow."""

import contextlib
import json
import socket
import struct
import threading
from typing import Any

_MAX_BYTES = 64 * 1024 * 1024  # Far more than any message of this program; a stranger's bytes are cut off here.
_HEADER = struct.Struct(">I")

Message = dict[str, Any]


class Closed(Exception):
    """Say that the other end is gone, or sent something that is no message."""


class Connection:
    """One end; any thread may send, one thread receives."""

    def __init__(self, raw: socket.socket) -> None:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket, self._sending = raw, threading.Lock()

    def send(self, kind: str, **values: Any) -> None:
        """Send one message; nothing is raised if the other end is gone, because ``receive`` will tell."""
        with self._sending:
            self._write({"kind": kind, **values})

    def send_unless_busy(self, kind: str) -> None:
        """Send one short message, unless another thread is sending: it may be stuck at a peer that does not read."""
        if self._sending.acquire(blocking=False):
            try:
                self._write({"kind": kind})
            finally:
                self._sending.release()

    def _write(self, message: Message) -> None:
        content = json.dumps(message).encode()
        with contextlib.suppress(OSError):
            self._socket.sendall(_HEADER.pack(len(content)) + content)

    def receive(self, timeout: float | None = None) -> Message:
        """Return the next message.

        Raises:
            Closed: if there will be none.
            TimeoutError: if none came in ``timeout`` seconds.
        """
        self._socket.settimeout(timeout)
        try:
            (size,) = _HEADER.unpack(self._exactly(_HEADER.size))
            if size > _MAX_BYTES:
                raise Closed(f"it sent {size} bytes, which is no message of this program")
            message = json.loads(self._exactly(size))
        except TimeoutError:
            raise
        except (OSError, ValueError) as error:
            raise Closed(str(error)) from error
        if not isinstance(message, dict) or "kind" not in message:
            raise Closed("it sent something that is no message of this program")
        return message

    def _exactly(self, size: int) -> bytes:
        content = b""
        while len(content) < size:
            piece = self._socket.recv(size - len(content))
            if not piece:
                raise Closed("its connection closed")
            content += piece
        return content

    def is_open(self) -> bool:
        """Tell whether the other end still holds the connection; only while nothing is expected from it."""
        self._socket.settimeout(0)
        try:
            return self._socket.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Close both directions."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
