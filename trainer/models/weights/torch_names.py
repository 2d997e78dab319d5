"""Torch's names and layouts of weights -> those of this package's networks.

EfficientNets are known in two spellings: that of lukemelas/EfficientNet-PyTorch (``_blocks.3._bn1``) and that of
timm (``blocks.1.2.bn1``).  Of any other network the names stay, with ``_`` in place of dots.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy.typing as npt

from trainer.core.arrays import Arrays

_LUKEMELAS = {
    "_conv_stem": "stem_conv", "_bn0": "stem_bn", "_conv_head": "head_conv", "_bn1": "head_bn", "_fc": "logits",
}  # fmt: skip
_LUKEMELAS_BLOCK = {
    "_expand_conv": "expand_conv", "_bn0": "expand_bn", "_depthwise_conv": "depthwise_conv", "_bn1": "depthwise_bn",
    "_project_conv": "project_conv", "_bn2": "project_bn",
}  # fmt: skip
_TIMM = {
    "conv_stem": "stem_conv", "bn1": "stem_bn", "conv_head": "head_conv", "bn2": "head_bn", "classifier": "logits",
}  # fmt: skip
_TIMM_BLOCK = {
    "conv_pw": "expand_conv", "bn1": "expand_bn", "conv_dw": "depthwise_conv", "bn2": "depthwise_bn",
    "conv_pwl": "project_conv", "bn3": "project_bn",
}  # fmt: skip
_TIMM_FIRST_BLOCK = {  # Without an expansion.
    "conv_dw": "depthwise_conv", "bn1": "depthwise_bn", "conv_pw": "project_conv", "bn2": "project_bn",
}  # fmt: skip

_BATCH_NORM = {
    "weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance",
}  # fmt: skip
_COUNTER = "num_batches_tracked"  # No weight: Keras has none.


def to_keras(tensors: Mapping[str, npt.NDArray[Any]]) -> Arrays:
    """Return the arrays as ``layer/variable``, in Keras's layout."""
    layer_of = _style(tensors)
    arrays = {}
    for name, tensor in tensors.items():
        layer, _, leaf = name.rpartition(".")
        if leaf != _COUNTER:
            arrays[f"{layer_of(layer)}/{_variable(layer, leaf, tensors)}"] = _layout(leaf, tensor)
    return arrays


def _style(tensors: Mapping[str, npt.NDArray[Any]]) -> Callable[[str], str]:
    if "_conv_stem.weight" in tensors:
        return _lukemelas
    if "conv_stem.weight" in tensors:
        return _timm(tensors)
    return _as_it_is


def _as_it_is(layer: str) -> str:
    return layer.replace(".", "_")


def _lukemelas(layer: str) -> str:
    block = re.fullmatch(r"_blocks\.(\d+)\.(\w+)", layer)
    if block and block[2] in _LUKEMELAS_BLOCK:
        return f"block{block[1]}_{_LUKEMELAS_BLOCK[block[2]]}"
    return _LUKEMELAS.get(layer, _as_it_is(layer))


def _timm(tensors: Mapping[str, npt.NDArray[Any]]) -> Callable[[str], str]:
    """Return the names of timm's layers; it counts blocks within stages."""
    blocks = {match[0]: (int(match[1]), int(match[2])) for name in tensors
              if (match := re.match(r"blocks\.(\d+)\.(\d+)", name))}  # fmt: skip
    numbers = {block: number for number, block in enumerate(sorted(blocks, key=lambda block: blocks[block]))}

    def layer_of(layer: str) -> str:
        block, _, part = layer.rpartition(".")
        table = _TIMM_BLOCK if f"{block}.conv_pwl.weight" in tensors else _TIMM_FIRST_BLOCK
        if block in numbers and part in table:
            return f"block{numbers[block]}_{table[part]}"
        return _TIMM.get(layer, _as_it_is(layer))

    return layer_of


def _variable(layer: str, leaf: str, tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    weight = tensors.get(f"{layer}.weight")
    if weight is not None and weight.ndim == 1:  # Of batch or layer normalisation.
        return _BATCH_NORM.get(leaf, leaf)
    return "kernel" if leaf == "weight" else _BATCH_NORM.get(leaf, leaf) if leaf.startswith("running_") else leaf


def _layout(leaf: str, tensor: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a kernel in Keras's layout: OIHW -> HWIO, of a depthwise one -> HWC1, of a dense one OI -> IO."""
    if leaf != "weight" or tensor.ndim not in (2, 4):
        return tensor
    if tensor.ndim == 2:
        return tensor.T
    is_depthwise = tensor.shape[1] == 1
    return tensor.transpose([2, 3, 0, 1] if is_depthwise else [2, 3, 1, 0])
