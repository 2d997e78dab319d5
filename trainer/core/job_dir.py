"""Names inside job_dir and inside an export, local and gs:// alike; only spelled here.  Imports no TensorFlow."""

import dataclasses

from trainer.core.storage.files import join

# Beside an exported model: class names, positive class, threshold, settings.
EXPORT_METADATA = "assets.extra/deepdetect.json"

# Beside it: what the model is, does and is not known to do, for people.
EXPORT_CARD = "assets.extra/model_card.md"

# By which readers know a folder as an exported model.
MODEL_FILE = "saved_model.pb"


@dataclasses.dataclass(frozen=True)
class JobPaths:
    """Everything that a job keeps, by name."""

    job_dir: str

    @property
    def config(self) -> str:
        """The job's settings, as ``--config`` takes them."""
        return join(self.job_dir, "config.json")

    @property
    def metrics(self) -> str:
        """One JSON object a line; see docs/reference/outputs.md for its kinds."""
        return join(self.job_dir, "metrics.jsonl")

    @property
    def skipped(self) -> str:
        """Images that could not be decoded, one JSON object a line."""
        return join(self.job_dir, "skipped.jsonl")

    @property
    def lock(self) -> str:
        """Held by the live job; its content names it."""
        return join(self.job_dir, "lock")

    @property
    def restarts(self) -> str:
        """How often the job started from its newest checkpoint."""
        return join(self.job_dir, "restarts.json")

    @property
    def result(self) -> str:
        """Written last, when the job is done."""
        return join(self.job_dir, "result.json")

    @property
    def checkpoints(self) -> str:
        """One folder a checkpoint, named by its step."""
        return join(self.job_dir, "checkpoints")

    @property
    def tensorboard(self) -> str:
        """Event files."""
        return join(self.job_dir, "tensorboard")

    @property
    def report(self) -> str:
        """Plots of the training run."""
        return join(self.job_dir, "report")

    def exports(self, kind: str) -> str:
        """Versioned SavedModels of a kind (best or last); TensorFlow Serving can point here."""
        return join(self.job_dir, "export", kind)


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
