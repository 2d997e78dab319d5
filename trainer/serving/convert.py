"""Convert a model to TFLite or ONNX, and compare each form with the SavedModel.

Both forms take ``images [N, S, S, 3] uint8`` in [0, 255] and return ``probabilities [N, C] float32``.
Owns: conversion, running each form, the comparison.  Does not own: which checkpoint, forms and images.
"""

import contextlib
import importlib.util
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core import quiet_start
from trainer.core.errors import JobFailed, RequestError
from trainer.data.pixels import Pixels
from trainer.serving import exported_model, tensorrt_check

QUANTIZE = ("none", "float16", "dynamic")

_OPSET = 17  # Of ONNX; runtimes have supported it since 2022.
_LARGEST_DIFFERENCE = 1e-3  # Of a probability in float32; kernels differ in the order of their sums.
_TIMED_SECONDS = 1.0

Run = Callable[[Pixels], npt.NDArray[np.float32]]


def require_onnx() -> None:
    """Check that the packages for ONNX are installed, without importing them.

    Raises:
        RequestError: if tf2onnx or onnxruntime is not installed.
    """
    for name in ("tf2onnx", "onnxruntime"):
        if importlib.util.find_spec(name) is None:
            raise RequestError(
                f"--formats=onnx: expected the package {name}, received none; install it with: pip install -e '.[onnx]'"
            )


def freeze(function: Any) -> Any:
    """Return a tf.function with its variables as constants; converters lose those of Keras 3 otherwise."""
    from trainer.distributed import tf_private  # Late: it imports TensorFlow.

    return tf_private.freeze(function)


def to_tflite(frozen: Any, quantize: str) -> bytes:
    """Return a TFLite file.

    Args:
        frozen: from ``freeze``.
        quantize: none, float16 (weights in half precision), or dynamic (weights in 8 bits, and arithmetic too where
            the runtime supports it).
    """
    import tensorflow as tf

    with _quiet():
        converter = tf.lite.TFLiteConverter.from_concrete_functions([frozen])
        if quantize != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        return bytes(converter.convert())


def run_tflite(content: bytes) -> Run:
    """Return a function that runs a TFLite model on all cores."""
    import tensorflow as tf

    with _quiet(), quiet_start.filtered():  # The runtime reports its choice of kernels when it takes memory.
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=os.cpu_count())
        interpreter.allocate_tensors()
    input_index = interpreter.get_input_details()[0]["index"]
    output_index = interpreter.get_output_details()[0]["index"]

    def run(images: Pixels) -> npt.NDArray[np.float32]:
        interpreter.resize_tensor_input(input_index, images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(input_index, images)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(output_index))

    return run


def to_onnx(frozen: Any) -> bytes:
    """Return an ONNX file of a frozen function of one input and one output."""
    import tf2onnx

    input_name, output_name = frozen.inputs[0].name, frozen.outputs[0].name
    with _quiet():
        model, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(), input_names=[input_name], output_names=[output_name], opset=_OPSET
        )
    # TensorFlow's names are of graph nodes; a caller needs names that stay.
    names = {input_name: "images", output_name: "probabilities"}
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        for values in (node.input, node.output):
            values[:] = [names.get(name, name) for name in values]
    _spell_out(model.graph)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = tensorrt_check.BATCH
    domains = {node.domain for node in model.graph.node}
    for unused in [each for each in model.opset_import if each.domain not in domains]:
        model.opset_import.remove(unused)
    return bytes(model.SerializeToString())


