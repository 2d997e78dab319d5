"""The settings of what is learned: from which images, by which network, how its weights move, and how long.

See ``config.py``.  Imports no TensorFlow.
"""

import dataclasses

from trainer.errors import RequestError
from trainer.setting import setting

# Of one image; an ordinary camera has up to 60 million.  Three bytes each are held while it is decoded.
MAX_IMAGE_PIXELS = 100_000_000


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images, in which form, how many at a time."""

    data_dir: str = setting(
        "",
        "Folder or gs:// path with {Train,Validation,Test}/{Fake,Real}/* images; any class names, two or more. "
        "Without Validation a share of Train stands in for it (--validation_fraction).",
        fixed=False,
    )
    image_size: int = setting(224, "Height and width that images are resized to.", unit="pixels", minimum=46)
    batch_size: int = setting(
        32,
        "Global batch: images per step over all devices; must divide evenly among them.",
        unit="images",
        minimum=1,
    )
    validation_fraction: float = setting(
        0.1,
        "Share of every Train class held out when data_dir has no Validation (chosen by --seed).",
        minimum=0.0,
        maximum=1.0,
        exclusive=True,
    )
    max_bad_fraction: float = setting(
        0.05,
        "Stop with exit code 2 when more than this share of a split cannot be decoded; fewer are skipped and "
        "named in job_dir/skipped.jsonl.",
        minimum=0.0,
        maximum=1.0,
        fixed=False,
    )
    max_image_pixels: int = setting(
        MAX_IMAGE_PIXELS,
        "Skip images whose header announces more, before they are decoded.",
        unit="pixels",
        minimum=1,
    )
    cache: str = setting(
        "none",
        "Keep decoded images. memory: for the next epochs. A local folder: also for the next starts of the job, and "
        "for other jobs on the same images.",
        fixed=False,
    )
    cache_bytes: int = setting(
        0,
        "Room for each split in the cache; images beyond it are decoded every time. 0: half of the free memory, or 80% "
        "of the free disk.",
        unit="bytes",
        minimum=0,
        fixed=False,
    )
    data_service: str = setting(
        "",
        "Let a tf.data service read and decode: grpc://host:port of its dispatcher (python -m trainer.data_service), "
        "whose workers must see data_dir at the same path. It changes speed alone. Empty: every process reads and "
        "decodes for itself.",
        fixed=False,
    )
    augment: str = setting(
        "notebook",
        "Training augmentation. notebook: rotation 15 degrees, shear 0.1 degrees, zoom 0.2, shifts 0.1, horizontal "
        "flip. forensic: blur and JPEG recompression, each for half of the images, and flip (Wang et al. 2020). none.",
        choices=("notebook", "forensic", "none"),
    )


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """Which network."""

    model: str = setting(
        "cnn",
        "Architecture. cnn: the notebook's four convolution blocks. cnn_bn: the same with the batch "
        "normalisation that the notebook has commented out.",
        choices=("cnn", "cnn_bn"),
    )
    dropout: float = setting(
        0.2, "Share of units dropped before the last layer; 0 switches it off.", minimum=0.0, maximum=0.95
    )


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """How weights move: optimizer, learning rate and its schedule."""

    optimizer: str = setting("adam", "Update rule.", choices=("adam", "adamw", "sgd", "rmsprop"))
    learning_rate: float = setting(1e-3, "Initial learning rate.", minimum=0.0, exclusive=True)
    lr_schedule: str = setting(
        "plateau",
        "plateau: multiply by --plateau_factor when --plateau_monitor stops improving. cosine: fall to "
        "--min_learning_rate over all epochs. constant.",
        choices=("plateau", "constant", "cosine"),
    )
    plateau_monitor: str = setting(
        "val_accuracy",
        "Value that the plateau schedule watches.",
        choices=("val_loss", "val_accuracy", "val_auc"),
    )
    plateau_patience: int = setting(2, "Epochs without improvement before the rate falls.", unit="epochs", minimum=0)
    plateau_factor: float = setting(
        0.1, "Multiplies the learning rate on a plateau.", minimum=0.0, maximum=1.0, exclusive=True
    )
    min_learning_rate: float = setting(1e-5, "Floor of the plateau and cosine schedules.", minimum=0.0)


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """How long, how often, and when to stop."""

    job_dir: str = setting(
        "",
        "Folder or gs:// path for all state and results; the same command again continues there.",
        fixed=False,
    )
    epochs: int = setting(5, "Epochs to train; raise it to continue a finished job.", minimum=1, fixed=False)
    steps_per_epoch: int = setting(
        0, "Steps between validations; 0: as many as one pass over Train takes.", unit="steps", minimum=0
    )
    seed: int = setting(
        0,
        "Decides order, augmentation, dropout, initial weights and the held-out share.",
        minimum=0,
        maximum=2**31 - 1,
    )
    monitor: str = setting(
        "val_loss",
        "Value that picks the best epoch and that early stopping watches.",
        choices=("val_loss", "val_accuracy", "val_auc"),
    )
    early_stopping_patience: int = setting(
        10,
        "Stop after this many epochs without improvement of --monitor; 0: never.",
        unit="epochs",
        minimum=0,
    )
    max_seconds: float = setting(
        0.0,
        "Stop after so many seconds with everything saved and exit code 75; 0: no limit.",
        unit="seconds",
        minimum=0.0,
        fixed=False,
    )
    on_divergence: str = setting(
        "stop",
        "When the loss is no longer a number. stop: exit code 1. rollback: go back to the newest checkpoint, at "
        "every further divergence to an older one, and go on with half the learning rate, five times at most.",
        choices=("stop", "rollback"),
        fixed=False,
    )
    max_restarts_without_progress: int = setting(
        3,
        "Refuse to start (exit code 1) after so many restarts from one and the same step; 0: never refuse.",
        minimum=0,
        fixed=False,
    )
    log_every_steps: int = setting(1, "Steps averaged in one train line of metrics.jsonl.", unit="steps", minimum=1)
    tensorboard: str = setting(
        "scalars",
        "What TensorBoard gets. all: also the settings (HParams), the network's graph, an augmented batch of each "
        "start, and of each validation the precision-recall curve and the worst errors.",
        choices=("scalars", "all"),
        fixed=False,
    )
    profile_steps: str = setting(
        "",
        "Trace these steps, first and last with a comma such as 10,20, for TensorBoard's profiler; empty: none. Steps "
        "that a continued job has behind it are not traced.",
        fixed=False,
    )

    @property
    def profiled(self) -> tuple[int, int] | None:
        """First and last step of ``profile_steps``, from 1; None if there are none.

        Raises:
            RequestError: if it is something else.
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
