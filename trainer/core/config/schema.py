"""The whole request for a training job: all sections together, from flat values, checked.

The sections (``sections/``) are frozen dataclasses of settings with default, unit, help and check (``field.py``).  A
function takes the section it needs; only ``training.run`` sees the whole ``Config``.  Field names are unique over all
sections, because flags and ``config.json`` are flat.
Owns: settings that contradict each other.  Does not own: where values come from (``flags.py``).  Imports no TensorFlow.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from trainer.core import placement
from trainer.core.config.field import Value, check, did_you_mean, written
from trainer.core.config.registries import CROP, NETWORKS, OPTIMIZERS, TEST_VIEWS
from trainer.core.config.sections import (
    AugmentConfig,
    CheckpointConfig,
    DataConfig,
    ExportConfig,
    LayoutConfig,
    LoopConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RuntimeConfig,
)
from trainer.core.errors import RequestError


@dataclasses.dataclass(frozen=True)
class Config:
    """The whole request, by sections; built by ``from_flat`` and never changed afterwards."""

    data: DataConfig = dataclasses.field(default_factory=DataConfig)
    layout: LayoutConfig = dataclasses.field(default_factory=LayoutConfig)
    augment: AugmentConfig = dataclasses.field(default_factory=AugmentConfig)
    model: ModelConfig = dataclasses.field(default_factory=ModelConfig)
    optim: OptimConfig = dataclasses.field(default_factory=OptimConfig)
    loss: LossConfig = dataclasses.field(default_factory=LossConfig)
    loop: LoopConfig = dataclasses.field(default_factory=LoopConfig)
    runtime: RuntimeConfig = dataclasses.field(default_factory=RuntimeConfig)
    checkpoint: CheckpointConfig = dataclasses.field(default_factory=CheckpointConfig)
    export: ExportConfig = dataclasses.field(default_factory=ExportConfig)

    def flat(self) -> dict[str, Value]:
        """Return every setting as ``{name: value}`` in declaration order."""
        return {field.name: getattr(getattr(self, section), field.name) for section, field in settings_with_section()}

    @property
    def self_blended(self) -> str | None:
        """The setting ``positive_class`` if training makes forgeries of that class (``--augment=sbi``), else None."""
        return self.export.positive_class if "sbi" in self.data.augment.split(",") else None

    def decisive(self) -> dict[str, Value]:
        """Return the settings that decide a job's result, which a job keeps."""
        fields = settings()
        return {name: value for name, value in self.flat().items() if fields[name].metadata["fixed"]}

    def written(self) -> dict[str, Value]:
        """Return every setting as a ``--config`` file has it."""
        fields = settings()
        return {name: written(fields[name], value) for name, value in self.flat().items()}

    def replace(self, **changes: Value) -> "Config":
        """Return a checked copy with the named settings changed.

        Raises:
            RequestError: for an unknown name or an invalid value.
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
        RequestError: for an unknown name, a wrong type, or a value that its setting does not allow.
    """
    fields = settings()
    for name in values:
        if name not in fields:
            raise RequestError(f"expected a known setting, received {name!r}{did_you_mean(name, fields)}")
    sections: dict[str, dict[str, Any]] = {section.name: {} for section in dataclasses.fields(Config)}
    for section, field in settings_with_section():
        if field.name in values:
            sections[section][field.name] = check(field, values[field.name])
    types = {section.name: section.type for section in dataclasses.fields(Config)}
    config = Config(**{name: types[name](**section) for name, section in sections.items()})  # type: ignore[operator]
    check_together(config)
    return config


