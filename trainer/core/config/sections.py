"""The settings of a training job, one dataclass for each section.

Owns: names, defaults, ranges and help of the settings.  Does not own: checks of several together (``schema.py``),
parsing (``flags.py``).  Imports no TensorFlow.
"""

import dataclasses

from trainer.core.config.field import PATH, Value, setting
from trainer.core.errors import RequestError
from trainer.core.registry import FolderRegistry, TableRegistry

# Names of what this package may not import: looked up when a flag is checked or explained.
AUGMENTATIONS = FolderRegistry("trainer.data.augmentations")
NETWORKS = FolderRegistry("trainer.models.networks")
OPTIMIZERS = TableRegistry("trainer.training.optimizers:OPTIMIZERS")

# Of one image; ordinary cameras have up to 60 million.  Decoding holds three bytes for each.
MAX_IMAGE_PIXELS = 100_000_000


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Images, their form and the batch size."""

    data_dir: str = setting(
        "",
        "Folder or gs:// path with {Train,Validation,Test}/{Fake,Real}/* images; any class names, two or more. "
        "Without Validation, a share of Train is used instead (--validation_fraction).",
        fixed=False,
        path=PATH,
    )
    image_size: int = setting(224, "Height and width that images are resized to.", unit="pixels", minimum=1)
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
        "Skip images whose header states more pixels, before they are decoded.",
        unit="pixels",
        minimum=1,
    )
    cache: str = setting(
        "none",
        "Keep decoded images. memory: for the next epochs. A local folder: also for the next starts of the job, and "
        "for other jobs on the same images.",
        fixed=False,
        path=PATH,
    )
    cache_bytes: int = setting(
        0,
        "Size limit of the cache for each split; images beyond it are decoded every time. 0: half of the free memory, "
        "or 80% of the free disk.",
        unit="bytes",
        minimum=0,
        fixed=False,
    )
    data_service: str = setting(
        "",
        "Read and decode in a tf.data service: grpc://host:port of its dispatcher (python -m trainer.data_service), "
        "whose workers must see data_dir at the same path. It affects speed only. Empty: every process reads and "
        "decodes its own images.",
        fixed=False,
    )
    augment: str = setting("notebook", "Training augmentation.", choices=AUGMENTATIONS)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The network."""

    model: str = setting("cnn", "Architecture.", choices=NETWORKS, dotted=True)
    dropout: float = setting(
        0.2, "Share of units dropped before the last layer; 0 switches it off.", minimum=0.0, maximum=0.95
    )


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    """Optimizer, learning rate and its schedule."""

    optimizer: str = setting("adam", "Update rule.", choices=OPTIMIZERS)
    learning_rate: float = setting(1e-3, "Initial learning rate.", minimum=0.0, exclusive=True)
    lr_schedule: str = setting(
        "plateau",
        "plateau: multiply by --plateau_factor when --plateau_monitor stops improving. cosine: decay to "
        "--min_learning_rate over all epochs. constant.",
        choices=("plateau", "constant", "cosine"),
    )
    plateau_monitor: str = setting(
        "val_accuracy",
        "Metric that the plateau schedule monitors.",
        choices=("val_loss", "val_accuracy", "val_auc"),
    )
    plateau_patience: int = setting(
        2, "Epochs without improvement before the learning rate is lowered.", unit="epochs", minimum=0
    )
    plateau_factor: float = setting(
        0.1, "Factor applied to the learning rate on a plateau.", minimum=0.0, maximum=1.0, exclusive=True
    )
    min_learning_rate: float = setting(1e-5, "Floor of the plateau and cosine schedules.", minimum=0.0)


