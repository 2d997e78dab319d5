"""The settings of a training job, by sections, checked.  Imports no TensorFlow."""

from trainer.core.config.field import (
    AUTO,
    PATH,
    PATHS,
    Value,
    check,
    check_written,
    did_you_mean,
    help_of,
    is_auto,
    kind,
    setting,
)
from trainer.core.config.registries import AUGMENTATIONS, LAYOUTS, MAX_IMAGE_PIXELS, NETWORKS, OPTIMIZERS
from trainer.core.config.schema import Config, check_together, from_flat, settings, settings_with_section
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

__all__ = [
    "AUGMENTATIONS", "AUTO", "LAYOUTS", "MAX_IMAGE_PIXELS", "NETWORKS", "OPTIMIZERS", "PATH", "PATHS", "AugmentConfig",
    "CheckpointConfig", "Config", "DataConfig", "ExportConfig", "LayoutConfig", "LoopConfig", "LossConfig",
    "ModelConfig", "OptimConfig", "RuntimeConfig", "Value", "check", "check_together", "check_written", "did_you_mean",
    "from_flat", "help_of", "is_auto", "kind", "setting", "settings", "settings_with_section",
]  # fmt: skip
