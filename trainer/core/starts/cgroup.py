"""What the kernel knows of this process's memory: its cgroup's limit, use, and processes killed for want of memory.

Imports no TensorFlow.
"""

import dataclasses
import os
from pathlib import Path

from trainer.core import environment

# A folder that stands in for the process's own cgroup; tests set it, as the kernel's cannot be written.
FOLDER = "DEEPDETECT_CGROUP"

_NO_LIMIT = 1 << 60  # Version 1 writes a number close to 2**63 instead of a word.


@dataclasses.dataclass(frozen=True)
class Memory:
    """A look at a cgroup.

    Attributes:
        limit: bytes; 0: none.
        used: bytes that the kernel cannot take back: without files that are only cached; 0 outside of pods, where
            others use them, too.
        oom_kills: processes that the kernel killed in it.
    """

    limit: int = 0
    used: int = 0
    oom_kills: int = 0

    @property
    def is_tight(self) -> bool:
        """Whether the next allocation may be the last."""
        return bool(self.limit) and self.used >= 0.9 * self.limit


def look(folder: Path | None = None) -> Memory:
    """Return what a cgroup, by default this process's, says now; zeros for what it does not."""
    folder = folder or own()
    if (folder / "memory.events").exists():
        limit, used, events = "memory.max", ("anon", "shmem"), "memory.events"
    else:
        limit, used, events = "memory.limit_in_bytes", ("total_rss", "total_shmem"), "memory.oom_control"
    size = _number(_text(folder / limit))
    statistics = _table(folder / "memory.stat")
    return Memory(
        limit=size if size < _NO_LIMIT else 0,
        used=sum(statistics.get(name, 0) for name in used) if environment.is_pod() else 0,
        oom_kills=_table(folder / events).get("oom_kill", 0),
    )


def own() -> Path:
    """Return the folder of this process's memory cgroup, of version 2 or 1; it need not exist."""
    if os.environ.get(FOLDER):
        return Path(os.environ[FOLDER])
    paths = {}
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, path = line.split(":", 2)
        paths[controllers] = path.lstrip("/")
    of_v1 = next((name for name in paths if "memory" in name.split(",")), None)
    root = Path("/sys/fs/cgroup") if of_v1 is None else Path("/sys/fs/cgroup/memory")
    folder = root / paths.get("" if of_v1 is None else of_v1, "")
    return folder if (folder / "memory.stat").exists() else root  # In a container the path may be the host's.


def _table(path: Path) -> dict[str, int]:
    words = (line.split() for line in _text(path).splitlines())
    return {pair[0]: _number(pair[1]) for pair in words if len(pair) == 2}


def _number(text: str) -> int:
    return int(text) if text.strip().isdigit() else 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
