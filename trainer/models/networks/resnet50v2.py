"""ResNet-50 V2 of ``keras.applications``."""

import keras

from trainer.core.config import ModelConfig
from trainer.models import backbones
from trainer.models.layers import Kernel

HELP = "ResNet-50 V2, 23.6 M parameters."
ORDER = 27
SEARCHED = False  # Too large for a sweep that was not asked for it.
MINIMUM_IMAGE_SIZE = 32
INPUT_RANGE = (-1.0, 1.0)


def build(inputs: keras.KerasTensor, config: ModelConfig, kernel: Kernel) -> keras.KerasTensor:
    """Return the features ``[N, 2048]`` of ``[N, S, S, 3]``."""
    return backbones.features(keras.applications.ResNet50V2, inputs, config.dropout, kernel)
