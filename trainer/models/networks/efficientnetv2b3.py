"""EfficientNetV2-B3 of ``keras.applications``."""

import keras

from trainer.core.config import ModelConfig
from trainer.models import backbones
from trainer.models.layers import Kernel

HELP = "EfficientNetV2-B3, 12.9 M parameters."
ORDER = 23
SEARCHED = False  # Too large for a sweep that was not asked for it.
MINIMUM_IMAGE_SIZE = 32
INPUT_RANGE = (0.0, 255.0)  # Its own normalisation takes grey levels.


def build(inputs: keras.KerasTensor, config: ModelConfig, kernel: Kernel) -> keras.KerasTensor:
    """Return the features ``[N, 1536]`` of ``[N, S, S, 3]``."""
    return backbones.features(keras.applications.EfficientNetV2B3, inputs, config.dropout, kernel)
