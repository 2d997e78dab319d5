"""Runs in Weights & Biases.  The environment says where and how (WANDB_PROJECT, WANDB_MODE=offline, WANDB_DIR).

Imports no TensorFlow.
"""

import os
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # Read at the import.

import wandb

from trainer.core.errors import RequestError
from trainer.training.trackers.backend import FINISHED, KILLED, Point, Run

_PROJECT = "deepdetect"  # Unless WANDB_PROJECT names another one.


class WandbBackend:
    """One run."""

    def __init__(self) -> None:
        """Connect to nothing yet."""
        self._run: Any = None

    def open(self, run: Run, run_id: str) -> str:
        """See ``Backend``.

        Raises:
            RequestError: without a key, which W&B would otherwise ask for on the terminal.
        """
        is_online = os.environ.get("WANDB_MODE", "online") == "online"
        if is_online and not wandb.login(prompt=False):
            raise RequestError("expected WANDB_API_KEY or WANDB_MODE=offline, received neither")
        run_id = run_id or uuid.uuid4().hex[:8]
        settings = wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT), id=run_id, name=run.name, resume="allow",
            group=run.parent.rsplit("/", 1)[-1] or None, config={**run.settings, "job_dir": run.job_dir, **run.tags},
            allow_val_change=True, reinit="create_new", settings=settings,
        )  # fmt: skip
        return run_id

    def log(self, points: Sequence[Point]) -> None:
        """See ``Backend``."""
        for point in points:
            self._run.log(dict(point.values), step=point.step)

    def tag(self, tags: Mapping[str, str]) -> None:
        """See ``Backend``."""
        self._run.summary.update(dict(tags))

    def close(self, status: str) -> None:
        """See ``Backend``."""
        self.tag({"status": status})
        if status == KILLED:
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if status == FINISHED else 1)