@dataclasses.dataclass(frozen=True)
class LoopConfig:
    """Length of training, logging, and when to stop."""

    job_dir: str = setting(
        "", "Folder or gs:// path for all state and results; rerun the same command to resume.", fixed=False, path=PATH
    )
    epochs: int = setting(5, "Epochs to train; raise it to continue a finished job.", minimum=1, fixed=False)
    steps_per_epoch: int = setting(0, "Steps between validations; 0: one pass over Train.", unit="steps", minimum=0)
    seed: int = setting(
        0,
        "Determines order, augmentation, dropout, initial weights and the held-out share.",
        minimum=0,
        maximum=2**31 - 1,
    )
    monitor: str = setting(
        "val_loss",
        "Metric that selects the best epoch and that early stopping monitors.",
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
    profile_steps: str = setting(
        "",
        "Trace these steps for TensorBoard's profiler, first and last separated by a comma, such as 10,20; empty: "
        "none. Steps that a resumed job has already done are not traced.",
        fixed=False,
    )

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


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    """Devices and numerical precision."""

    precision: str = setting(
        "auto",
        "auto: mixed_bfloat16 where the hardware has it (GPU compute capability 8.0 up, CPU with avx512_bf16 or "
        "amx_bf16), else mixed_float16 on a GPU, else float32; a job that continues keeps that of its checkpoints.",
        choices=("auto", "float32", "mixed_float16", "mixed_bfloat16"),
    )
    strategy: str = setting(
        "auto",
        "auto: multi_worker if the environment describes several processes, else all GPUs of this machine, else one "
        "CPU device. single: one device. mirrored: --num_devices devices. multi_worker: --num_devices devices of each "
        "process that TF_CONFIG, Kubernetes or Slurm describes (docs/training.md).",
        choices=("auto", "single", "mirrored", "multi_worker"),
        fixed=False,
    )
    num_devices: int = setting(
        0,
        "Devices to use in each process; 0: all. Without a GPU, creates that many logical CPU devices.",
        minimum=0,
        fixed=False,
    )
    xla: bool = setting(False, "Compile the forward and backward pass with XLA (faster on a GPU, slower on a CPU).")
    deterministic: bool = setting(
        False, "Use deterministic kernels (slower; required for bitwise-reproducible GPU runs)."
    )
    allreduce_dtype: str = setting(
        "auto",
        "Type in which gradients are sent between devices. auto: float64 on a CPU and with --deterministic (any "
        "number of devices then gives the same weights), else float32. float16 and bfloat16 halve the bytes of "
        "float32 and round every gradient to 11 or 8 bits before it is added; float16 implies a loss scale.",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    peer_timeout_seconds: float = setting(
        60.0,
        "With several processes: one that is silent for this long counts as lost, and all others exit with code 75.",
        unit="seconds",
        minimum=1.0,
        fixed=False,
    )
    startup_timeout_seconds: float = setting(
        600.0,
        "With several processes: how long they wait for each other at startup before they exit with code 75.",
        unit="seconds",
        minimum=1.0,
        fixed=False,
    )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When state is saved besides at the ends of epochs, how much of it is kept, and how a job resumes."""

    checkpoint_every_steps: int = setting(
        0,
        "Also checkpoint every N steps; 0: only after each epoch.",
        unit="steps",
        minimum=0,
        fixed=False,
    )
    checkpoint_every_seconds: float = setting(
        0.0,
        "Also checkpoint every N seconds; 0: never.",
        unit="seconds",
        minimum=0.0,
        fixed=False,
    )
    keep_checkpoints: int = setting(
        3, "Newest checkpoints to keep, in addition to that of the best epoch.", minimum=1, fixed=False
    )
    resume: str = setting(
        "auto",
        "auto: resume from job_dir's newest valid checkpoint, or start. never: move what job_dir holds aside "
        "(nothing is deleted) and start over, once: the same command again continues until the job is done. required: "
        "refuse a job_dir without a checkpoint.",
        choices=("auto", "never", "required"),
        fixed=False,
    )


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """What is exported at the end."""

    export: str = setting(
        "best",
        "Weights to export as SavedModels: best epoch, last step, both (all), or none.",
        choices=("best", "last", "all", "none"),
        fixed=False,
    )
    positive_class: str = setting(
        "",
        "Class whose probability p_fake is; empty: the only one whose name has fake, synthetic, forged, spoof, "
        "manipulated, generated or ai in it.",
    )
    threshold_by: str = setting(
        "accuracy",
        "How the exported model's threshold is chosen on Validation (two classes). accuracy, balanced_accuracy: the "
        "highest there. eer: false negatives and false positives equally frequent. fpr: the highest true positive rate "
        "within --threshold_fpr. none: 0.5, as with fewer than ten images of a class.",
        choices=("accuracy", "balanced_accuracy", "eer", "fpr", "none"),
        fixed=False,
    )
    threshold_fpr: float = setting(
        0.01,
        "Largest false positive rate on Validation, for --threshold_by=fpr.",
        minimum=0.0,
        maximum=1.0,
        exclusive=True,
        fixed=False,
    )
    calibrate: bool = setting(
        False,
        "Fit a temperature to the exported model's probabilities on Validation (Guo et al. 2017) before the threshold "
        "is chosen.",
        fixed=False,
    )

    @property
    def decision(self) -> dict[str, Value]:
        """The settings that determine an export's answers, without those that have no effect."""
        limit = {"threshold_fpr": self.threshold_fpr} if self.threshold_by == "fpr" else {}
        return {"threshold_by": self.threshold_by, **limit, "calibrate": self.calibrate}

    @property
    def kinds(self) -> tuple[str, ...]:
        """The requested exports, by folder name."""
        return {"all": ("best", "last"), "none": ()}.get(self.export, (self.export,))
