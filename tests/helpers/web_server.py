"""A web server of one folder that answers ranges, as object stores do, and fails on request."""

import contextlib
import re
import threading
import time
import urllib.parse
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class WebServer(ThreadingHTTPServer):
    """Serves a folder.

    Attributes:
        requests: each request's path and range, in order.
        status: with which requests that fail are refused.
        faults: how many of the next requests fail; -1: all.
        failing: part of the paths of requests that may fail.
        cut: whether those get half of the body instead of a refusal.
        seconds: wait before each answer.
        ranges: whether it answers requests for ranges.
    """

    daemon_threads = True

    def __init__(self, folder: str | Path, port: int = 0) -> None:
        self.folder = Path(folder)
        self.requests: list[tuple[str, str]] = []
        self.status, self.faults, self.failing, self.cut = 0, 0, "", False
        self.seconds, self.ranges = 0.0, True
        self._lock = threading.Lock()
        super().__init__(("127.0.0.1", port), _Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fails(self, path: str) -> bool:
        """Return whether a request is to fail."""
        with self._lock:
            if self.failing not in path or not self.faults:
                return False
            self.faults = max(self.faults - 1, -1)
            return True

    def handle_error(self, request: object, client_address: object) -> None:
        """Be silent about clients that went away."""


class _Handler(SimpleHTTPRequestHandler):
    server: WebServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.requests.append((self.path, wanted))
        time.sleep(self.server.seconds)
        fails = self.server.fails(self.path)
        path = self.server.folder / urllib.parse.unquote(self.path).lstrip("/")
        if fails and not self.server.cut:
            self._answer(self.server.status, b"", 0)
        elif not path.is_file():
            self._answer(404, b"", 0)
        else:
            self._send(path.read_bytes(), wanted, half=fails)

    def _send(self, content: bytes, wanted: str, half: bool) -> None:
        span = re.fullmatch(r"bytes=(\d+)-(\d+)", wanted)
        status = 200
        if span and self.server.ranges:
            status, content = 206, content[int(span[1]) : int(span[2]) + 1]
            if not content:
                self._answer(416, b"", 0)
                return
        self._answer(status, content[: len(content) // 2] if half else content, len(content))
        self.close_connection = self.close_connection or half

    def _answer(self, status: int, content: bytes, length: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Be silent."""


@contextlib.contextmanager
def serve(folder: str | Path, port: int = 0) -> Iterator[WebServer]:
    """Serve a folder while the block runs."""
    with WebServer(folder, port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
