"""Save, verify, restore and prune the state of a job: one folder a checkpoint.

A folder ``checkpoints/<step>/`` holds ``arrays.npz`` (weights, optimizer, loss scale), ``state.json`` (everything
else that decides the future) and ``COMMIT.json`` (sizes and SHA-256 of both), which is written last: without it, or
with a file that does not match it, the checkpoint does not exist.
Owns: that format.  Does not own: what is in the state, or when to save.
"""

import dataclasses
import hashlib
import io
import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core.arrays import Arrays
from trainer.core.errors import RequestError
from trainer.core.storage import files

log = logging.getLogger(__name__)

_ARRAYS, _STATE, _COMMIT = "arrays.npz", "state.json", "COMMIT.json"


class DamagedCheckpoint(Exception):
    """Say what is wrong with a checkpoint's files."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The state of a job after ``step`` steps."""

    step: int
    arrays: Arrays
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one job, oldest first by step."""

    def __init__(self, folder: str, keep: int) -> None:
        """Open a folder, which need not exist yet; ``keep`` newest checkpoints survive a save."""
        self._folder, self._keep = folder, keep

    def steps(self) -> list[int]:
        """Return the steps that have a commit marker, in ascending order."""
        found = [int(name) for name in files.list_names(self._folder) if name.isdigit()]
        return sorted(step for step in found if files.exists(files.join(self.path(step), _COMMIT)))

    def save(self, checkpoint: Checkpoint, *, protect: int | None = None) -> str:
        """Write a checkpoint, prune old ones, and return its folder.

        Args:
            checkpoint: what to write; an unfinished or older folder of the same step is replaced.
            protect: step of a checkpoint that must stay although it is old (the best one).
        """
        path = self.path(checkpoint.step)
        files.remove_tree(path)
        buffer = io.BytesIO()
        np.savez(buffer, **checkpoint.arrays)  # type: ignore[arg-type]
        contents = {
            _ARRAYS: buffer.getvalue(),
            _STATE: json.dumps(checkpoint.state, indent=1, sort_keys=True).encode(),
        }
        for name, content in contents.items():
            files.write_bytes(files.join(path, name), content)
        marks = {name: {"bytes": len(content), "sha256": _digest(content)} for name, content in contents.items()}
        files.write_text(files.join(path, _COMMIT), json.dumps({"step": checkpoint.step, "files": marks}, indent=1))
        self._prune(protect)
        return path

    def newest(self, *, skip: int = 0) -> Checkpoint | None:
        """Return the newest checkpoint that is whole; damaged and unfinished ones are named in the log and passed over.

        Args:
            skip: newer checkpoints to leave out, but never the oldest one.

        Raises:
            RequestError: if there are checkpoints and all are damaged.
        """
        steps = self.steps()
        for name in files.list_names(self._folder):
            if name.isdigit() and int(name) not in steps:
                log.warning("checkpoint %s was never finished: passed over", self.path(int(name)))
        for step in list(reversed(steps))[min(skip, max(len(steps) - 1, 0)) :]:
            try:
                return self.read(step)
            except DamagedCheckpoint as damage:
                log.warning("checkpoint %s is damaged (%s): passed over", self.path(step), damage)
        if steps:
            raise RequestError(
                f"expected a whole checkpoint in {self._folder!r}, received {len(steps)} damaged ones; restore one "
                "from a backup, or start again with --resume=never"
            )
        return None

    def read(self, step: int) -> Checkpoint:
        """Return one checkpoint after comparing its content with the commit marker.

        Raises:
            DamagedCheckpoint: if anything differs.
        """
        path = self.path(step)
        try:
            marks = json.loads(files.read_text(files.join(path, _COMMIT)))["files"]
            contents = {name: _verified(files.join(path, name), mark) for name, mark in marks.items()}
            with np.load(io.BytesIO(contents[_ARRAYS]), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            return Checkpoint(step, arrays, json.loads(contents[_STATE]))
        except DamagedCheckpoint:
            raise
        except Exception as error:  # Damaged bytes can make any parser fail in any way.
            raise DamagedCheckpoint(f"{type(error).__name__}: {error}") from error

    def _prune(self, protect: int | None) -> None:
        for step in self.steps()[: -self._keep]:
            if step != protect:
                files.remove_tree(self.path(step))

    def path(self, step: int) -> str:
        """Return the folder of a step's checkpoint, whether it is there or not."""
        return files.join(self._folder, f"{step:010d}")


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _verified(path: str, mark: Mapping[str, Any]) -> bytes:
    content = files.read_bytes(path)
    if len(content) != mark["bytes"]:
        raise DamagedCheckpoint(f"{path} has {len(content)} bytes instead of {mark['bytes']}")
    if _digest(content) != mark["sha256"]:
        raise DamagedCheckpoint(f"{path} does not match its SHA-256")
    return content


def digest_of_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return a SHA-256 over names, shapes, dtypes and bytes, in the mapping's order."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
