"""A real ``python -m trainer.serve`` on the loopback address, and a client for it."""

import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


class Served:
    """A running server.

    Attributes:
        process: the command's.
        address: host and port.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        lines = []
        while not (match := re.search(r"at http://([\d.]+:\d+)/", lines[-1] if lines else "")):
            lines.append(process.stdout.readline())
            assert lines[-1], "".join(lines)
        self.address = match[1]

    def send(self, method: str, path: str, body: bytes = b"", **headers: str):
        """Return status, headers and body of an answer."""
        connection = http.client.HTTPConnection(self.address, timeout=60)
        with contextlib.closing(connection):
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body or None, named)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def get(self, path: str) -> tuple[int, str]:
        status, _, body = self.send("GET", path)
        return status, body.decode()

    def post(self, path: str, body: bytes | str, **headers: str):
        """Return status and parsed body."""
        status, _, answer = self.send("POST", path, body.encode() if isinstance(body, str) else body, **headers)
        return status, json.loads(answer)

    def metric(self, name: str) -> float:
        """Return the value of one line of ``/metrics``."""
        line = re.search(rf"^{re.escape(name)} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return float(line[1]) if line else 0.0

    def wait_for(self, name: str, value: float) -> None:
        """Wait until a metric has a value."""
        end = time.monotonic() + 30
        while self.metric(name) != value:
            assert time.monotonic() < end, f"{name} is {self.metric(name)}, not {value}"
            time.sleep(0.01)


@contextlib.contextmanager
def serve(*flags: str | Path) -> Iterator[Served]:
    """Start a server at any free port, and kill it at the end of the block if it still runs."""
    command = [sys.executable, "-m", "trainer.serve", "--port=0", *map(str, flags)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield Served(process)
    finally:
        process.kill()
        process.communicate()


def multipart(content: bytes, name: str = "photo.jpg", times: int = 1) -> tuple[bytes, str]:
    """Return a body of multipart/form-data with a file, and its Content-Type."""
    head = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{urllib.parse.quote(name)}"\r\n\r\n'.encode()
    return (head + content + b"\r\n") * times + b"--x--\r\n", "multipart/form-data; boundary=x"
