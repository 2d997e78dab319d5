"""Images that could not be decoded: counted once each, named in a file, and too many of them refused.

Reading threads report here; the thread that owns the job calls ``settle``.
"""

import json
import threading
from typing import Any

from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.core.storage.lines import BufferedLines


class BadImages:
    """The bad images of one job, by split and path."""

    def __init__(self, path: str, max_bad_fraction: float, *, write: bool = True) -> None:
        """Begin with what an earlier start of the same job found.

        Args:
            path: the ``skipped.jsonl`` to continue.
            max_bad_fraction: largest share of a split that may be bad.
            write: False for processes that are not the chief.
        """
        self._path, self._max_bad_fraction, self._write = path, max_bad_fraction, write
        self._lock = threading.Lock()
        self._pending: list[dict[str, Any]] = []
        self._lines = BufferedLines(path)
        self._new: list[dict[str, Any]] = []  # Met by this process since take_new.
        self._met: dict[str, dict[str, Any]] = {}  # A bad image of each split met since the last settle, known or new.
        lines = files.read_text(path).splitlines() if files.exists(path) else []
        known = [json.loads(line) for line in lines]
        self._known = {(entry["split"], entry["path"]) for entry in known}

    def report(self, split: str, size: int, path: str, reason: str) -> None:
        """Note a bad image of a split of ``size`` images; may be called from any thread, any number of times."""
        entry = {"split": split, "path": path, "reason": reason, "size": size}
        with self._lock:
            if self._note(entry):
                self._new.append(entry)

    def _note(self, entry: dict[str, Any]) -> bool:
        """Take an entry, holding the lock; tell whether it was not known."""
        key = entry["split"], entry["path"]
        self._met[entry["split"]] = entry
        if key in self._known:
            return False
        self._known.add(key)
        self._pending.append(entry)
        return True

    def take_new(self) -> list[dict[str, Any]]:
        """Return the images that this process was the first to report since the last call, for other processes."""
        with self._lock:
            new, self._new = self._new, []
        return new

    def merge(self, entries: list[dict[str, Any]]) -> None:
        """Take what another process's ``take_new`` returned."""
        with self._lock:
            for entry in entries:
                self._note(entry)

    def count(self, split: str) -> int:
        """Return how many images of the split are known to be bad."""
        with self._lock:
            return sum(1 for known_split, _ in self._known if known_split == split)

    def check_limit(self) -> list[str]:
        """Write what came since the last call, and return one line about each image.

        Raises:
            RequestError: if more than the allowed share of a split is bad; also in a later start of the job, which
                finds all of them in the file.
        """
        if not self._met:
            return []
        with self._lock:
            pending, self._pending = self._pending, []
            met, self._met = self._met, {}
        if self._write:
            named = [{name: entry[name] for name in ("split", "path", "reason")} for entry in pending]
            self._lines.add([json.dumps(entry) for entry in named])
        for split, entry in met.items():
            self._check(split, entry["size"], entry)
        return [f"skipped {entry['path']}: {entry['reason']}" for entry in pending]

    def flush(self) -> None:
        """Write what a slow disk or bucket made wait."""
        self._lines.flush()

    def _check(self, split: str, size: int, example: dict[str, Any]) -> None:
        bad = self.count(split)
        if bad > self._max_bad_fraction * size:
            self.flush()
            raise RequestError(
                f"expected at most {self._max_bad_fraction:.1%} of the {size} images of {split} to be bad, received "
                f"{bad} so far, such as {example['path']} ({example['reason']}); see {self._path}, repair or remove "
                "them, or raise --max_bad_fraction"
            )
