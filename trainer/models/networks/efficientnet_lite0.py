"""EfficientNet-Lite0, for which ImageNet weights can be had (docs/training.md)."""

import keras

from trainer.core.config import ModelConfig
from trainer.models import efficientnet_lite
from trainer.models.layers import Kernel, SlotDropout

HELP = "EfficientNet-Lite0, 3.4 M parameters, to begin from ImageNet weights."
ORDER = 10
SEARCHED = False  # From random weights it learns slowly.
MINIMUM_IMAGE_SIZE = 32  # The last blocks must have a pixel of their own.
INPUT_RANGE = (-0.9921875, 1.0)  # (0 - 127) / 128 to (255 - 127) / 128.


def build(inputs: keras.KerasTensor, config: ModelConfig, kernel: Kernel) -> keras.KerasTensor:
    """Return the features ``[N, 1280]`` of ``[N, S, S, 3]``."""
    x = efficientnet_lite.features(inputs, kernel, width=1.0, depth=1.0)
    return SlotDropout(config.dropout, salt=0, name="dropout")(x)
