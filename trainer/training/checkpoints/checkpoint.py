"""The files of a checkpoint: write, verify, read and prune them; one folder a checkpoint.

A folder ``checkpoints/<step>/`` holds ``arrays.npz`` (weights, optimizer, loss scale), ``state.json`` (everything
else that decides the future) and ``COMMIT.json`` (sizes and SHA-256 of both), which is written last.  Without it, or
with a file that does not match it, the checkpoint does not exist.  A step that is saved again gets files of other names
(``file`` in the marker), so that the marker, which is replaced in one step, always describes files that are there.
Owns: that format.  Does not own: what is in the state, or when to save (``manager.py``).
"""

import dataclasses
import hashlib
import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core.arrays import Arrays
from trainer.core.errors import RequestError, StoppedEarly
from trainer.core.storage import files
from trainer.core.storage.transient import is_transient, reason

log = logging.getLogger(__name__)

# Of the averaged model variables' names, before their own.
AVERAGE_PREFIX = "average/"

_ARRAYS = "arrays.npz"
_STATE = "state.json"
_COMMIT = "COMMIT.json"
_AGAIN = "again-"  # Of a step that is saved again, in turn with the plain names.


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

    def __init__(self, folder: str, keep: int, *, logs: Sequence[str] = ()) -> None:
        """Open a folder, which need not exist yet.

        Args:
            folder: of the checkpoints.
            keep: number of newest checkpoints that a save keeps.
            logs: files that must not know fewer steps than a checkpoint, even after a power cut.
        """
        self._folder = folder
        self._keep = keep
        self._logs = logs

    def steps(self) -> list[int]:
        """Return the steps that have a commit marker, in ascending order."""
        steps = [int(name) for name in files.list_names(self._folder) if name.isdigit()]
        return sorted(step for step in steps if files.exists(files.join(self.path(step), _COMMIT)))

    def save(self, checkpoint: Checkpoint, *, protect: int | None = None) -> str:
        """Write a checkpoint, prune old ones, and return its folder.

        Until the new one is complete, an older one of the same step stays.  A failure leaves nothing of the new one.

        Args:
            checkpoint: what to write.
            protect: step of a checkpoint that is kept although it is old (the best one).
        """
        path = self.path(checkpoint.step)
        older = self._committed(path)
        if not older:  # At most what a kill left, or a damaged marker.
            self._remove(path)
        # Serialize in memory, so that sizes and digests are those of what is written, not of what was read back.
        buffer = io.BytesIO()
        np.savez(buffer, **checkpoint.arrays)  # type: ignore[arg-type]
        state = json.dumps(checkpoint.state, indent=1, sort_keys=True).encode()
        prefix = _AGAIN if _ARRAYS in older else ""
        contents = {prefix + _ARRAYS: buffer.getvalue(), prefix + _STATE: state}
        try:
            self._write(path, checkpoint.step, contents)
        except StoppedEarly:  # The storage is away, or no longer ours: the next start removes it.
            raise
        except Exception:
            self._discard(path, contents)
            raise
        for name in older:
            files.remove(files.join(path, name))
        # Delete old checkpoints only now, when a newer one is complete.
        self._prune(protect)
        return path

    def _write(self, path: str, step: int, contents: Mapping[str, bytes]) -> None:
        """Write the files, and last the marker, which makes the checkpoint exist."""
        marks = {}
        for name, content in contents.items():
            files.write_bytes(files.join(path, name), content)
            mark = {"bytes": len(content), "sha256": _digest(content)}
            plain = name.removeprefix(_AGAIN)
            marks[plain] = mark if name == plain else {**mark, "file": name}
        for log_file in self._logs:
            files.sync(log_file)
        files.write_text(files.join(path, _COMMIT), json.dumps({"step": step, "files": marks}, indent=1))

    def _discard(self, path: str, names: Iterable[str]) -> None:
        """Remove the files that a failed save has written, unless the marker already describes them."""
        described = self._committed(path)
        for name in set(names) - set(described):
            files.remove(files.join(path, name))
        if not described:
            files.remove_tree(path)

    def _committed(self, path: str) -> list[str]:
        """Return the names of the files that a folder's marker describes; none if there is no marker or it is torn."""
        marker = files.join(path, _COMMIT)
        if not files.exists(marker):
            return []
        try:
            return [mark.get("file", name) for name, mark in json.loads(files.read_bytes(marker))["files"].items()]
        except (ValueError, TypeError, KeyError, AttributeError):
            return []

    def remove_after(self, step: int) -> None:
        """Remove the checkpoints of later steps, whose course a rollback has abandoned; the newest first."""
        for later in reversed(self.steps()):
            if later > step:
                log.warning("checkpoint %s belongs to the abandoned course: removed", self.path(later))
                self._remove(self.path(later))

    def remove_leftovers(self) -> None:
        """Remove what killed saves left; only for the process that alone writes here."""
        for name in files.list_names(self._folder):
            folder = files.join(self._folder, name)
            if not name.isdigit():
                continue
            if not files.exists(files.join(folder, _COMMIT)):
                log.warning("checkpoint %s was never finished: removed", folder)
                files.remove_tree(folder)
            elif described := self._committed(folder):  # A torn marker stays for a person to look at.
                for other in set(files.list_names(folder)) - {_COMMIT, *described}:
                    files.remove(files.join(folder, other))

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
            contents = {name: _verified(files.join(path, mark.get("file", name)), mark) for name, mark in marks.items()}
            with np.load(io.BytesIO(contents[_ARRAYS]), allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
            return Checkpoint(step, arrays, json.loads(contents[_STATE]))
        except (DamagedCheckpoint, StoppedEarly):
            raise
        except PermissionError as error:
            raise RequestError(
                f"expected the checkpoint {path!r} to be readable, received: {reason(error)}; give this user the right "
                "to read it"
            ) from error
        except Exception as error:  # Damaged bytes can raise anything in a parser.
            if is_transient(error):
                raise
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
                self._remove(self.path(step))

    def _remove(self, path: str) -> None:
        """Remove a checkpoint, its marker first: a kill in between leaves an unfinished one, not a damaged one."""
        files.remove(files.join(path, _COMMIT))
        files.remove_tree(path)

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


def exported(arrays: Arrays) -> Arrays:
    """Return a checkpoint's arrays with the model's variables as they are exported: averaged, if it has averages."""
    averages = {name: array for name, array in arrays.items() if name.startswith(AVERAGE_PREFIX)}
    return {**arrays, **{name.removeprefix(AVERAGE_PREFIX): array for name, array in averages.items()}}


def digest_of_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Return a SHA-256 over names, shapes, dtypes and bytes, in the mapping's order."""
    digest = hashlib.sha256()
    for name, array in arrays.items():
        digest.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
