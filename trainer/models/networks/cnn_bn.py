"""The notebook's network with the batch normalisation that the notebook has commented out."""

import keras

from trainer.core.config import ModelConfig
from trainer.models.layers import Kernel
from trainer.models.networks import cnn

HELP = "the same with the batch normalisation that the notebook has commented out."
ORDER = 1
MINIMUM_IMAGE_SIZE = 46  # As cnn.


def build(inputs: keras.KerasTensor, config: ModelConfig, kernel: Kernel) -> keras.KerasTensor:
    """Return the features ``[N, 256]`` of ``[N, S, S, 3]``."""
    return cnn.build(inputs, config, kernel, batch_norm=True)
