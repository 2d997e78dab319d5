"""Images that could not be decoded: counted once each, listed in a file, and refused if there are too many.

An image that decodes again leaves the list.  Reading threads report here; the thread that owns the job calls
``check_limit``.
"""

import json
import logging
import threading
from collections.abc import Sequence
from typing import Any

from trainer.core.errors import RequestError
from trainer.core.storage.lines import BufferedLines, read_objects

log = logging.getLogger(__name__)

_LINE = ("split", "path", "reason")  # Of an entry, what the file gets.


class BadImages:
    """The bad images of one job, by split and path."""

    def __init__(self, path: str, max_bad_fraction: float, *, write: bool = True) -> None:
        """Start with the images that an earlier start of the same job has listed.

        Args:
            path: the ``skipped.jsonl`` to continue; the line that a kill has torn is dropped from it.
            max_bad_fraction: largest share of a split that may be bad.
            write: False for processes that are not the chief.
        """
        self._path = path
        self._max_bad_fraction = max_bad_fraction
        self._write = write
        self._lock = threading.Lock()
        self._lines = BufferedLines(path)
        self._unwritten: list[dict[str, Any]] = []
        self._recovered: list[str] = []  # Paths, since the last ``check_limit``.
        self._unsent: list[dict[str, Any]] = []  # First noticed by this process, since ``take_new``.
        # One bad image of each split that met any since the last ``check_limit``, whether listed before or not.
        self._examples: dict[str, dict[str, Any]] = {}
        entries, is_whole = read_objects(path)
        self._entries = {(one["split"], one["path"]): one for one in entries if one.keys() >= set(_LINE)}
        self._must_rewrite = not is_whole  # The file has lines that must go.
        if not is_whole:
            log.warning("%s has a line that was never finished: dropped", path)

    def report(self, split: str, size: int, path: str, reason: str) -> None:
        """Record a bad image of a split of ``size`` images; callable from any thread, any number of times."""
        entry = {"split": split, "path": path, "reason": reason, "size": size}
        with self._lock:
            if self._add(entry):
                self._unsent.append(entry)

    def report_good(self, split: str, paths: Sequence[str]) -> None:
        """Take images of a split that decode off the list; callable from any thread, any number of times."""
        with self._lock:
            for path in paths:
                entry = {"split": split, "path": path, "reason": ""}
                if self._add(entry):
                    self._unsent.append(entry)

    def has_any(self, split: str) -> bool:
        """Return whether images of a split are listed, which is rare; without any, ``report_good`` has no effect."""
        return any(key_split == split for key_split, _ in list(self._entries))

    def _add(self, entry: dict[str, Any]) -> bool:
        """Record an entry, or with an empty reason remove it, and return whether that changed the list.

        The caller holds the lock.
        """
        key = entry["split"], entry["path"]
        if not entry["reason"]:
            return self._remove(key)
        self._examples[entry["split"]] = entry
        if key in self._entries:
            return False
        self._entries[key] = entry
        self._unwritten.append(entry)
        return True

    def _remove(self, key: tuple[str, str]) -> bool:
        entry = self._entries.pop(key, None)
        if entry is None:
            return False
        self._must_rewrite = True
        self._recovered.append(key[1])
        return True

    def take_new(self) -> list[dict[str, Any]]:
        """Return what this process noticed first since the last call, for other processes."""
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
            return sum(1 for key_split, _ in self._entries if key_split == split)

    def check_limit(self) -> list[str]:
        """Write what changed since the last call, and return a line about each change.

        Raises:
            RequestError: if more than the allowed share of a split is bad; also in a later start of the job, which
                reads all of them from the file.
        """
        if not self._examples and not self._must_rewrite:
            return []
        with self._lock:
            entries, self._unwritten = self._unwritten, []
            recovered, self._recovered = self._recovered, []
            examples, self._examples = self._examples, {}
            listed = list(self._entries.values())
            must_rewrite, self._must_rewrite = self._must_rewrite, False
        if self._write and must_rewrite:
            if not self._lines.rewrite([_line(entry) for entry in listed]):
                self._must_rewrite = True
        elif self._write:
            self._lines.add([_line(entry) for entry in entries])
        for split, entry in examples.items():
            self._check(split, entry["size"], entry)
        skipped = [f"skipped {entry['path']}: {entry['reason']}" for entry in entries]
        return [*skipped, *(f"no longer skipped, as it decodes again: {path}" for path in recovered)]

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


def _line(entry: dict[str, Any]) -> str:
    return json.dumps({name: entry[name] for name in _LINE})
