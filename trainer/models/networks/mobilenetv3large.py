"""MobileNetV3-Large of ``keras.applications``."""

import keras

from trainer.core.config import ModelConfig
from trainer.models import backbones
from trainer.models.layers import Kernel

HELP = "MobileNetV3-Large, 3.0 M parameters."
ORDER = 28
SEARCHED = False  # Too large for a sweep that was not asked for it.
MINIMUM_IMAGE_SIZE = 32
INPUT_RANGE = (-1.0, 1.0)


def build(inputs: keras.KerasTensor, config: ModelConfig, kernel: Kernel) -> keras.KerasTensor:
    """Return the features ``[N, 960]`` of ``[N, S, S, 3]``."""
    return backbones.features(
        keras.applications.MobileNetV3Large, inputs, config.dropout, kernel, include_preprocessing=False
    )
