"""A model in one file, for runtimes without TensorFlow: TFLite and ONNX.

Both take ``images [N, S, S, 3] uint8`` in [0, 255] and give ``probabilities [N, C] float32``.
Owns: converting, and running what was converted.  Does not own: whether its answers are good enough (``export.py``).
"""

import contextlib
import importlib.util
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.pixels import Pixels
from trainer.errors import RequestError

QUANTIZE = ("none", "float16", "dynamic")

_OPSET = 17  # Of ONNX; understood by runtimes since 2022.

Run = Callable[[Pixels], npt.NDArray[np.float32]]


def require_onnx() -> None:
    """Say how to get what ONNX needs, without importing it.

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
    from tensorflow.python.framework import convert_to_constants

    return convert_to_constants.convert_variables_to_constants_v2(function.get_concrete_function())


def to_tflite(frozen: Any, quantize: str) -> bytes:
    """Return a TFLite file.

    Args:
        frozen: of ``freeze``.
        quantize: none, float16 (weights in half precision), or dynamic (weights in 8 bits, arithmetic too where the
            runtime can).
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
    """Return a function that answers with a TFLite file, on all cores."""
    import tensorflow as tf

    with _quiet():
        interpreter = tf.lite.Interpreter(model_content=content, num_threads=os.cpu_count())
    taken, given = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run(images: Pixels) -> npt.NDArray[np.float32]:
        interpreter.resize_tensor_input(taken, images.shape)
        interpreter.allocate_tensors()
        interpreter.set_tensor(taken, images)
        interpreter.invoke()
        return np.asarray(interpreter.get_tensor(given))

    return run


def to_onnx(frozen: Any) -> bytes:
    """Return an ONNX file of a frozen function of one input and one output."""
    import tf2onnx

    taken, given = frozen.inputs[0].name, frozen.outputs[0].name
    with _quiet():
        model, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(), input_names=[taken], output_names=[given], opset=_OPSET
        )
    names = {taken: "images", given: "probabilities"}
    for value in (*model.graph.input, *model.graph.output):
        value.name = names.get(value.name, value.name)
    for node in model.graph.node:
        for sides in (node.input, node.output):
            sides[:] = [names.get(name, name) for name in sides]
    return bytes(model.SerializeToString())


def run_onnx(content: bytes) -> Run:
    """Return a function that answers with an ONNX file, on all cores."""
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda images: np.asarray(session.run(["probabilities"], {"images": images})[0])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep advice about the converters' own future from the user, who cannot follow it."""
    loggers = [logging.getLogger(name) for name in ("absl", "tensorflow", "tf2onnx")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