def check_together(config: Config) -> None:
    """Refuse settings that contradict each other, naming the one to change."""
    optim = config.optim.scaled(config.data.batch_size)
    runtime = config.runtime
    data = config.data
    _ = config.loop.profiled, config.loss.given_weights  # Raises if they are invalid.
    _check_image_size(config)
    _check_weight_decay(config)
    _check_input(data)
    _check_frozen(config)
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
    _check_places(config)
    if data.batch_size % optim.accumulate_steps:
        raise RequestError(
            f"--accumulate_steps: expected a divisor of the batch_size, {data.batch_size}; received "
            f"{optim.accumulate_steps}; use --batch_size="
            f"{math.ceil(data.batch_size / optim.accumulate_steps) * optim.accumulate_steps}"
        )
    if runtime.num_devices and data.batch_size % runtime.num_devices:
        raise RequestError(
            f"expected a batch_size that divides among {runtime.num_devices} devices, received {data.batch_size}; "
            f"use --batch_size={math.ceil(data.batch_size / runtime.num_devices) * runtime.num_devices}"
        )


def _check_input(data: DataConfig) -> None:
    """Refuse views that nothing makes, and places that hold one fixed view of an image."""
    if data.test_views not in TEST_VIEWS:
        choices = ", ".join(map(str, TEST_VIEWS))
        raise RequestError(f"--test_views: expected one of {choices}; received {data.test_views}")
    if data.test_views > 1 and data.input != CROP:
        raise RequestError(
            f"--test_views={data.test_views}: expected --input=crop, received --input={data.input}, of which there is "
            "one view; use --input=crop, or --test_views=1"
        )
    for flag, value, without in (("cache", data.cache, "none"), ("data_service", data.data_service, "")):
        if data.input == CROP and value != without:
            raise RequestError(
                f"--{flag}: expected none with --input=crop, whose windows differ in every epoch, received {value!r}; "
                f"leave --{flag} out, or use another --input"
            )


def _check_frozen(config: Config) -> None:
    """Refuse what the features of a frozen backbone, computed once for each image, cannot have."""
    data = config.data
    if not config.optim.freeze_backbone_epochs:
        return
    if data.test_views > 1:
        raise RequestError(
            f"--freeze_backbone_epochs: expected --test_views=1, as each image has one vector of features, received "
            f"--test_views={data.test_views}; use --test_views=1"
        )
    if config.self_blended is not None:
        raise RequestError(
            "--freeze_backbone_epochs: expected images that stay the same, received --augment=sbi, which makes new "
            "forgeries in every epoch; use --freeze_backbone_epochs=0"
        )


def _check_places(config: Config) -> None:
    """Refuse outputs among the images, and a start over that would move the images aside."""
    data_dir, job_dir = config.data.data_dir, config.loop.job_dir
    placement.refuse_among_images("job_dir", job_dir, data_dir)
    weights = config.model.weights
    if weights != "none" and job_dir and placement.is_within(weights, job_dir):
        raise RequestError(
            f"--weights: expected weights from outside the job_dir, received {weights!r} in {job_dir!r}; give another "
            "--job_dir"
        )
    if config.data.cache not in ("none", "memory"):
        placement.refuse_among_images("cache", config.data.cache, data_dir)
    if config.checkpoint.resume == "never" and data_dir and job_dir and placement.is_within(data_dir, job_dir):
        raise RequestError(
            f"--resume=never: expected a job_dir without the images, as all in it is moved aside, received "
            f"{job_dir!r}, which holds the data_dir {data_dir!r}; give another --job_dir"
        )


def _check_weight_decay(config: Config) -> None:
    """Refuse a weight decay that the optimizer would ignore."""
    decay, name = config.optim.weight_decay, config.optim.optimizer
    entries = OPTIMIZERS.entries()
    if decay > 0.0 and not getattr(entries[name], "decays", True):
        able = ", ".join(other for other, entry in entries.items() if getattr(entry, "decays", True))
        raise RequestError(
            f"--weight_decay: expected 0 with --optimizer={name}, which has none, received {decay:g}; use --optimizer="
            f"{able.replace(', ', ' or ')}"
        )


def _check_image_size(config: Config) -> None:
    """Refuse images that are too small for the network, if it is one of the package's."""
    network = NETWORKS.entries().get(config.model.model)
    minimum = network.facts.get("MINIMUM_IMAGE_SIZE", 1) if network else 1
    if config.data.image_size < minimum:
        raise RequestError(
            f"--image_size: expected a number at least {minimum} for --model={config.model.model}; received "
            f"{config.data.image_size}"
        )
