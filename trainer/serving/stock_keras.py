"""Rebuild a model from Keras's own layers alone, so that its ``.keras`` file loads where this package is not installed.

The file takes grey levels ``[N, S, S, 3]`` in [0, 255], whole numbers or not, and returns ``probabilities [N, C]
float32``.
Owns: what takes the place of which layer, and the file's check in a fresh process.  Does not own: our layers
(``models/``), the comparison with other forms (``convert.py``).
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from trainer.core.errors import JobFailed, RequestError
from trainer.data.pixels import Pixels
from trainer.models import backbones, front_ends, max_pooling, pooled_relu, preprocess
from trainer.models.layers import ShardBatchNorm, SlotDropout
from trainer.serving import verify_keras

Array = npt.NDArray[np.float32]

_LARGEST = 255.0  # Of 8 bits.


def rebuild(model: keras.Model, temperature: float = 1.0) -> keras.Model:
    """Return the same function of grey levels, with weights of its own, from layers that every Keras 3 has.

    Args:
        model: of ``models.registry``, in float32.
        temperature: the logits are divided by it.

    Raises:
        RequestError: if the network has a layer that Keras has not, and that is not known here.
    """
    require_known(model)
    levels = keras.Input(model.input.shape[1:], name="images")
    pixels = keras.layers.Rescaling(1 / _LARGEST, name="unit_range")(levels)
    logits = keras.Model(model.input, model.get_layer("logits").output)
    copies: list[tuple[Any, Any]] = []

    def replace(layer: Any) -> Any:
        copy = _copy(layer)
        copies.append((layer, copy))
        return copy

    last: list[Any] = []

    def call(layer: Any, *arguments: Any, **options: Any) -> Any:
        options.pop("mask", None)  # Images have none, and not every layer takes one.
        last[:] = [layer(*arguments, **options)]
        return last[0]

    # The layers are called on our pixels, so that they are layers of our model; what it returns is not needed.
    keras.models.clone_model(logits, pixels, replace, call, recursive=True)
    x = last[0]
    if temperature != 1.0:
        x = keras.layers.Rescaling(1 / temperature, name="temperature")(x)
    probabilities = keras.layers.Activation("softmax", dtype="float32", name="probabilities")(x)
    for layer, copy in copies:
        if isinstance(copy, keras.layers.Layer) and copy.weights:
            copy.set_weights(_weights(layer))
    return keras.Model(levels, probabilities, name=model.name)


def require_known(model: keras.Model) -> None:
    """Check that every layer of a model can be rebuilt.

    Raises:
        RequestError: naming the layers that cannot.
    """
    strange = sorted({type(each).__name__ for each in _operations(model) if not _is_known(each)})
    if strange:
        raise RequestError(
            f"--formats=keras: expected a network of Keras's own layers or of this package's, received --model="
            f"{model.name} with {', '.join(strange)}; take other formats, or build the network from Keras's layers"
        )


def _operations(model: keras.Model) -> list[Any]:
    """Return layers and operations of a model, those of nested models too."""
    every: list[Any] = []
    for each in getattr(model, "operations", model.layers):
        every += _operations(each) if isinstance(each, keras.Model) else [each]
    return every


def _is_known(operation: Any) -> bool:
    is_of_keras = type(operation).__module__.partition(".")[0] == "keras"
    # A Lambda holds code, which Keras loads only from trusted files; its applications keep their layers to themselves.
    is_private = isinstance(operation, keras.layers.Lambda) or ".applications." in type(operation).__module__
    return type(operation) in _COPIES or (is_of_keras and not is_private)


def _copy(layer: Any) -> Any:
    """Return what takes a layer's place, without its weights."""
    if not isinstance(layer, keras.layers.Layer):  # An operation, such as +.
        return layer
    make = _COPIES.get(type(layer))
    return make(layer) if make else type(layer).from_config(layer.get_config())


def _batch_norm(layer: ShardBatchNorm) -> keras.layers.BatchNormalization:
    return keras.layers.BatchNormalization(momentum=layer.momentum, epsilon=layer.epsilon, name=layer.name)


def _dropout(layer: SlotDropout) -> keras.layers.Dropout:
    noise = (None, *[1] * (len(layer.output.shape) - 1)) if layer.whole else None
    return keras.layers.Dropout(layer.rate, noise_shape=noise, name=layer.name)


def _convolution(layer: pooled_relu.Conv2D) -> keras.layers.Conv2D:
    return keras.layers.Conv2D.from_config(layer.get_config())


def _pooling(layer: max_pooling.MaxPooling2D) -> keras.layers.MaxPooling2D:
    return keras.layers.MaxPooling2D.from_config(layer.get_config())


