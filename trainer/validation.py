"""The validation at the end of an epoch: its figures, and what they decide of the job's future."""

import contextlib
import dataclasses
import logging
import math
from typing import Any

import numpy as np

from trainer import metrics
from trainer.board import Board
from trainer.config import Config
from trainer.data.manifest import Split
from trainer.errors import Diverged, RequestError
from trainer.feed import Feed
from trainer.halt import Halt
from trainer.journal import Journal
from trainer.loop import Ending, Judge, Plan
from trainer.processes.peers import Alone
from trainer.progress import Progress
from trainer.state import State
from trainer.step import Steps

log = logging.getLogger(__name__)


@dataclasses.dataclass(kw_only=True, eq=False)
class Validation:
    """Scores the Validation images with the weights as they are, and lets schedule, patience and judge decide.

    Attributes:
        positive: index of the class that auc is of.
        judge: see ``train.run``; None: nobody is asked.
    """

    config: Config
    plan: Plan
    split: Split
    positive: int
    group: Alone
    judge: Judge | None
    state: State
    steps: Steps
    feed: Feed
    halt: Halt
    journal: Journal
    board: Board
    progress: Progress

    def run(self, done: int) -> Ending | None:
        """Validate after ``done`` steps; return how the job has ended for good, None if it goes on.

        None also if a stop request broke it off: a large validation set must not outlast a spot node's notice, so the
        state is saved as it is and the next start validates first.

        Raises:
            Diverged: if the loss is no number.
            RequestError: if too many images are bad.
        """
        figures = self._figures()
        if figures is None:
            return None
        values: dict[str, Any] = {f"val_{name}": value for name, value in figures.items()}
        if not math.isfinite(values["val_loss"]):  # The last step broke the weights: they must not become a result.
            raise Diverged(
                f"the validation loss is not finite after step {done}; lower --learning_rate, or use "
                "--precision=float32"
            )
        self._decide(done, values)
        if self.judge and not self.state.stopping.stopped and done < self.plan.total_steps:
            verdict = self.judge(self.plan.epoch_of(done), figures) if self.group.index == 0 else None
            self.state.hopeless = self.group.share(verdict)
        self.journal.resume_clock()
        return self.state.ending

    def _decide(self, done: int, values: dict[str, Any]) -> None:
        """Move early stopping and the schedule by the values, and write them down."""
        state = self.state
        values["learning_rate"] = state.schedule.rate(done - 1)
        values["best"] = state.stopping.update(done, values[self.config.loop.monitor])
        state.last, state.validated = values, done
        if values["best"]:
            state.best = values
        self.journal.validation(done, values)
        self.progress.epoch(done, values)
        if state.schedule.update(values):
            log.info("%s stopped improving: learning rate is now %.1e",
                     self.config.optim.plateau_monitor, state.schedule.rate(done))  # fmt: skip

    def _figures(self) -> dict[str, float | None] | None:
        """Return loss, accuracy and auc over every decodable image, each counted once; None if it was broken off."""
        outputs = []
        with contextlib.closing(self.feed.validation(self.split)) as batches:
            for batch in batches:
                outputs.append(self.steps.evaluate(batch).numpy())
                if self.halt.is_due():
                    return None
        self.feed.settle_skipped()
        rows = np.concatenate(outputs)[: len(self.split)]
        real = rows[:, -1] > 0.0
        if not real.any():
            raise RequestError("expected a validation image that can be decoded, received none; see skipped.jsonl")
        self.board.validation(self.state.step, np.flatnonzero(real), rows[real, :-1])
        return metrics.validation_summary(self.split.labels[real], rows[real, :-1], self.positive)
