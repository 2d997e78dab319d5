"""A model in one file, for runtimes without TensorFlow: TFLite and ONNX.

Both take ``images [N, S, S, 3] uint8`` in [0, 255] and give ``probabilities [N, C] float32``.
Owns: converting, and running what was converted.  Does not own: whether its answers are good enough (``export.py``).
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

from trainer.core.errors import JobFailed, RequestError
from trainer.data.pixels import Pixels
from trainer.serving import exported_model

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
    from trainer.distributed import tf_private  # Late: it imports TensorFlow.

    return tf_private.freeze(function)


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


_ALLOWED = 1e-3  # Difference of a probability in float32; kernels differ in how they add.
_TIMED_SECONDS = 1.0


def compare(
    runs: Mapping[str, tuple[Run, int]], images: Pixels, export: exported_model.ExportedModel, quantize: str
) -> dict[str, Any]:
    """Return how far each form is from the SavedModel, and how fast.

    Args:
        runs: what runs each form, and its bytes; the one to compare with is ``savedmodel``.
        images: ``[n, S, S, 3]``, one batch.
        export: the SavedModel, which decides labels.
        quantize: of the TFLite form.
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
    """Return images a second of a form that has run once."""
    begin, batches = time.perf_counter(), 0
    while not batches or time.perf_counter() - begin < _TIMED_SECONDS:
        run(images)
        batches += 1
    return batches * len(images) / (time.perf_counter() - begin)


def to_text(compared: dict[str, Any]) -> str:
    """Return the comparison as a table for a person."""
    lines = [f"{'form':<20}{'MB':>8}  {'max |dp|':>9}  {'labels changed':>14}  {'images/s':>9}"]
    for form, figures in compared["forms"].items():
        name = form if figures["quantize"] == "none" else f"{form} {figures['quantize']}"
        difference = figures["largest_difference"]
        shown = "no number" if difference is None else f"{difference:.1e}"
        lines.append(
            f"{name:<20}{figures['bytes'] / 1e6:>8.2f}  {shown:>9}"
            f"  {figures['labels_changed']:>14}  {figures['images_per_second']:>9.1f}"
        )
    return "\n".join([*lines, f"on {compared['images']} images in one batch, on this machine's CPU or first GPU\n"])


def refuse_others(compared: dict[str, Any]) -> None:
    """Refuse a form that is not the model.

    Raises:
        JobFailed: naming it.
    """
    for form, figures in compared["forms"].items():
        difference, allowed = figures["largest_difference"], _ALLOWED if figures["quantize"] == "none" else 1.0
        if difference is None or difference > allowed:
            raise JobFailed(
                f"{form} does not answer as the SavedModel does: the largest difference of a probability is "
                f"{difference} (allowed: {allowed:g}); do not use it"
            )
