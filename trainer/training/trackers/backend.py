"""What a service that tracks experiments has to do; each has a module of its own.

All methods are called on one thread, and may fail or wait.  Imports no TensorFlow.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Protocol

from trainer.core.config import Value

# How a start of a job ends, by MLflow's names.
FINISHED, KILLED, FAILED = "FINISHED", "KILLED", "FAILED"


@dataclasses.dataclass(frozen=True)
class Run:
    """What a service is told of a job when it starts.

    Attributes:
        name: for people.
        job_dir: absolute.
        parent: folder of the sweep or the seeds that it is part of; empty if it stands alone.
        settings: by flag name.
        tags: what else is known.
    """

    name: str
    job_dir: str
    parent: str
    settings: Mapping[str, Value]
    tags: Mapping[str, str]

    @property
    def parent_key(self) -> str:
        """A name of the parent without special characters, by which runs of several processes meet."""
        return hashlib.sha256(self.parent.encode("utf-8", "surrogateescape")).hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class Point:
    """Values of a step, at a time (seconds since the epoch)."""

    step: int
    values: Mapping[str, float]
    time: float


class Backend(Protocol):
    """One run of a service."""

    def open(self, run: Run, run_id: str) -> str:
        """Begin a run, or continue the one with this id unless that is empty; return its id."""

    def log(self, points: Sequence[Point]) -> None:
        """Record points, in the order of their steps."""

    def tag(self, tags: Mapping[str, str]) -> None:
        """Record facts, such as paths; later ones replace earlier ones."""

    def close(self, status: str) -> None:
        """End this start of the job: ``FINISHED``, ``KILLED`` (it may continue) or ``FAILED``."""