def _spell_out(graph: Any) -> None:
    """Replace TensorFlow's operators that ONNX does not have by those that they stand for."""
    from onnx import numpy_helper

    nodes = []
    for node in graph.node:
        if node.op_type in ("Log1p", "Erfc"):
            one = f"{node.name}__one"
            graph.initializer.append(numpy_helper.from_array(np.array(1, np.float32), one))
            nodes += _spelled(node, one)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _spelled(node: Any, one: str) -> list[Any]:
    """Return ``log(x + 1)`` or ``1 - erf(x)``."""
    from onnx import helper

    inner = f"{node.name}__inner"
    if node.op_type == "Log1p":
        steps = (("Add", [*node.input, one], inner), ("Log", [inner], node.output[0]))
    else:
        steps = (("Erf", list(node.input), inner), ("Sub", [one, inner], node.output[0]))
    return [helper.make_node(kind, inputs, [output], name=f"{node.name}__{kind}") for kind, inputs, output in steps]


def run_onnx(content: bytes) -> Run:
    """Return a function that runs an ONNX model on all cores."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(["probabilities"], {"images": images})[0])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the converters' warnings about their own future, which a user cannot act on."""
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow", "tf2onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:  # tf2onnx reports as an error what ``_spell_out`` mends; what is left no runtime loads.
        logger.setLevel(logging.CRITICAL if logger.name == "tf2onnx" else logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def compare(
    runs: Mapping[str, tuple[Run, int]], images: Pixels, export: exported_model.ExportedModel, quantize: str
) -> dict[str, Any]:
    """Return the difference of each form from the SavedModel, and its speed.

    Args:
        runs: for each form, the function that runs it and its size in bytes; ``savedmodel`` is the reference.
        images: ``[n, S, S, 3]``, one batch.
        export: the SavedModel, which decides labels.
        quantize: how the TFLite form was quantized.
    """
    expected = runs["savedmodel"][0](images)
    labels = [export.decide(row) for row in expected]
    forms = {}
    for form, (run, size) in runs.items():
        answers = run(images)
        changed = sum(export.decide(row) != label for row, label in zip(answers, labels, strict=True))
        difference = float(np.abs(answers - expected).max()) if np.isfinite(answers).all() else None
        forms[form] = {
            "bytes": size,
            "quantize": quantize if form == "tflite" else "none",
            "largest_difference": difference,
            "labels_changed": changed,
            "images_per_second": round(_rate(run, images), 1),
        }
    return {"images": len(images), "forms": forms}


def _rate(run: Run, images: Pixels) -> float:
    """Return images per second of a form that has already run once."""
    begin = time.perf_counter()
    batches = 0
    while not batches or time.perf_counter() - begin < _TIMED_SECONDS:
        run(images)
        batches += 1
    return batches * len(images) / (time.perf_counter() - begin)


def to_text(comparison: dict[str, Any]) -> str:
    """Return the comparison as a printed table."""
    lines = [f"{'form':<20}{'MB':>8}  {'max |dp|':>9}  {'labels changed':>14}  {'images/s':>9}"]
    for form, figures in comparison["forms"].items():
        name = form if figures["quantize"] == "none" else f"{form} {figures['quantize']}"
        difference = figures["largest_difference"]
        shown = "NaN/inf" if difference is None else f"{difference:.1e}"
        lines.append(
            f"{name:<20}{figures['bytes'] / 1e6:>8.2f}  {shown:>9}"
            f"  {figures['labels_changed']:>14}  {figures['images_per_second']:>9.1f}"
        )
    lines.append(f"on {comparison['images']} images in one batch, on this machine's CPU or first GPU\n")
    entry = comparison["forms"].get("onnx", {}).get("tensorrt")
    return "\n".join(lines) + (tensorrt_check.to_text(entry) if entry else "")


def refuse_others(comparison: dict[str, Any]) -> None:
    """Refuse a form that answers differently from the SavedModel.

    Raises:
        JobFailed: naming the form.
    """
    for form, figures in comparison["forms"].items():
        difference = figures["largest_difference"]
        allowed = _LARGEST_DIFFERENCE if figures["quantize"] == "none" else 1.0
        if difference is None or difference > allowed:
            raise JobFailed(
                f"{form} does not answer as the SavedModel does: the largest difference of a probability is "
                f"{difference} (allowed: {allowed:g}); do not use it"
            )
