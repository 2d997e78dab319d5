"""EfficientNet-Lite: EfficientNet without squeeze-and-excitation, with ReLU6, and stem and head of one width.

The blocks are those of Tan and Le 2019, "EfficientNet", arXiv:1905.11946, table 1; what Lite changes is in
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite.
Owns: the blocks and the names of their layers, by which weights are found.  Does not own: which sizes there are
(``networks/efficientnet_lite*.py``).
"""

import dataclasses
import math

import keras

from trainer.models.layers import Kernel, ShardBatchNorm, he_normal

EPSILON = 1e-3  # Of every batch normalisation.
STEM, HEAD = 32, 1280  # Filters, in every size.


@dataclasses.dataclass(frozen=True)
class _Stage:
    """Blocks of one kind; the first one strides and widens."""

    repeats: int
    kernel_size: int
    strides: int
    expansion: int
    filters: int


_STAGES = (
    _Stage(1, 3, 1, 1, 16), _Stage(2, 3, 2, 6, 24), _Stage(2, 5, 2, 6, 40), _Stage(3, 3, 2, 6, 80),
    _Stage(3, 5, 1, 6, 112), _Stage(4, 5, 2, 6, 192), _Stage(1, 3, 1, 6, 320),
)  # fmt: skip


def features(inputs: keras.KerasTensor, kernel: Kernel, *, width: float, depth: float) -> keras.KerasTensor:
    """Return ``[N, 1280]`` features of ``[N, S, S, 3]``.

    Args:
        inputs: pixels, ``(level - 127) / 128``.
        kernel: makes the initializers' seeds.
        width: factor of the blocks' filters.
        depth: factor of their number, but for the first and the last stage.
    """
    x = _convolution(inputs, STEM, 3, kernel, "stem", strides=2)
    number = 0
    for stage in _STAGES:
        scaled = stage.repeats if stage in (_STAGES[0], _STAGES[-1]) else math.ceil(stage.repeats * depth)
        for repeat in range(scaled):
            strides = stage.strides if repeat == 0 else 1
            x = _block(x, stage, _rounded(stage.filters * width), strides, kernel, f"block{number}")
            number += 1
    x = _convolution(x, HEAD, 1, kernel, "head")
    return keras.layers.GlobalAveragePooling2D(name="mean")(x)


def _rounded(filters: float) -> int:
    """Return the nearest multiple of 8, and the next one if that is less than nine tenths."""
    nearest = max(8, int(filters + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * filters else nearest + 8


def _block(
    inputs: keras.KerasTensor, stage: _Stage, filters: int, strides: int, kernel: Kernel, name: str
) -> keras.KerasTensor:
    """Return an inverted residual block: expand, convolve each channel, project."""
    x, channels = inputs, inputs.shape[-1]
    if stage.expansion > 1:
        x = _convolution(x, channels * stage.expansion, 1, kernel, f"{name}_expand")
    x = keras.layers.DepthwiseConv2D(
        stage.kernel_size, strides, "same", use_bias=False, depthwise_initializer=he_normal(kernel),
        name=f"{name}_depthwise_conv",
    )(x)  # fmt: skip
    x = _normalised(x, f"{name}_depthwise")
    x = _convolution(x, filters, 1, kernel, f"{name}_project", activated=False)
    return keras.layers.Add(name=f"{name}_add")([inputs, x]) if strides == 1 and channels == filters else x


def _convolution(
    x: keras.KerasTensor,
    filters: int,
    size: int,
    kernel: Kernel,
    name: str,
    *,
    strides: int = 1,
    activated: bool = True,
) -> keras.KerasTensor:
    x = keras.layers.Conv2D(
        filters, size, strides, "same", use_bias=False, kernel_initializer=he_normal(kernel), name=f"{name}_conv"
    )(x)
    return _normalised(x, name, activated=activated)


def _normalised(x: keras.KerasTensor, name: str, *, activated: bool = True) -> keras.KerasTensor:
    x = ShardBatchNorm(epsilon=EPSILON, name=f"{name}_bn")(x)
    return keras.layers.ReLU(6.0, name=f"{name}_relu6")(x) if activated else x
