"""Load a trainer.serve on this machine, and print images/s, latencies and the server's memory.

  python scripts/load_server.py --port=8501 --images=FOLDER [--requests=400] [--concurrency=16] [--hostile=40]

Sends each image of the folder in turn to POST /predict.  Afterwards it sends files that claim too many pixels, are
truncated, of a wrong type or too large, and prints the memory again.  Client and server share the machine's cores.
"""

import argparse
import collections
import contextlib
import http.client
import re
import struct
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_HOST = "127.0.0.1"  # Nobody else's server can be meant.


class Client:
    """Sends requests; each thread keeps its connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._own = threading.local()

    def post(self, content: bytes) -> tuple[int, float]:
        """Return status (0: the connection was closed before the answer) and seconds."""
        start = time.perf_counter()
        try:
            status = self._status(content)
        except (OSError, http.client.HTTPException):
            self._own.connection = None
            status = 0
        return status, time.perf_counter() - start

    def _status(self, content: bytes) -> int:
        if getattr(self._own, "connection", None) is None:
            self._own.connection = http.client.HTTPConnection(_HOST, self._port, timeout=120)
        self._own.connection.request("POST", "/predict", content)
        answer = self._own.connection.getresponse()
        answer.read()
        return int(answer.status)

    def memory(self) -> int:
        """Return the server's resident memory in MB."""
        connection = http.client.HTTPConnection(_HOST, self._port, timeout=120)
        with contextlib.closing(connection):
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        match = re.search(r"^process_resident_memory_bytes (\S+)$", text, re.MULTILINE)
        return round(float(match[1]) / 1e6) if match else 0


def _hostile(photo: bytes) -> Iterator[bytes]:
    """Yield bad files for ever; ``photo`` is a good one."""
    header = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    # 9,999 x 10,000 pixels of zeros, which are allowed by default, in 100 kB.
    most = b"IHDR" + struct.pack(">IIBBBBB", 9_999, 10_000, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(10_000 * 10_000), 9)
    bomb = b"".join(
        struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
        for chunk in (most, data, b"IEND")
    )
    while True:
        yield from (png, b"\x89PNG\r\n\x1a\n" + bomb, photo[: len(photo) // 2], b"text" * 1000, bytes(20_000_000))


def main(argv: Sequence[str]) -> int:
    """Send the requests and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8501, help="of the server, on 127.0.0.1")
    parser.add_argument("--images", type=Path, required=True, help="folder of images")
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--concurrency", type=int, default=16, help="requests at a time")
    parser.add_argument("--hostile", type=int, default=40, help="bad files to send afterwards")
    flags = parser.parse_args(argv)
    photos = [path.read_bytes() for path in sorted(flags.images.rglob("*")) if path.is_file()][: flags.requests]
    client = Client(flags.port)
    before = client.memory()
    with ThreadPoolExecutor(flags.concurrency) as pool:
        list(pool.map(client.post, photos[: flags.concurrency]))
        start = time.perf_counter()
        answers = list(pool.map(client.post, (photos[n % len(photos)] for n in range(flags.requests))))
        seconds = time.perf_counter() - start
        loaded = client.memory()
        bad = [content for content, _ in zip(_hostile(photos[0]), range(flags.hostile), strict=False)]
        refused = list(pool.map(client.post, bad))
    times = sorted(taken for _, taken in answers)
    print(f"{len(times)} requests, {flags.concurrency} at a time: {len(times) / seconds:.1f} images/s, "
          f"p50 {1000 * times[len(times) // 2]:.0f} ms, p99 {1000 * times[int(len(times) * 0.99)]:.0f} ms, "
          f"statuses {dict(collections.Counter(status for status, _ in answers))}")  # fmt: skip
    print(f"{len(bad)} bad files: statuses {dict(collections.Counter(status for status, _ in refused))}")
    print(f"memory: {before} MB at first, {loaded} MB under load, {client.memory()} MB after the bad files")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
