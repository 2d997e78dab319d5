"""The steps of one start, from where the state stands to an ending: what happens at each, and after a divergence.

Does not own: cadence (``loop.py``), maths (``step.py``), validation (``validation.py``), what is on the disk
(``keeper.py``), when all stop (``halt.py``).
"""

import contextlib
import dataclasses
import functools
import time

import tensorflow as tf

from trainer import loop
from trainer.data.manifest import Split
from trainer.data.skipped import Skipped
from trainer.errors import Diverged
from trainer.feed import Batches, Feed
from trainer.halt import Halt
from trainer.journal import Journal
from trainer.keeper import Keeper
from trainer.processes import agreement
from trainer.processes.peers import Alone
from trainer.profiling import Profile
from trainer.progress import Progress
from trainer.state import State
from trainer.step import Steps
from trainer.validation import Validation


@dataclasses.dataclass(kw_only=True, eq=False)
class Course:
    """Trains, writes down, validates and saves whenever the loop says so.

    Attributes:
        split: of the training images.
    """

    plan: loop.Plan
    split: Split
    group: Alone
    state: State
    steps: Steps
    feed: Feed
    skipped: Skipped
    halt: Halt
    keeper: Keeper
    validation: Validation
    journal: Journal
    progress: Progress
    profile: Profile

    def run(self) -> loop.Ending:
        """Run the loop to its ending, with everything saved; a divergence goes back to a checkpoint if that is wanted.

        Raises:
            RequestError: if too many images are bad.
            JobFailed: if the loss diverged, or the last state could not be saved.
        """
        try:
            ending = self._run_until_it_ends()
        finally:
            self.profile.stop()
            self.progress.close()
            self.keeper.finish()
        self.keeper.note_saves()
        if self.group.index == 0:
            self.keeper.refuse_unsaved_end()
        return ending

    def _run_until_it_ends(self) -> loop.Ending:
        while True:
            start = self.state.step
            batches = self.feed.training(self.split, start, self.plan.total_steps)
            self.journal.resume_clock()
            try:
                with contextlib.closing(batches):
                    return loop.run(
                        self.plan,
                        start,
                        train=functools.partial(self._train, batches),
                        log=self._log,
                        validate=self.validation.run,
                        save=self._save,
                        stop_requested=self.halt.is_due,
                        validate_first=self.plan.ends_epoch(start) and self.state.validated < start,
                    )
            except Diverged as divergence:
                self.keeper.roll_back(divergence)

    def _train(self, batches: Batches, step: int) -> None:
        asked = time.monotonic()
        batch = next(batches)
        waited = time.monotonic() - asked
        rate = self.state.schedule.rate(step)
        self.state.optimizer.learning_rate = rate
        with self.profile.step(step + 1):
            stats = self.steps.train(batch, tf.constant(step, tf.int64))
        self.state.step = step + 1
        self.journal.add(self.state.step, rate, stats, waited)
        self.progress.step(self.state.step)

    def _log(self, done: int, *, force: bool = False) -> None:
        window = None
        try:
            window = self.journal.fetch(force=force or self.plan.ends_epoch(done))
        except Diverged as divergence:
            self.halt.diverged(divergence)
        if window is not None:
            self.progress.window(window)
        self.feed.settle_skipped()
        self.keeper.note_saves()

    def _save(self, done: int, *, must: bool) -> None:
        self._log(done, force=True)
        if must:
            agreement.merge_skipped(self.group, self.skipped)
            self.feed.settle_skipped()
        self.journal.flush()
        self.skipped.flush()
        if must or self.group.index == 0:  # The clock decides the others, so that only the chief comes here.
            try:
                self.keeper.save(must=must)
            except Diverged as divergence:
                if must:  # All processes are here.
                    raise
                self.halt.diverged(divergence)
        self.journal.resume_clock()
