"""What this user submitted to Slurm: a file for each run in the home folder, which login nodes share.

A run can be listed and resumed when Slurm has forgotten its job, and where no accounting exists.
"""

import contextlib
import dataclasses
import datetime
import json
import os
from pathlib import Path
from typing import Any

from trainer.core.errors import RequestError

_SUFFIX = ".json"


@dataclasses.dataclass(frozen=True)
class Record:
    """One run.

    Attributes:
        name: of the run.
        job: Slurm's number of the job or array; empty: sbatch has not answered.
        log_dir: folder of its logs and of its tasks' ends.
        submitted: time (RFC 3339).
        run: the flags of submit that differ from their defaults.
        trainer: words of the trainer.
        tasks: of the array; 1: no array.
        end: how it ended, one of ``states.OVER``, as far as it was noted.
    """

    name: str
    job: str
    log_dir: str
    submitted: str
    run: dict[str, Any]
    trainer: tuple[str, ...]
    tasks: int = 1
    end: str = ""


def folder() -> Path:
    """Return the folder of all records."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "deepdetect" / "slurm"


def now() -> str:
    """Return the time in the form of ``Record.submitted``."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def claim(record: Record) -> None:
    """Write the record of a new run.

    Raises:
        RequestError: if the name is taken.
    """
    folder().mkdir(parents=True, exist_ok=True)
    try:
        with _path(record.name).open("x", encoding="utf-8") as file:
            file.write(_to_text(record))
    except FileExistsError as error:
        raise RequestError(
            f"--name: expected a new name, received {record.name!r} of an existing run; give another, continue that "
            f"one (resume {record.name}), or remove its record (cancel {record.name} --forget)"
        ) from error


def update(record: Record) -> None:
    """Replace the record of a run."""
    path = _path(record.name)
    beside = path.with_suffix(f".{os.getpid()}")
    beside.write_text(_to_text(record), encoding="utf-8")
    beside.replace(path)


def remove(name: str) -> None:
    """Remove the record of a run."""
    _path(name).unlink(missing_ok=True)


def read_all() -> list[Record]:
    """Return all records by name; a file that is none is left out."""
    every = []
    for path in sorted(folder().glob(f"*{_SUFFIX}")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            values = json.loads(path.read_text(encoding="utf-8"))
            every.append(Record(**{**values, "trainer": tuple(values["trainer"])}))
    return every


def read(name: str) -> Record:
    """Return the record of a run.

    Raises:
        RequestError: if there is none.
    """
    for record in read_all():
        if record.name == name:
            return record
    raise RequestError(
        f"expected a run that this user submitted to Slurm, received {name!r}, of which {folder()} has no record; see "
        "list --platform=slurm, or use run with its --job_dir"
    )


def _path(name: str) -> Path:
    return folder() / f"{name}{_SUFFIX}"


def _to_text(record: Record) -> str:
    return json.dumps(dataclasses.asdict(record), indent=1)
