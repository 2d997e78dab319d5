"""Images that could not be decoded: counted once each, listed in a file, and refused if there are too many.

Reading threads report here; the thread that owns the job calls ``check_limit``.
"""

import json
import threading
from typing import Any

from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.core.storage.lines import BufferedLines

_LINE = ("split", "path", "reason")  # Of an entry, what the file gets.


class BadImages:
    """The bad images of one job, by split and path."""

    def __init__(self, path: str, max_bad_fraction: float, *, write: bool = True) -> None:
        """Start with the images that an earlier start of the same job has listed.

        Args:
            path: the ``skipped.jsonl`` to continue.
            max_bad_fraction: largest share of a split that may be bad.
            write: False for processes that are not the chief.
        """
        self._path = path
        self._max_bad_fraction = max_bad_fraction
        self._write = write
        self._lock = threading.Lock()
        self._lines = BufferedLines(path)
        self._unwritten: list[dict[str, Any]] = []
        self._unsent: list[dict[str, Any]] = []  # First reported by this process, since ``take_new``.
        # One bad image of each split that met any since the last ``check_limit``, whether listed before or not.
        self._examples: dict[str, dict[str, Any]] = {}
        lines = files.read_text(path).splitlines() if files.exists(path) else []
        entries = [json.loads(line) for line in lines]
        self._keys = {(entry["split"], entry["path"]) for entry in entries}

    def report(self, split: str, size: int, path: str, reason: str) -> None:
        """Record a bad image of a split of ``size`` images; callable from any thread, any number of times."""
        entry = {"split": split, "path": path, "reason": reason, "size": size}
        with self._lock:
            if self._add(entry):
                self._unsent.append(entry)

    def _add(self, entry: dict[str, Any]) -> bool:
        """Record an entry and return whether it is new; the caller holds the lock."""
        key = entry["split"], entry["path"]
        self._examples[entry["split"]] = entry
        if key in self._keys:
            return False
        self._keys.add(key)
        self._unwritten.append(entry)
        return True

    def take_new(self) -> list[dict[str, Any]]:
        """Return the images that this process reported first since the last call, for other processes."""
        with self._lock:
            entries, self._unsent = self._unsent, []
        return entries

    def merge(self, entries: list[dict[str, Any]]) -> None:
        """Record what ``take_new`` of another process returned."""
        with self._lock:
            for entry in entries:
                self._add(entry)

    def count(self, split: str) -> int:
        """Return the number of bad images of a split so far."""
        with self._lock:
            return sum(1 for key_split, _ in self._keys if key_split == split)

    def check_limit(self) -> list[str]:
        """Write the images reported since the last call, and return a line about each.

        Raises:
            RequestError: if more than the allowed share of a split is bad; also in a later start of the job, which
                reads all of them from the file.
        """
        if not self._examples:
            return []
        with self._lock:
            entries, self._unwritten = self._unwritten, []
            examples, self._examples = self._examples, {}
        if self._write:
            self._lines.add([json.dumps({name: entry[name] for name in _LINE}) for entry in entries])
        for split, entry in examples.items():
            self._check(split, entry["size"], entry)
        return [f"skipped {entry['path']}: {entry['reason']}" for entry in entries]

    def flush(self) -> None:
        """Write lines that a slow disk or bucket has delayed."""
        self._lines.flush()

    def _check(self, split: str, size: int, example: dict[str, Any]) -> None:
        count = self.count(split)
        if count > self._max_bad_fraction * size:
            self.flush()
            raise RequestError(
                f"expected at most {self._max_bad_fraction:.1%} of the {size} images of {split} to be bad, received "
                f"{count} so far, such as {example['path']} ({example['reason']}); see {self._path}, repair or remove "
                "them, or raise --max_bad_fraction"
            )
