"""JSON messages over one TCP connection: four bytes of length (big endian), then UTF-8.  Imports no TensorFlow.

Does not own: what messages mean (``rendezvous.py``, ``process_group.py``).
"""

import contextlib
import json
import socket
import struct
import threading
import time
from typing import Any

_MAX_BYTES = 64 * 1024 * 1024  # Far more than any message of this program; anything longer comes from a stranger.
_PIECE_BYTES = 2**16  # Memory grows with what arrives, not with what a header promises.
_HEADER = struct.Struct(">I")

Message = dict[str, Any]


class Closed(Exception):
    """Raised when the other end is gone, or sent something that is not a message."""


class Connection:
    """One end of a connection: any thread may send, one thread receives."""

    def __init__(self, raw: socket.socket) -> None:
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = raw
        self._send_lock = threading.Lock()

    def send(self, kind: str, **values: Any) -> None:
        """Send one message; does not raise if the other end is gone, because ``receive`` does."""
        with self._send_lock:
            self._write({"kind": kind, **values})

    def send_unless_busy(self, kind: str) -> None:
        """Send one short message, unless another thread is sending: a peer that does not read may be blocking it."""
        if self._send_lock.acquire(blocking=False):
            try:
                self._write({"kind": kind})
            finally:
                self._send_lock.release()

    def _write(self, message: Message) -> None:
        content = json.dumps(message).encode()
        with contextlib.suppress(OSError):
            self._socket.sendall(_HEADER.pack(len(content)) + content)

    def receive(self, timeout: float | None = None, limit: int = _MAX_BYTES) -> Message:
        """Return the next message.

        Args:
            timeout: seconds for the whole message, however slowly its bytes come; None: wait for ever.
            limit: bytes that it may have.

        Raises:
            Closed: if no message can come any more.
            TimeoutError: if none came within ``timeout`` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        try:
            (size,) = _HEADER.unpack(self._read(_HEADER.size, deadline))
            if size > limit:
                raise Closed(f"it sent a length of {size} bytes, which is not a message of this program")
            message = json.loads(self._read(size, deadline))
        except TimeoutError as error:
            if deadline is None:  # The operating system gave the connection up, as keepalive does.
                raise Closed(str(error)) from error
            raise TimeoutError(f"it sent no whole message within {timeout:g} s") from error
        except (OSError, ValueError, RecursionError) as error:
            raise Closed(f"it sent something that is not a message of this program ({error})") from error
        finally:
            with contextlib.suppress(OSError):  # A timeout would also hold for ``send``, in other threads.
                self._socket.settimeout(None)
        if not isinstance(message, dict) or "kind" not in message:
            raise Closed("it sent something that is not a message of this program")
        return message

    def _read(self, size: int, deadline: float | None) -> bytes:
        content = bytearray()
        while len(content) < size:
            if deadline is not None:
                self._socket.settimeout(max(deadline - time.monotonic(), 1e-3))
            piece = self._socket.recv(min(size - len(content), _PIECE_BYTES))
            if not piece:
                raise Closed("its connection closed")
            content += piece
            if deadline is not None and time.monotonic() > deadline:
                raise TimeoutError
        return bytes(content)

    def is_open(self) -> bool:
        """Return whether the other end still holds the connection; call it only while no message is expected."""
        try:
            return self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    def close(self) -> None:
        """Close both directions."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
