"""Training jobs inside the test process, and their files."""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import pytest

from trainer import train
from trainer.core import cli
from trainer.training import distributed_input, trainer
from trainer.training.exports import exporter, live_report

# A job that trains the notebook's CNN in seconds; every test names what it changes.
SMALL = {"image_size": 64, "batch_size": 20, "epochs": 2, "precision": "float32", "export": "none"}

# Keys of a line or result that depend on the clock, or on which start of the job wrote it.
_BY_THE_CLOCK = {"images_per_second", "data_wait", "memory_bytes", "seconds", "time", "path"}


def argv(data_dir: str | Path, job_dir: str | Path, **changes: Any) -> list[str]:
    """Return the command line of a small job."""
    values = {"data_dir": data_dir, "job_dir": job_dir, **SMALL, **changes}
    return [f"--{name}={value}" for name, value in values.items()]


def run_job(data_dir: str | Path, job_dir: str | Path, *, report: bool = False, **changes: Any) -> int:
    """Run a small job in this process and return its exit code; without the report, which takes seconds to draw."""
    with contextlib.nullcontext() if report else without_report():
        return cli.run_command(train.main, argv(data_dir, job_dir, **changes))


@contextlib.contextmanager
def without_report() -> Iterator[None]:
    """Let no job of the block draw its report."""
    with (
        mock.patch.object(exporter.training_report, "write_training_report"),
        mock.patch.object(live_report.LiveReport, "_make", return_value=0.0),
    ):
        yield


def finished_job(data_dir: str | Path, job_dir: Path, **options: Any) -> Path:
    """Run a small job to its end, see ``run_job``; return its job_dir."""
    assert run_job(data_dir, job_dir, **options) == 0
    return job_dir


def result_of(job_dir: str | Path) -> dict[str, Any]:
    """Return result.json."""
    return dict(json.loads((Path(job_dir) / "result.json").read_text()))


def lines_of(job_dir: str | Path, *kinds: str) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl, of all kinds or of some."""
    lines = [json.loads(line) for line in (Path(job_dir) / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if not kinds or line["kind"] in kinds]


def values_of(job_dir: str | Path, *kinds: str) -> list[dict[str, Any]]:
    """Return the lines without what depends on the clock, so that equal jobs have equal lines."""
    return [
        {name: value for name, value in line.items() if name not in _BY_THE_CLOCK}
        for line in lines_of(job_dir, *(kinds or ("train", "validation")))
    ]


def checkpoints_of(job_dir: str | Path) -> list[int]:
    """Return the steps of the checkpoints, in order."""
    return sorted(int(path.parent.name) for path in Path(job_dir).glob("checkpoints/*/COMMIT.json"))


@contextlib.contextmanager
def sigterm_after(step: int) -> Iterator[None]:
    """Send this process a SIGTERM at the end of a step, counted from 1."""
    real = trainer.Trainer._train

    def train_step(self: trainer.Trainer, batches: distributed_input.Batches, number: int) -> int:
        done = real(self, batches, number)
        if number < step <= done:
            os.kill(os.getpid(), signal.SIGTERM)
        return done

    with mock.patch.object(trainer.Trainer, "_train", train_step):
        yield


@contextlib.contextmanager
def precision_policy(name: str = "float32") -> Iterator[None]:
    """Set Keras's precision for the block, and float32 after it."""
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy("float32")


@pytest.fixture(autouse=True)
def float32_policy() -> Iterator[None]:
    """Start every test of a module that imports this in float32; a job may have set another precision."""
    with precision_policy():
        yield
