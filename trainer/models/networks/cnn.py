"""The notebook's network: four blocks of 3x3 convolution and pooling, then 256 units."""

import keras

from trainer.core.config import ModelConfig
from trainer.models import max_pooling, pooled_relu
from trainer.models.layers import Kernel, ShardBatchNorm, SlotDropout

HELP = "the notebook's four convolution blocks."
ORDER = 0
MINIMUM_IMAGE_SIZE = 46  # The fourth block's pooling must have something left to pool.

FILTERS = (32, 32, 64, 128)  # Of each block.
UNITS = 256


def build(
    inputs: keras.KerasTensor, config: ModelConfig, kernel: Kernel, *, batch_norm: bool = False
) -> keras.KerasTensor:
    """Return the features ``[N, 256]`` of ``[N, S, S, 3]``, normalised after each convolution if asked."""
    x = inputs
    convolution, pooling = pooled_relu.Conv2D, pooled_relu.MaxPooling2D
    if batch_norm:  # It stands between ReLU and maximum, and changes the order of values where its factor is negative.
        convolution, pooling = keras.layers.Conv2D, max_pooling.MaxPooling2D
    for block, filters in enumerate(FILTERS, 1):
        x = convolution(filters, 3, activation="relu", kernel_initializer=kernel(), name=f"conv{block}")(x)
        x = ShardBatchNorm(name=f"norm{block}")(x) if batch_norm else x
        x = pooling(name=f"pool{block}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(UNITS, activation="relu", kernel_initializer=kernel(), name="hidden")(x)
    x = ShardBatchNorm(name="norm_hidden")(x) if batch_norm else x
    return SlotDropout(config.dropout, salt=0, name="dropout")(x)
