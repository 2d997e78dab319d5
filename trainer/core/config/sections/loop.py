"""Length of training, logging, and when to stop."""

import dataclasses

from trainer.core.config.field import PATH, setting
from trainer.core.errors import RequestError


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Length of training, logging, and when to stop."""

    job_dir: str = setting(
        "", "Folder or gs:// path for all state and results; rerun the same command to resume.", fixed=False, path=PATH
    )
    epochs: int = setting(5, "Epochs to train; raise it to continue a finished job.", minimum=1, fixed=False)
    steps_per_epoch: int = setting(0, "Steps between validations; 0: one pass over Train.", unit="steps", minimum=0)
    min_steps_per_epoch: int = setting(
        0,
        "With fewer steps in a pass over Train, an epoch goes on into further passes up to this many, so that few "
        "images, too, train a network long enough. Without effect if --steps_per_epoch is set.",
        unit="steps",
        minimum=0,
    )
    seed: int = setting(
        0,
        "Determines order, augmentation, dropout, initial weights and the held-out share.",
        minimum=0,
        maximum=2**31 - 1,
    )
    seeds: int = setting(
        1,
        "Train this many jobs with the seeds from --seed on, each in seed-<n>/ of job_dir, and report mean and spread.",
        minimum=1,
        fixed=False,
    )
    monitor: str = setting(
        "auto",
        "Metric that selects the best epoch and that early stopping monitors. auto: val_loss, or val_auc if the "
        "classes of Train differ by more than 2 to 1 (for trainer.tune the --objective).",
        choices=("auto", "val_loss", "val_accuracy", "val_auc"),
        before="val_loss",
    )
    early_stopping_patience: int = setting(
        10,
        "Stop after this many epochs without improvement of --monitor; 0: never.",
        unit="epochs",
        minimum=0,
    )
    max_seconds: float = setting(
        0.0,
        "Stop after this time with everything saved and exit code 75; 0: no limit.",
        unit="seconds",
        minimum=0.0,
        fixed=False,
    )
    on_divergence: str = setting(
        "stop",
        "On a NaN or infinite loss. stop: exit code 1. rollback: restore the newest checkpoint, at every further "
        "divergence an older one, and continue with half the learning rate, five times at most.",
        choices=("stop", "rollback"),
        fixed=False,
    )
    max_restarts_without_progress: int = setting(
        3,
        "Refuse to start (exit code 1) after this many restarts from the same step; 0: never refuse.",
        minimum=0,
        fixed=False,
    )
    log_every_steps: int = setting(1, "Steps averaged in each train line of metrics.jsonl.", unit="steps", minimum=1)
    tensorboard: str = setting(
        "scalars",
        "What is written for TensorBoard. all: also the settings (HParams), the network's graph, an augmented batch of "
        "each start, and for each validation the precision-recall curve and the worst errors.",
        choices=("scalars", "all"),
        fixed=False,
    )
    trackers: str = setting(
        "none",
        "Experiment trackers, separated by commas, that get settings, train lines, validations and links to results. "
        "Each needs the extra of its name. Where to is in their own environment variables (MLFLOW_TRACKING_URI, "
        "WANDB_PROJECT, WANDB_MODE).",
        choices=("none", "mlflow", "wandb"),
        several=True,
        fixed=False,
    )
    profile_steps: str = setting(
        "",
        "Trace these steps for TensorBoard's profiler, first and last separated by a comma, such as 10,20; empty: "
        "none. Steps that a resumed job has already done are not traced.",
        fixed=False,
    )

    @property
    def tracker_names(self) -> tuple[str, ...]:
        """The names in ``trackers``, each once."""
        return tuple(name for name in dict.fromkeys(self.trackers.split(",")) if name != "none")

    @property
    def profiled(self) -> tuple[int, int] | None:
        """First and last step of ``profile_steps``, counted from 1; None if it is empty.

        Raises:
            RequestError: if it is anything else.
        """
        if not self.profile_steps:
            return None
        words = self.profile_steps.split(",")
        numbers = [int(word) for word in words if word.strip().isdecimal()]
        if not len(words) == len(numbers) == 2 or not 1 <= numbers[0] < numbers[1]:
            raise RequestError(
                "--profile_steps: expected two increasing whole numbers from 1 with a comma, such as 10,20; received "
                f"{self.profile_steps!r}"
            )
        return numbers[0], numbers[1]

    def steps_of_epoch(self, examples: int, batch_size: int) -> int:
        """Return the steps of an epoch with this many training images."""
        return self.steps_per_epoch or max(-(-examples // batch_size), self.min_steps_per_epoch)
