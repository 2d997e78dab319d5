"""Write the record of one start: on a thread, so that no storage delays or fails what it is about.

Does not own: what a record holds (``record.py``).  Imports no TensorFlow.
"""

import contextlib
import dataclasses
import socket
import threading

from trainer.core.job_dir import JobPaths
from trainer.core.starts import cgroup, record
from trainer.core.starts.dirty_writer import FAILURES, DirtyWriter
from trainer.core.starts.record import End, Start
from trainer.core.storage import files

_NEWS = 0.1  # Share of the limit by which the use must have changed, to be written.


class Recorder:
    """Keeps the file of a start up to date until its end."""

    def __init__(self, job_dir: str, process: str, began: str = "", first: cgroup.Memory | None = None) -> None:
        """Begin; nothing waits for the storage.

        Args:
            job_dir: of the job.
            process: its name in the job.
            began: when; now if empty.
            first: look at the memory then; now if None.
        """
        self.job_dir = job_dir
        self._first = first or cgroup.look()
        self._lock = threading.Lock()
        self._start = Start(process, began or record.now(), socket.gethostname(), self._first)
        self._writer = DirtyWriter(self._write, prepare=self._take_over, look=self._look)
        self._writer.mark()
        self._writer.start()

    @property
    def name(self) -> str:
        """Name of the process and its start, as in the name of its log."""
        return f"{self._start.process}-{record.stamp(self._start.began)}"

    def note_step(self, step: int) -> None:
        """Record where the job went on."""
        self._change(step=step)

    def end(self, code: int, signal: str = "", words: str = "", seconds: float = 5.0) -> Start:
        """Record the end, which is given up after so many seconds; only the first call counts."""
        if self._start.end is None:
            kills = max(cgroup.look().oom_kills - self._first.oom_kills, 0)
            self._change(end=End(record.now(), code, signal, kills, words[:500]))
        self._writer.end(seconds)
        return self._start

    def _change(self, **changes: object) -> None:
        with self._lock:
            self._start = dataclasses.replace(self._start, **changes)  # type: ignore[arg-type]
        self._writer.mark()

    def _look(self) -> None:
        memory, before = cgroup.look(), self._start.memory
        is_news = memory.is_tight != before.is_tight or memory.oom_kills != before.oom_kills
        if is_news or abs(memory.used - before.used) > _NEWS * (memory.limit or float("inf")):
            self._change(memory=memory)

    def _write(self) -> None:
        with self._lock:
            start = self._start
        start.write(self.job_dir)

    def _take_over(self) -> None:
        with contextlib.suppress(*FAILURES):
            self._follow()

    def _follow(self) -> None:
        """Learn what the start before could not say, and remove the oldest starts of this process."""
        process, paths = self._start.process, JobPaths(self.job_dir)
        own = [name for name in record.of_process(self.job_dir, process) if name < self._start.name]
        before = record.read_one(self.job_dir, own[-1]) if own else None
        if before is not None and before.end is None and before.host == self._start.host:
            self._change(oom_kills_before=max(self._first.oom_kills - before.memory.oom_kills, 0))
        logs = files.list_names(paths.logs)
        for name in own[: -record.KEPT]:
            files.remove(files.join(paths.starts, f"{name}.json"))
            log = f"{process}-{name.partition('-')[0]}."
            for part in logs:
                if part.startswith(log):
                    files.remove(files.join(paths.logs, part))
