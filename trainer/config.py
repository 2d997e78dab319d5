"""Every setting of a training job: its default, unit, help and check.

Each section is a frozen dataclass; a function takes the section it needs and only ``train.run`` sees the whole
``Config``.  Field names are unique over all sections, because flags and ``config.json`` are flat.
Does not own: where values come from (``flags.py``).  Imports no TensorFlow.
"""

import dataclasses
import difflib
import math
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Any

from trainer.errors import RequestError

Value = str | int | float | bool

# Of one image; an ordinary camera has up to 60 million.  Three bytes each are held while it is decoded.
MAX_IMAGE_PIXELS = 100_000_000


def setting(
    default: Value,
    help: str,
    *,
    unit: str = "",
    choices: tuple[str, ...] = (),
    minimum: float = -math.inf,
    maximum: float = math.inf,
    exclusive: bool = False,
    fixed: bool = True,
) -> Any:
    """Declare one setting as a dataclass field.

    Args:
        default: value when neither a flag nor ``--config`` gives one.
        help: what it does, sentinel values included; shown by ``--help``.
        unit: unit of the value (steps, images, seconds), shown by ``--help``.
        choices: allowed strings; empty allows any.
        minimum: smallest allowed number.
        maximum: largest allowed number.
        exclusive: whether ``minimum`` and ``maximum`` themselves are refused.
        fixed: whether a job that continues must keep the value, because another one would change its result.
    """
    metadata = {
        "help": help,
        "unit": unit,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "exclusive": exclusive,
        "fixed": fixed,
    }
    return dataclasses.field(default=default, metadata=metadata)


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


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    """Which devices, in which arithmetic."""

    precision: str = setting(
        "auto",
        "auto: mixed_bfloat16 where the hardware has it (GPU compute capability 8.0 up, CPU with avx512_bf16 or "
        "amx_bf16), else mixed_float16 on a GPU, else float32.",
        choices=("auto", "float32", "mixed_float16", "mixed_bfloat16"),
    )
    strategy: str = setting(
        "auto",
        "auto: multi_worker if the environment describes several processes, else all GPUs of this machine, else one "
        "CPU device. single: one device. mirrored: --num_devices devices. multi_worker: --num_devices devices of each "
        "process that TF_CONFIG, Kubernetes or Slurm describes (README, Several machines).",
        choices=("auto", "single", "mirrored", "multi_worker"),
        fixed=False,
    )
    num_devices: int = setting(
        0,
        "Devices to use in each process; 0: all. Without a GPU it makes that many logical CPU devices.",
        minimum=0,
        fixed=False,
    )
    xla: bool = setting(False, "Compile the forward and backward pass with XLA (faster on a GPU, slower on a CPU).")
    deterministic: bool = setting(
        False, "Ask TensorFlow for deterministic kernels: on a GPU needed for bitwise equal runs, and slower."
    )
    allreduce_dtype: str = setting(
        "auto",
        "Numbers in which gradients travel between devices. auto: float64 on a CPU and with --deterministic (any "
        "number of devices then gives the same weights), else float32. float16 and bfloat16 halve the bytes of "
        "float32 and round every gradient to 11 or 8 bits before it is added; float16 brings a loss scale.",
        choices=("auto", "float32", "float16", "bfloat16"),
    )
    peer_timeout_seconds: float = setting(
        60.0,
        "With several processes: one that is silent for so long is lost, and all others exit with code 75.",
        unit="seconds",
        minimum=1.0,
        fixed=False,
    )
    startup_timeout_seconds: float = setting(
        600.0,
        "With several processes: how long they wait for each other at the start before they exit with code 75.",
        unit="seconds",
        minimum=1.0,
        fixed=False,
    )


@dataclasses.dataclass(frozen=True)
class CheckpointConfig:
    """When state is saved beside the ends of epochs, how much of it is kept, and how it is used again."""

    checkpoint_every_steps: int = setting(
        0,
        "Also checkpoint every so many steps; 0: only after each epoch.",
        unit="steps",
        minimum=0,
        fixed=False,
    )
    checkpoint_every_seconds: float = setting(
        0.0,
        "Also checkpoint when so many seconds have passed; 0: never.",
        unit="seconds",
        minimum=0.0,
        fixed=False,
    )
    keep_checkpoints: int = setting(
        3, "Newest checkpoints to keep; the one of the best epoch stays beside them.", minimum=1, fixed=False
    )
    resume: str = setting(
        "auto",
        "auto: continue from job_dir's newest good checkpoint, or start. never: move what job_dir holds aside "
        "(nothing is deleted) and start. required: refuse a job_dir without a checkpoint.",
        choices=("auto", "never", "required"),
        fixed=False,
    )


