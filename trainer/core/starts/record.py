"""``job_dir/starts/``: one small file for each start of each process, and what they say of how starts ended.

Each process, or its supervisor, alone writes its file.  A start that was killed has no end in it.
Does not own: who writes (``recorder.py``), what a job does about it (``training/resume.py``).  Imports no TensorFlow.
"""

import dataclasses
import datetime
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from trainer.core import checked_json
from trainer.core.checked_json import COUNT, OBJECT, TEXT, nullable
from trainer.core.errors import RequestError, StoppedEarly
from trainer.core.job_dir import JobPaths
from trainer.core.starts.cgroup import Memory
from trainer.core.storage import files

KEPT = 20  # Starts of each process.
_SHOWN = 10
_THREADS = 8
_FIELDS = {
    "process": TEXT, "began": TEXT, "host": TEXT, "step": nullable(COUNT), "memory": OBJECT,
    "oom_kills_before": COUNT, "end": nullable(OBJECT),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class End:
    """How a start ended.

    Attributes:
        time: UTC, ISO 8601.
        code: exit code; 128 and the signal's number if one killed it.
        signal: name of that signal; empty if it exited.
        oom_kills: processes of its cgroup that the kernel killed for want of memory since it began.
        words: its last line.
    """

    time: str
    code: int
    signal: str = ""
    oom_kills: int = 0
    words: str = ""


@dataclasses.dataclass(frozen=True)
class Start:
    """One start of a process.

    Attributes:
        process: ``main``, ``worker-0`` and so on, or a sweep's ``chief`` and workers.
        began: UTC, ISO 8601.
        host: name of the machine or pod.
        memory: the last look at its cgroup that was written.
        step: where the job went on; None before that is known.
        oom_kills_before: killed for want of memory since the last look of the start before, in the same cgroup.
        is_followed: whether that process has begun again since, so that this start has ended.
        oom_kills_after: ``oom_kills_before`` of that next start.
        end: None while it runs, and if it was killed.
    """

    process: str
    began: str
    host: str
    memory: Memory = dataclasses.field(default_factory=Memory)
    step: int | None = None
    oom_kills_before: int = 0
    end: End | None = None
    is_followed: bool = False
    oom_kills_after: int = 0

    @property
    def name(self) -> str:
        """Name of its file, without ending; in the order of time."""
        return f"{stamp(self.began)}-{self.process}"

    @property
    def ran_out_of_memory(self) -> bool:
        """Whether the kernel killed it for want of memory, or it vanished with hardly any left."""
        if self.end is None:
            return self.is_followed and (self.memory.is_tight or self.oom_kills_after > 0)
        return bool(self.end.oom_kills and self.end.signal == "SIGKILL")

    @property
    def is_over(self) -> bool:
        """Whether it has certainly ended."""
        return self.end is not None or self.is_followed

    def write(self, job_dir: str) -> None:
        """Write the file."""
        path = files.join(JobPaths(job_dir).starts, f"{self.name}.json")
        values = {name: value for name, value in dataclasses.asdict(self).items() if name in _FIELDS}
        files.write_text(path, json.dumps(values, indent=1) + "\n")

    def line(self) -> str:
        """Return the start in words."""
        text = f"{self.began[:19].replace('T', ' ')}  {self.process} on {self.host}"
        if self.step is not None:
            text += f", from step {self.step}"
        return f"{text}: {self._outcome()}"

    def _outcome(self) -> str:
        if self.end is None:
            text, kills = "ended without a word" if self.is_followed else "runs, or ended without a word", 0
        else:
            text, kills = f"exit code {self.end.code}", self.end.oom_kills
            text = f"killed by {self.end.signal}" if self.end.signal else text
        if self.ran_out_of_memory:
            text += f", {self.cause}"
        elif kills:
            text += f", {kills} of its processes killed for want of memory"
        return text + (f": {self.end.words}" if self.end and self.end.words else "")

    @property
    def cause(self) -> str:
        """Why it is said to have run out of memory, and what to do."""
        size = f" (limit {self.memory.limit / 2**30:.1f} GiB)" if self.memory.limit else ""
        counted = self.oom_kills_after or (self.end and self.end.oom_kills)
        how = "the kernel killed it for want of memory" if counted else "with hardly any memory left"
        return f"{how}{size}: give it more (submit.py run --memory)"


def now() -> str:
    """Return the time in UTC, ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


def stamp(time: str) -> str:
    """Return a time as part of a file's name."""
    return time[:23].replace("-", "").replace(":", "").replace(".", "")


def read(job_dir: str, last: int) -> list[Start]:
    """Return the newest starts of a job, oldest first; empty if it has none, or its storage does not answer."""
    return _read_all(job_dir, lambda names: names[-last:])


def recent(job_dir: str, age: datetime.timedelta, each: int = 3) -> list[Start]:
    """Return the starts of some time, and the newest ones of each process whatever their age; see ``read``."""
    since = stamp((datetime.datetime.now(datetime.UTC) - age).isoformat(timespec="milliseconds"))

    def choose(names: list[str]) -> list[str]:
        newest: dict[str, list[str]] = {}
        for name in names:
            newest.setdefault(name.partition("-")[2], []).append(name)
        kept = {name for own in newest.values() for name in own[-each:]}
        return [name for name in names if name >= since or name in kept]

    return _read_all(job_dir, choose)


def of_process(job_dir: str, process: str) -> list[str]:
    """Return the names of a process's starts, oldest first."""
    names = sorted(files.list_names(JobPaths(job_dir).starts))
    return [name.removesuffix(".json") for name in names if name.partition("-")[2] == f"{process}.json"]


def read_one(job_dir: str, name: str) -> Start | None:
    """Return the start of a name; None if there is none, or it is damaged."""
    return _read(files.join(JobPaths(job_dir).starts, f"{name}.json"))


def _read_all(job_dir: str, choose: Callable[[list[str]], list[str]]) -> list[Start]:
    folder = JobPaths(job_dir).starts
    try:
        names = sorted(name for name in files.list_names(folder) if name.endswith(".json"))
        with ThreadPoolExecutor(_THREADS) as pool:
            starts = list(pool.map(_read, [files.join(folder, name) for name in choose(names)]))
    except (OSError, StoppedEarly, RequestError):
        return []
    return _linked([start for start in starts if start is not None])


def lines(job_dir: str) -> list[str]:
    """Return the newest starts in words, oldest first, for ``submit.py status``."""
    return [start.line() for start in read(job_dir, _SHOWN)] if job_dir else []


def _linked(starts: list[Start]) -> list[Start]:
    """Tell each start what the next one of its process says of it."""
    following: dict[str, Start] = {}
    linked = []
    for start in reversed(starts):
        after = following.get(start.process)
        kills = after.oom_kills_before if after else 0
        linked.append(dataclasses.replace(start, is_followed=after is not None, oom_kills_after=kills))
        following[start.process] = start
    return linked[::-1]


def _read(path: str) -> Start | None:
    try:
        values = checked_json.read(path, _FIELDS, remedy="")
        end: dict[str, Any] | None = values["end"]
        return Start(
            process=values["process"], began=values["began"], host=values["host"], step=values["step"],
            memory=Memory(**values["memory"]), end=End(**end) if end else None,
            oom_kills_before=values["oom_kills_before"],
        )  # fmt: skip
    except (FileNotFoundError, checked_json.Malformed, TypeError):
        return None
