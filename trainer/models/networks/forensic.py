"""A small network for traces of forgery: nothing is averaged before filters have seen the finest detail."""

import keras

from trainer.core.config import ModelConfig
from trainer.models import front_ends, preprocess
from trainer.models.layers import Kernel, ShardBatchNorm, SlotDropout, he_normal

HELP = "small, for traces of forgery at native resolution; see --front_end."
ORDER = 2
MINIMUM_IMAGE_SIZE = 32  # The last stage must have a few places left.

# Filters of each convolution, by stage; between stages places are averaged 2x2.
_OF_PIXELS = ((32,), (64, 64), (96, 96))
_OF_DCT = ((64, 64), (96, 96))  # Its blocks are 4 pixels apart already.


def build(inputs: keras.KerasTensor, config: ModelConfig, kernel: Kernel) -> keras.KerasTensor:
    """Return the features ``[N, 96]`` of ``[N, S, S, 3]``."""
    if config.front_end == "dct":
        x = front_ends.BlockDct(name="block_dct")(inputs)
        return _mean_of(_stages(x, _OF_DCT, 1, 1, kernel), config)
    if config.front_end == "srm":
        x = front_ends.Residuals(name="residuals")(inputs)
    else:
        x = preprocess.to_input_range(inputs, (-1.0, 1.0))
    # Every second place, and not their average, which would be half of the time: 32 filters keep all 4 x 3 values.
    return _mean_of(_stages(x, _OF_PIXELS, 4, 2, kernel), config)


def _stages(
    x: keras.KerasTensor, stages: tuple[tuple[int, ...], ...], size: int, strides: int, kernel: Kernel
) -> keras.KerasTensor:
    """Return the last stage's outputs; ``size`` and ``strides`` are the first convolution's."""
    for number, stage in enumerate(stages, 1):
        if number > 1:
            x = keras.layers.AveragePooling2D(2, name=f"pool{number}")(x)
        for place, filters in enumerate(stage, 1):
            x = _convolution(x, filters, size, strides, kernel, f"{number}_{place}")
            size, strides = 3, 1
    return x


def _convolution(
    x: keras.KerasTensor, filters: int, size: int, strides: int, kernel: Kernel, name: str
) -> keras.KerasTensor:
    x = keras.layers.Conv2D(
        filters, size, strides, "same", use_bias=False, kernel_initializer=he_normal(kernel), name=f"conv{name}"
    )(x)
    return keras.layers.ReLU(name=f"relu{name}")(ShardBatchNorm(name=f"norm{name}")(x))


def _mean_of(x: keras.KerasTensor, config: ModelConfig) -> keras.KerasTensor:
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    return SlotDropout(config.dropout, salt=0, name="dropout")(x)