@dataclasses.dataclass(frozen=True)
class ExportConfig:
    """What is handed over at the end."""

    export: str = setting(
        "best",
        "Which weights become SavedModels: best epoch, last step, both (all), or none.",
        choices=("best", "last", "all", "none"),
        fixed=False,
    )
    positive_class: str = setting(
        "",
        "Class that p_fake is the probability of; empty: Fake if there is such a class, else the first one.",
    )
    threshold_by: str = setting(
        "accuracy",
        "How the exported model's threshold is chosen on Validation (two classes). accuracy, balanced_accuracy: the "
        "best there. eer: misses and false alarms equally frequent. fpr: most found with --threshold_fpr. none: 0.5, "
        "as also with fewer than ten images of a class.",
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
        """The settings that decide what an export answers, those without effect left out."""
        limit = {"threshold_fpr": self.threshold_fpr} if self.threshold_by == "fpr" else {}
        return {"threshold_by": self.threshold_by, **limit, "calibrate": self.calibrate}

    @property
    def kinds(self) -> tuple[str, ...]:
        """The exports asked for, by folder name."""
        return {"all": ("best", "last"), "none": ()}.get(self.export, (self.export,))


@dataclasses.dataclass(frozen=True)
class Config:
    """The whole request, by sections; built by ``from_flat`` and never changed afterwards."""

    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    optim: OptimConfig = OptimConfig()
    loop: LoopConfig = LoopConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    export: ExportConfig = ExportConfig()

    def flat(self) -> dict[str, Value]:
        """Return every setting as ``{name: value}`` in declaration order."""
        return {field.name: getattr(getattr(self, section), field.name) for section, field in settings_with_section()}

    def replace(self, **changes: Value) -> "Config":
        """Return a checked copy with the named settings changed.

        Raises:
            RequestError: for an unknown name or a refused value.
        """
        return from_flat({**self.flat(), **changes})


def settings_with_section() -> Iterator[tuple[str, "dataclasses.Field[Any]"]]:
    """Yield ``(section name, field)`` of every setting, in declaration order."""
    for section in dataclasses.fields(Config):
        for field in dataclasses.fields(section.type):  # type: ignore[arg-type]
            yield section.name, field


def settings() -> dict[str, "dataclasses.Field[Any]"]:
    """Return every setting's field by its (unique) name."""
    return {field.name: field for _, field in settings_with_section()}


def from_flat(values: Mapping[str, Any]) -> Config:
    """Build a checked Config from ``{name: value}``; names that are absent keep their defaults.

    Raises:
        RequestError: for an unknown name, a wrong type, or a value that its setting's check refuses.
    """
    known = settings()
    for name in values:
        if name not in known:
            raise RequestError(f"expected a known setting, received {name!r}{did_you_mean(name, known)}")
    sections: dict[str, dict[str, Any]] = {section.name: {} for section in dataclasses.fields(Config)}
    for section, field in settings_with_section():
        if field.name in values:
            sections[section][field.name] = check(field, values[field.name])
    types = {section.name: section.type for section in dataclasses.fields(Config)}
    config = Config(**{name: types[name](**fields) for name, fields in sections.items()})  # type: ignore[operator]
    check_together(config)
    return config


def did_you_mean(name: str, known: typing.Iterable[str]) -> str:
    """Return "; did you mean ...?" for a near miss of a known name, else an empty string."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check(field: "dataclasses.Field[Any]", value: Any) -> Value:
    """Return the value in the field's type.

    Raises:
        RequestError: if the type, the choice or the range is wrong.
    """
    converted = _convert(field, value)
    meta = field.metadata
    if meta["choices"] and converted not in meta["choices"]:
        raise RequestError(f"--{field.name}: expected one of {', '.join(meta['choices'])}; received {value!r}")
    if isinstance(converted, (int, float)) and not isinstance(converted, bool):
        _check_range(field, converted)
    return converted


def _convert(field: "dataclasses.Field[Any]", value: Any) -> Value:
    """Accept the field's own type, and a whole number where a float is wanted."""
    wanted: type = field.type  # type: ignore[assignment]
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not wanted:
        raise RequestError(f"--{field.name}: expected {wanted.__name__}, received {value!r}")
    return typing.cast(Value, value)


def _check_range(field: "dataclasses.Field[Any]", value: float) -> None:
    low, high, exclusive = field.metadata["minimum"], field.metadata["maximum"], field.metadata["exclusive"]
    inside = low < value < high if exclusive else low <= value <= high
    if inside and math.isfinite(value):
        return
    bounds = []
    if low > -math.inf:
        bounds.append(f"{'above' if exclusive else 'at least'} {low:g}")
    if high < math.inf:
        bounds.append(f"{'below' if exclusive else 'at most'} {high:g}")
    raise RequestError(
        f"--{field.name}: expected a number {' and '.join(bounds) or 'that is finite'}; received {value}"
    )


def check_together(config: Config) -> None:
    """Refuse settings that contradict each other, naming the one that repairs it."""
    optim, runtime, data = config.optim, config.runtime, config.data
    if optim.lr_schedule != "constant" and optim.min_learning_rate > optim.learning_rate:
        raise RequestError(
            f"expected min_learning_rate <= learning_rate, received {optim.min_learning_rate:g} > "
            f"{optim.learning_rate:g}; lower --min_learning_rate or use --lr_schedule=constant"
        )
    if runtime.strategy == "single" and runtime.num_devices > 1:
        raise RequestError(
            f"expected one device with --strategy=single, received --num_devices={runtime.num_devices}; "
            "use --strategy=mirrored"
        )
    if data.data_service and not re.fullmatch(r"grpc://[^/\s]+:\d{1,5}", data.data_service):
        raise RequestError(
            f"--data_service: expected grpc://host:port of a dispatcher, or nothing; received {data.data_service!r}"
        )
    if data.data_service and data.cache != "none":
        raise RequestError(
            f"expected --cache=none with --data_service, whose pixels are not cached; received --cache={data.cache}"
        )
    if data.data_dir and data.data_dir.rstrip("/") == config.loop.job_dir.rstrip("/"):
        raise RequestError(
            f"expected a job_dir of its own, received the data_dir {data.data_dir!r}; give another --job_dir"
        )
    if runtime.num_devices and data.batch_size % runtime.num_devices:
        raise RequestError(
            f"expected a batch_size that divides among {runtime.num_devices} devices, received {data.batch_size}; "
            f"use --batch_size={math.ceil(data.batch_size / runtime.num_devices) * runtime.num_devices}"
        )
