"""ConvNeXt-Tiny of ``keras.applications``."""

import keras

from trainer.core.config import ModelConfig
from trainer.models import backbones
from trainer.models.layers import Kernel

HELP = "ConvNeXt-Tiny, 27.8 M parameters."
ORDER = 25
SEARCHED = False  # Too large for a sweep that was not asked for it.
MINIMUM_IMAGE_SIZE = 32
INPUT_RANGE = (0.0, 255.0)  # Its own normalisation takes grey levels.


def build(inputs: keras.KerasTensor, config: ModelConfig, kernel: Kernel) -> keras.KerasTensor:
    """Return the features ``[N, 768]`` of ``[N, S, S, 3]``."""
    return backbones.features(keras.applications.ConvNeXtTiny, inputs, config.dropout, kernel)
