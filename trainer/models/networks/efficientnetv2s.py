"""EfficientNetV2-S of ``keras.applications``."""

import keras

from trainer.core.config import ModelConfig
from trainer.models import backbones
from trainer.models.layers import Kernel

HELP = "EfficientNetV2-S, 20.3 M parameters."
ORDER = 24
SEARCHED = False  # Too large for a sweep that was not asked for it.
MINIMUM_IMAGE_SIZE = 32
INPUT_RANGE = (-1.0, 0.9921875)  # level / 128 - 1.


def build(inputs: keras.KerasTensor, config: ModelConfig, kernel: Kernel) -> keras.KerasTensor:
    """Return the features ``[N, 1280]`` of ``[N, S, S, 3]``."""
    return backbones.features(
        keras.applications.EfficientNetV2S, inputs, config.dropout, kernel, include_preprocessing=False
    )
