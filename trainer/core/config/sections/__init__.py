"""The settings of a training job, one dataclass for each section, one file each.

Owns: names, defaults, ranges and help of the settings.  Does not own: checks of several together (``schema.py``),
parsing (``flags.py``).  Imports no TensorFlow.
"""

from trainer.core.config.sections.augment import AugmentConfig
from trainer.core.config.sections.checkpoint import CheckpointConfig
from trainer.core.config.sections.data import DataConfig
from trainer.core.config.sections.export import ExportConfig
from trainer.core.config.sections.layout import LayoutConfig
from trainer.core.config.sections.loop import LoopConfig
from trainer.core.config.sections.loss import LossConfig
from trainer.core.config.sections.model import ModelConfig
from trainer.core.config.sections.optim import OptimConfig
from trainer.core.config.sections.runtime import RuntimeConfig

__all__ = [
    "AugmentConfig", "CheckpointConfig", "DataConfig", "ExportConfig", "LayoutConfig", "LoopConfig", "LossConfig",
    "ModelConfig", "OptimConfig", "RuntimeConfig",
]  # fmt: skip
