"""Xception of ``keras.applications``."""

import keras

from trainer.core.config import ModelConfig
from trainer.models import backbones
from trainer.models.layers import Kernel

HELP = "Xception, 20.9 M parameters."
ORDER = 26
SEARCHED = False  # Too large for a sweep that was not asked for it.
MINIMUM_IMAGE_SIZE = 71
INPUT_RANGE = (-1.0, 1.0)


def build(inputs: keras.KerasTensor, config: ModelConfig, kernel: Kernel) -> keras.KerasTensor:
    """Return the features ``[N, 2048]`` of ``[N, S, S, 3]``."""
    return backbones.features(keras.applications.Xception, inputs, config.dropout, kernel)