def _rescaling(layer: preprocess.InputRange) -> keras.layers.Rescaling:
    return keras.layers.Rescaling(layer.scale, layer.offset, name=layer.name)


def _layer_scale(layer: backbones.LayerScale) -> keras.layers.DepthwiseConv2D:
    """Return a convolution of single places: one factor for each channel."""
    return keras.layers.DepthwiseConv2D(1, use_bias=False, name=layer.name)


def _residuals(layer: front_ends.Residuals) -> keras.Model:
    central = np.tile(front_ends.CENTRAL, 3)
    quanta = keras.layers.Rescaling((1 / central).tolist(), name="quanta")
    largest = front_ends.TRUNCATION
    return _front_end(
        layer, front_ends.residual_filters(), 1, lambda x: keras.ops.clip(quanta(x), -largest, largest) / largest
    )


def _block_dct(layer: front_ends.BlockDct) -> keras.Model:
    return _front_end(
        layer, front_ends.dct_filters(), front_ends.STRIDE, lambda x: keras.ops.log1p(keras.ops.absolute(x))
    )


def _front_end(layer: Any, filters: Array, strides: int, after: Callable[[Any], Any]) -> keras.Model:
    """Return the fixed filters as a convolution that is not trained, on whole grey levels."""
    pixels = keras.Input(layer.input.shape[1:])
    convolution = keras.layers.Conv2D(
        filters.shape[-1], filters.shape[0], strides, use_bias=False, trainable=False, name="filters"
    )
    levels = keras.ops.round(keras.ops.clip(pixels, 0.0, 1.0) * front_ends.LEVELS)
    return keras.Model(pixels, after(convolution(levels)), name=layer.name)


# By exact class: a subclass may compute something else.
_COPIES: Mapping[type, Callable[[Any], Any]] = {
    ShardBatchNorm: _batch_norm,
    SlotDropout: _dropout,
    pooled_relu.Conv2D: _convolution,
    pooled_relu.MaxPooling2D: _pooling,
    max_pooling.MaxPooling2D: _pooling,
    preprocess.InputRange: _rescaling,
    backbones.LayerScale: _layer_scale,
    front_ends.Residuals: _residuals,
    front_ends.BlockDct: _block_dct,
}


def _weights(layer: Any) -> list[Any]:
    """Return a layer's weights in the order of what takes its place."""
    if isinstance(layer, ShardBatchNorm):
        return [layer.gamma.numpy(), layer.beta.numpy(), *layer.moving.numpy()]
    if isinstance(layer, backbones.LayerScale):
        return [layer.gamma.numpy()[None, None, :, None]]
    if isinstance(layer, front_ends.Residuals):
        return [front_ends.residual_filters()]
    if isinstance(layer, front_ends.BlockDct):
        return [front_ends.dct_filters()]
    return list(layer.get_weights())


def make(model: keras.Model, images: Pixels, expected: Array) -> tuple[bytes, Callable[[Pixels], Array]]:
    """Return a checked ``.keras`` file of what ``rebuild`` returned, and a function that runs it.

    Args:
        model: to write.
        images: ``[n, S, S, 3]`` for the check.
        expected: their probabilities.

    Raises:
        JobFailed: if the file does not load without this package, or answers otherwise.
    """
    content = to_bytes(model)
    verify(content, images, expected)
    return content, run(content)


def to_bytes(model: keras.Model) -> bytes:
    """Return a ``.keras`` file."""
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "model.keras")
        model.save(path)
        with open(path, "rb") as file:
            return file.read()


def run(content: bytes) -> Callable[[Pixels], Array]:
    """Return a function that runs a ``.keras`` file."""
    with tempfile.TemporaryDirectory() as scratch:
        path = os.path.join(scratch, "model.keras")
        with open(path, "wb") as file:
            file.write(content)
        model = keras.models.load_model(path, compile=False)
    return lambda images: np.asarray(model.predict_on_batch(images))


def verify(content: bytes, images: Pixels, expected: Array) -> None:
    """Load a ``.keras`` file in a fresh process that cannot import this package, and compare.

    Raises:
        JobFailed: if it does not load, or answers otherwise.
    """
    with tempfile.TemporaryDirectory() as scratch:
        paths = [os.path.join(scratch, name) for name in ("model.keras", "samples.npz")]
        with open(paths[0], "wb") as file:
            file.write(content)
        np.savez(paths[1], images=images, probabilities=expected)
        # -P: the script's folder is not on the path.  Not -I: TensorFlow may come from PYTHONPATH.
        command = [sys.executable, "-P", verify_keras.__file__, *paths]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise JobFailed(f"the .keras file failed its check: {done.stdout.strip() or done.stderr[-2000:]}")
