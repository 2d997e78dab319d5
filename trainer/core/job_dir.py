"""Names of files in a job_dir, a sweep's folder and an export.

Owns: these names, on every storage.  Does not own: the content of the files.  Imports no TensorFlow.
"""

import dataclasses

from trainer.core.storage.files import join

# In an export, next to the model: class names, positive class, threshold, settings.
EXPORT_METADATA = "assets.extra/deepdetect.json"

# Next to it: the model's purpose, results and limits, for people.
EXPORT_CARD = "assets.extra/model_card.md"

# By this file readers recognise an exported model.
MODEL_FILE = "saved_model.pb"


@dataclasses.dataclass(frozen=True)
class JobPaths:
    """The files of a job."""

    job_dir: str

    @property
    def config(self) -> str:
        """The job's settings, in the form of ``--config``."""
        return join(self.job_dir, "config.json")

    @property
    def metrics(self) -> str:
        """One JSON object per line; docs/reference/outputs.md describes the kinds."""
        return join(self.job_dir, "metrics.jsonl")

    @property
    def skipped(self) -> str:
        """Images that could not be decoded, one JSON object per line."""
        return join(self.job_dir, "skipped.jsonl")

    @property
    def weights(self) -> str:
        """Where the job's initial weights came from, and which variables took them; absent if they were random."""
        return join(self.job_dir, "weights.json")

    @property
    def lock(self) -> str:
        """Lock of the live job; its content names the process."""
        return join(self.job_dir, "lock")

    @property
    def starts(self) -> str:
        """One file per start of each process: when and where it began, and how it ended."""
        return join(self.job_dir, "starts")

    @property
    def logs(self) -> str:
        """Copies of the logs of processes in pods."""
        return join(self.job_dir, "logs")

    @property
    def restarts(self) -> str:
        """Number of starts from the newest checkpoint."""
        return join(self.job_dir, "restarts.json")

    @property
    def result(self) -> str:
        """The outcome; written last, when the job is done."""
        return join(self.job_dir, "result.json")

    @property
    def checkpoints(self) -> str:
        """One folder per checkpoint, named by its step."""
        return join(self.job_dir, "checkpoints")

    @property
    def features(self) -> str:
        """Features of a frozen backbone, while it is frozen."""
        return join(self.job_dir, "features")

    @property
    def tensorboard(self) -> str:
        """TensorBoard's event files."""
        return join(self.job_dir, "tensorboard")

    @property
    def report(self) -> str:
        """Plots of the training run."""
        return join(self.job_dir, "report")

    def tracker(self, name: str) -> str:
        """Return the file that names a tracker's run, and the last steps that it was sent."""
        return join(self.job_dir, f"tracker-{name}.json")

    def exports(self, kind: str) -> str:
        """Versioned SavedModels of a kind (best or last); TensorFlow Serving can point here."""
        return join(self.job_dir, "export", kind)


@dataclasses.dataclass(frozen=True)
class SeedPaths:
    """The files of a group of jobs that differ in their seeds alone."""

    job_dir: str

    @property
    def group(self) -> str:
        """Seeds, settings and figures of the group; written first, and again whenever a seed ends."""
        return join(self.job_dir, "seeds.json")

    @property
    def report(self) -> str:
        """The HTML report."""
        return join(self.job_dir, "report", "index.html")

    def job(self, seed: int) -> str:
        """Return the job_dir of a seed."""
        return join(self.job_dir, f"seed-{seed}")


@dataclasses.dataclass(frozen=True)
class SweepPaths:
    """The files of a sweep."""

    job_dir: str

    @property
    def request(self) -> str:
        """Settings and search space of the sweep."""
        return join(self.job_dir, "sweep.json")

    @property
    def oracle(self) -> str:
        """State of the tuner, with all its trials."""
        return join(self.job_dir, "oracle.json")

    @property
    def trials(self) -> str:
        """One folder per trial."""
        return join(self.job_dir, "trials")

    def trial(self, trial_id: str) -> str:
        """Return the job_dir of a trial."""
        return join(self.trials, trial_id)

    def record(self, trial_id: str) -> str:
        """Return the file with a trial's outcome."""
        return join(self.trial(trial_id), "trial.json")

    @property
    def table(self) -> str:
        """All trials, one per row."""
        return join(self.job_dir, "trials.csv")

    @property
    def best(self) -> str:
        """Settings of the best trial, in the form of ``trainer.train --config``."""
        return join(self.job_dir, "best_config.json")

    @property
    def report(self) -> str:
        """The HTML report."""
        return join(self.job_dir, "sweep.html")

    @property
    def done(self) -> str:
        """The outcome; written last, when the sweep is over."""
        return join(self.job_dir, "sweep_result.json")
