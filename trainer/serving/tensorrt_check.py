"""Whether TensorRT's parser takes an ONNX model, by its published list of operators; TensorRT itself is not needed.

Does not own: conversion (``convert.py``).  Imports neither TensorFlow nor ONNX before it is used.
"""

from collections.abc import Iterator
from typing import Any

VERSION = "10.1"
# docs/operators.md of https://github.com/onnx/onnx-tensorrt at 96e7811 of 2024-06-17, checked in November 2026.
SOURCE = "its list of operators of 2024-06-17"
OPSETS = range(9, 21)
OPERATORS = frozenset({
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh", "AveragePool",
    "BatchNormalization", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Concat", "Constant", "ConstantOfShape", "Conv",
    "ConvTranspose", "Cos", "Cosh", "CumSum", "DeformConv", "DepthToSpace", "DequantizeLinear", "Div", "Dropout",
    "Einsum", "Elu", "Equal", "Erf", "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather", "GatherElements",
    "GatherND", "Gelu", "Gemm", "GlobalAveragePool", "GlobalLpPool", "GlobalMaxPool", "Greater", "GreaterOrEqual",
    "GridSample", "GroupNormalization", "GRU", "HardSigmoid", "HardSwish", "Hardmax", "Identity", "If",
    "InstanceNormalization", "IsInf", "IsNaN", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual", "Log",
    "LogSoftmax", "Loop", "LRN", "LSTM", "LpNormalization", "LpPool", "MatMul", "Max", "MaxPool", "Mean",
    "MeanVarianceNormalization", "Min", "Mish", "Mod", "Mul", "Neg", "NonMaxSuppression", "NonZero", "Not", "OneHot",
    "Or", "Pad", "Pow", "PRelu", "QuantizeLinear", "RandomNormal", "RandomNormalLike", "RandomUniform",
    "RandomUniformLike", "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp",
    "ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Resize",
    "ReverseSequence", "RNN", "RoiAlign", "Round", "Scan", "Scatter", "ScatterElements", "ScatterND", "Selu", "Shape",
    "Shrink", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth",
    "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu", "Tile", "TopK", "Transpose", "Trilu",
    "Unsqueeze", "Upsample", "Where", "Xor",
})  # fmt: skip
# Of weights and of constants between layers.  INT64 has been read since version 10, and narrowed to 32 bits before.
_TYPES = {"FLOAT", "FLOAT16", "BFLOAT16", "DOUBLE", "INT32", "INT64", "BOOL"}
_LARGEST_INT32 = 2**31 - 1
BATCH = "batch"


def problems(content: bytes) -> list[str]:
    """Return what TensorRT would refuse in an ONNX file, one line each; nothing if it takes it."""
    import onnx

    model = onnx.load_from_string(content)
    return [*_opset(model), *_axes(model.graph), *_operators(model.graph), *_constants(model.graph)]


def verdict(content: bytes) -> dict[str, Any]:
    """Return the entry of ``comparison.json`` about an ONNX file."""
    return {"version": VERSION, "by": SOURCE, "problems": problems(content)}


def to_text(entry: dict[str, Any]) -> str:
    """Return what the command says of an entry."""
    if entry["problems"]:
        return f"TensorRT {entry['version']} would refuse model.onnx: {'; '.join(entry['problems'])}\n"
    return f"TensorRT {entry['version']} takes model.onnx, by {entry['by']}; it was not run\n"


def _opset(model: Any) -> Iterator[str]:
    for each in model.opset_import:
        if each.domain:
            yield f"operators of {each.domain}"
        elif each.version not in OPSETS:
            yield f"opset {each.version}, expected {OPSETS.start} to {OPSETS.stop - 1}"


def _axes(graph: Any) -> Iterator[str]:
    """Yield inputs and outputs whose first axis is not the named batch, or that have another open axis."""
    for value in (*graph.input, *graph.output):
        first, *others = value.type.tensor_type.shape.dim
        if first.dim_param != BATCH:
            yield f"{value.name} whose first axis is {first.dim_param or first.dim_value}, expected {BATCH}"
        if not all(axis.dim_value for axis in others):
            yield f"{value.name} with an open axis beside the batch"


def _operators(graph: Any) -> Iterator[str]:
    constants = {each.name for each in graph.initializer}
    inputs = {each.name for each in graph.input}
    for kind in sorted({node.op_type for node in graph.node} - OPERATORS):
        yield f"the operator {kind}"
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] not in constants:
            yield f"the convolution {node.name}, whose weights are computed"
        if node.op_type == "MaxPool" and len(node.output) > 1:
            yield f"the pooling {node.name}, which gives places as well"
        if inputs & set(node.input) and node.op_type != "Cast":
            yield f"{node.op_type} of 8-bit pixels, expected Cast"


def _constants(graph: Any) -> Iterator[str]:
    import numpy as np
    from onnx import TensorProto, numpy_helper

    inside = [a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute if a.name == "value"]
    for each in (*graph.initializer, *inside):
        kind = TensorProto.DataType.Name(each.data_type)
        if kind not in _TYPES:
            yield f"the constant {each.name} of type {kind}"
        elif kind == "INT64" and any(map(_is_wide, np.ravel(numpy_helper.to_array(each)).tolist())):
            yield f"the constant {each.name}, whose integers need 64 bits"


def _is_wide(value: int) -> bool:
    """Return whether narrowing to 32 bits changes what a number means; the open end of a slice stays open."""
    return _LARGEST_INT32 < abs(value) < 2**63 - 1
