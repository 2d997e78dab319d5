"""``job_dir/logs/``: a process's log, which outlives its pod.

A log is written as files of at most ``_PART_BYTES``, ``PROCESS-START.log``, ``PROCESS-START.1.log`` and so on; the
first one and the newest stay.  A thread rewrites the newest one at intervals.
Imports no TensorFlow.
"""

import threading

from trainer.core.job_dir import JobPaths
from trainer.core.starts.dirty_writer import DirtyWriter
from trainer.core.storage import files

_PART_BYTES = 1_000_000
_PARTS = 10
_LOCAL_SECONDS, _REMOTE_SECONDS = 2.0, 15.0  # Between two writes.


class Mirror:
    """Copies what is added to it."""

    def __init__(self) -> None:
        """Keep everything until ``begin`` says where it goes."""
        self._lock = threading.Lock()
        self._parts: dict[int, bytearray] = {0: bytearray()}  # Those that are not written yet; the last one grows.
        self._path = ""
        self._writer = DirtyWriter(self._write)

    def add(self, data: bytes) -> None:
        """Add whole lines."""
        with self._lock:
            number = max(self._parts)
            if len(self._parts[number]) + len(data) > _PART_BYTES and self._parts[number]:
                number += 1
                self._parts[number] = bytearray()
                if len(self._parts) > _PARTS:  # Nothing can be written; the first one says how it began.
                    del self._parts[sorted(self._parts)[1]]
            self._parts[number] += data
        self._writer.mark()

    def begin(self, job_dir: str, name: str) -> None:
        """Write to ``job_dir/logs/`` from now on; only the first call counts."""
        if not self._path:
            self._path = files.join(JobPaths(job_dir).logs, name)
            self._writer.start(_REMOTE_SECONDS if files.is_remote(self._path) else _LOCAL_SECONDS)

    def end(self, seconds: float) -> None:
        """Write the rest, which is given up after so many seconds."""
        self._writer.end(seconds)

    def _write(self) -> None:
        """Write all parts that are waiting, and forget those that are full."""
        with self._lock:
            waiting = {number: bytes(part) for number, part in self._parts.items()}
        for number, part in sorted(waiting.items()):
            files.write_bytes(self._file(number), part)
            with self._lock:
                if number < max(self._parts):
                    del self._parts[number]
            if number > _PARTS:
                files.remove(self._file(number - _PARTS))

    def _file(self, number: int) -> str:
        return f"{self._path}.{number}.log" if number else f"{self._path}.log"


def lines(job_dir: str) -> list[str]:
    """Return the newest log of each process in job_dir, each after a line that names it, for ``submit.py logs``."""
    folder = JobPaths(job_dir).logs
    newest: dict[str, str] = {}
    for name in files.list_names(folder) if job_dir else []:
        start = name.split(".")[0]
        process = start.rpartition("-")[0]
        newest[process] = max(newest.get(process, ""), start)
    text = []
    for _, start in sorted(newest.items()):
        parts = [name for name in files.list_names(folder) if name.split(".")[0] == start]
        text.append(f"== {start} ==")
        for name in sorted(parts, key=_number):
            text += files.read_bytes(files.join(folder, name)).decode(errors="replace").splitlines()
    return text


def _number(name: str) -> int:
    digits = name.split(".")[1]
    return int(digits) if digits.isdigit() else 0
