"""The files of a checkpoint: write, verify, read and prune them; one folder a checkpoint.

A folder ``checkpoints/<step>/`` holds ``arrays.npz`` (weights, optimizer, loss scale), ``state.json`` (everything
else that decides the future) and ``COMMIT.json`` (sizes and SHA-256 of both), which is written last.  Without it, or
with a file that does not match it, the checkpoint does not exist.
Owns: that format.  Does not own: what is in the state, or when to save (``checkpoint_manager.py``).
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

_ARRAYS = "arrays.npz"
_STATE = "state.json"
_COMMIT = "COMMIT.json"


class DamagedCheckpoint(Exception):
    """A checkpoint's files are incomplete or changed; the message says how."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """The state of a job after ``step`` steps."""

    step: int
    arrays: Arrays
    state: dict[str, Any]


class CheckpointStore:
    """The checkpoints of one job, oldest first by step."""

    def __init__(self, folder: str, keep: int) -> None:
        """Open a folder, which need not exist yet; a save keeps the ``keep`` newest checkpoints."""
        self._folder = folder
        self._keep = keep

    def steps(self) -> list[int]:
        """Return the steps that have a commit marker, in ascending order."""
        steps = [int(name) for name in files.list_names(self._folder) if name.isdigit()]
        return sorted(step for step in steps if files.exists(files.join(self.path(step), _COMMIT)))

    def save(self, checkpoint: Checkpoint, *, protect: int | None = None) -> str:
        """Write a checkpoint, prune old ones, and return its folder.

        Args:
            checkpoint: what to write; an unfinished or older folder of the same step is replaced.
            protect: step of a checkpoint that is kept although it is old (the best one).
        """
        # An older folder of this step may hold a marker: remove it before any file changes.
        path = self.path(checkpoint.step)
        files.remove_tree(path)
        # Serialize in memory, so that sizes and digests are those of what is written, not of what was read back.
        buffer = io.BytesIO()
        np.savez(buffer, **checkpoint.arrays)  # type: ignore[arg-type]
        contents = {
            _ARRAYS: buffer.getvalue(),
            _STATE: json.dumps(checkpoint.state, indent=1, sort_keys=True).encode(),
        }
        # Write the contents; a kill from here to the marker leaves an unfinished checkpoint, which readers skip.
        for name, content in contents.items():
            files.write_bytes(files.join(path, name), content)
        # Commit: the marker appears whole or not at all, and makes the checkpoint exist.
        marks = {name: {"bytes": len(content), "sha256": _digest(content)} for name, content in contents.items()}
        files.write_text(files.join(path, _COMMIT), json.dumps({"step": checkpoint.step, "files": marks}, indent=1))
        # Delete old checkpoints only now, when a newer one is complete.
        self._prune(protect)
        return path

    def newest(self, *, skip: int = 0) -> Checkpoint | None:
        """Return the newest complete checkpoint; damaged and unfinished ones are logged and skipped.

        Args:
            skip: number of newest checkpoints to ignore; the oldest one is never ignored.

        Raises:
            RequestError: if there are checkpoints and all are damaged.
        """
        # What a kill left without a marker is only worth a line in the log.
        steps = self.steps()
        for name in files.list_names(self._folder):
            if name.isdigit() and int(name) not in steps:
                log.warning("checkpoint %s was never finished: skipped", self.path(int(name)))
        # A damaged checkpoint costs the steps since the one before it, not the job.
        for step in list(reversed(steps))[min(skip, max(len(steps) - 1, 0)) :]:
            try:
                return self.read(step)
            except DamagedCheckpoint as damage:
                log.warning("checkpoint %s is damaged (%s): skipped", self.path(step), damage)
        # Never start from zero where there was progress: a person has to decide that.
        if steps:
            raise RequestError(
                f"expected a whole checkpoint in {self._folder!r}, received {len(steps)} damaged ones; restore one "
                "from a backup, or start again with --resume=never"
            )
        return None

    def read(self, step: int) -> Checkpoint:
        """Return a checkpoint after comparing its files with the commit marker.

        Raises:
            DamagedCheckpoint: if anything differs.
        """
        path = self.path(step)
        try:
            # Verify every byte before any of it is parsed.
            marks = json.loads(files.read_text(files.join(path, _COMMIT)))["files"]
            contents = {name: _verified(files.join(path, name), mark) for name, mark in marks.items()}
            with np.load(io.BytesIO(contents[_ARRAYS]), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            return Checkpoint(step, arrays, json.loads(contents[_STATE]))
        except DamagedCheckpoint:
            raise
        except Exception as error:  # Damaged bytes can raise anything in a parser.
            raise DamagedCheckpoint(f"{type(error).__name__}: {error}") from error

    def read_inputs(self, step: int) -> dict[str, str]:
        """Return what a checkpoint was made from besides the settings, without its arrays.

        Raises:
            DamagedCheckpoint: if its state cannot be read.
        """
        try:
            return dict(json.loads(files.read_text(files.join(self.path(step), _STATE)))["inputs"])
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise DamagedCheckpoint(f"{type(error).__name__}: {error}") from error

    def _prune(self, protect: int | None) -> None:
        for step in self.steps()[: -self._keep]:
            if step != protect:
                files.remove_tree(self.path(step))

    def path(self, step: int) -> str:
        """Return the folder of a step's checkpoint, whether it exists or not."""
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
