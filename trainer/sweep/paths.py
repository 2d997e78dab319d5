"""Names inside a sweep's folder; only spelled here.  Imports no TensorFlow."""

import dataclasses

from trainer.files import join


@dataclasses.dataclass(frozen=True)
class SweepPaths:
    """Everything that a sweep keeps, by name."""

    job_dir: str

    @property
    def request(self) -> str:
        """What the sweep was asked for."""
        return join(self.job_dir, "sweep.json")

    @property
    def oracle(self) -> str:
        """What the tuner knows, with all its trials: one file, whole or absent."""
        return join(self.job_dir, "oracle.json")

    @property
    def trials(self) -> str:
        """One folder a trial."""
        return join(self.job_dir, "trials")

    def trial(self, trial_id: str) -> str:
        """Return the job_dir of a trial."""
        return join(self.trials, trial_id)

    def record(self, trial_id: str) -> str:
        """Return the file that says how a trial ended."""
        return join(self.trial(trial_id), "trial.json")

    @property
    def table(self) -> str:
        """All trials, one a row."""
        return join(self.job_dir, "trials.csv")

    @property
    def best(self) -> str:
        """The best trial's settings, as ``trainer.train --config`` takes them."""
        return join(self.job_dir, "best_config.json")

    @property
    def report(self) -> str:
        """The page."""
        return join(self.job_dir, "sweep.html")

    @property
    def done(self) -> str:
        """Written last, when the sweep is over; says how it ended."""
        return join(self.job_dir, "sweep_result.json")
