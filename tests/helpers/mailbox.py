"""Servers that take messages, or that hang: HTTP and SMTP on real sockets."""

import contextlib
import socketserver
import threading
import time
from collections.abc import Iterator


class Mailbox(socketserver.ThreadingTCPServer):
    """Keeps what it is sent.

    Attributes:
        received: each message as text: an HTTP request's body, or a mail.
        paths: of HTTP requests.
        statuses: answers to the next requests; then 200, or 250 of SMTP.
        seconds: before each answer.
    """

    daemon_threads = allow_reuse_address = True

    def __init__(self, handler: type[socketserver.BaseRequestHandler]) -> None:
        self.received: list[str] = []
        self.paths: list[str] = []
        self.statuses: list[int] = []
        self.seconds = 0.0
        super().__init__(("127.0.0.1", 0), handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


@contextlib.contextmanager
def serve(handler: type[socketserver.BaseRequestHandler]) -> Iterator[Mailbox]:
    """Run a server while the block runs."""
    with Mailbox(handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


class Http(socketserver.StreamRequestHandler):
    """One POST."""

    server: Mailbox

    def handle(self) -> None:
        path = self.rfile.readline().split()[1].decode()
        length = 0
        while line := self.rfile.readline().strip().lower():
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        body = self.rfile.read(length).decode()
        time.sleep(self.server.seconds)
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.server.paths.append(path)
        if status == 200:
            self.server.received.append(body)
        self.wfile.write(f"HTTP/1.1 {status} x\r\nContent-Length: 0\r\nLocation: /other\r\n\r\n".encode())


class Smtp(socketserver.StreamRequestHandler):
    """One session, without TLS."""

    server: Mailbox

    def handle(self) -> None:
        self._say("220 ready")
        for line in self.rfile:
            verb = line[:4].upper()
            if verb == b"DATA":
                self._say("354 go on")
                self.server.received.append(b"".join(iter(self.rfile.readline, b".\r\n")).decode())
            elif verb == b"RCPT" and self.server.statuses:
                self._say(f"{self.server.statuses.pop(0)} no")
                continue
            self._say("221 bye" if verb == b"QUIT" else "250 ok")

    def _say(self, text: str) -> None:
        self.wfile.write(f"{text}\r\n".encode())
