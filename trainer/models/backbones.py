"""Networks of ``keras.applications``, rebuilt from layers whose results restarts and devices do not change.

Owns: what takes the place of which layer, and the names and seeds of all.  Does not own: which networks there are
(``networks/``), the layers of ours (``layers.py``).
"""

import itertools
import re
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from trainer.models.layers import Kernel, ShardBatchNorm, SlotDropout, automatic_name, he_normal

# Whatever the original has: its averages are true after hundreds of steps only.
MOMENTUM = 0.9


@keras.saving.register_keras_serializable("deepdetect")
class LayerScale(keras.layers.Layer):  # type: ignore[misc]
    """ConvNeXt's factor for each channel; that of ``keras.applications`` gives its weight no steady name."""

    def __init__(self, initial: float, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.initial = initial

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the factors of ``[..., C]`` inputs."""
        start = keras.initializers.Constant(self.initial)
        self.gamma = self.add_weight(name="gamma", shape=[input_shape[-1]], initializer=start)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the inputs times the factors."""
        return inputs * self.gamma

    def get_config(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "initial": self.initial}


def features(
    application: Callable[..., keras.Model],
    inputs: keras.KerasTensor,
    dropout: float,
    kernel: Kernel,
    **options: object,
) -> keras.KerasTensor:
    """Return the features ``[N, F]`` of ``[N, S, S, 3]``.

    Args:
        application: of ``keras.applications``.
        inputs: pixels in the range that it expects.
        dropout: rate of the last layer.
        kernel: makes the seed of every initializer.
        options: of the application.
    """
    original = application(include_top=False, weights=None, input_shape=inputs.shape[1:], pooling="avg", **options)
    last: list[keras.KerasTensor] = []

    def call(layer: keras.layers.Layer, *args: object, **kwargs: object) -> keras.KerasTensor:
        kwargs.pop("mask", None)  # That of keras.layers.BatchNormalization, always None.
        last[:] = [layer(*args, **kwargs)]
        return last[0]

    # Its layers are called on our inputs, so that they are layers of our model; what it returns is not needed.
    keras.models.clone_model(original, inputs, _Replacement(original, kernel), call, recursive=True)
    return SlotDropout(dropout, salt=0, name="dropout")(last[0])


class _Replacement:
    """What takes the place of each layer of one application."""

    def __init__(self, original: keras.Model, kernel: Kernel) -> None:
        self._kernel = kernel
        self._names = _steady_names(original)
        self._salts = itertools.count(1)  # 0 is the last layer's.

    def __call__(self, layer: Any) -> Any:
        """Return the layer that takes its place, without weights yet."""
        if not isinstance(layer, keras.layers.Layer):  # An operation, such as +.
            return layer
        name = self._names.get(id(layer), layer.name)
        if isinstance(layer, keras.layers.BatchNormalization):
            return ShardBatchNorm(MOMENTUM, layer.epsilon, name=name)
        if isinstance(layer, keras.layers.Dropout):
            return SlotDropout(layer.rate, next(self._salts), whole=layer.noise_shape is not None, name=name)
        if type(layer).__name__ == "StochasticDepth":
            return SlotDropout(layer.drop_path_rate, next(self._salts), whole=True, name=name)
        if type(layer).__name__ == "LayerScale":
            return LayerScale(layer.init_values, name=name)
        if isinstance(layer, keras.layers.Conv2D) and 1 < layer.groups == layer.filters:
            return self._depthwise(layer, name)
        return type(layer).from_config({**self._seeded(layer.get_config()), "name": name})

    def _depthwise(self, layer: keras.layers.Conv2D, name: str) -> keras.layers.DepthwiseConv2D:
        """Return the same convolution in a form whose gradient TensorFlow has on a CPU; the kernel is transposed."""
        return keras.layers.DepthwiseConv2D(
            layer.kernel_size, layer.strides, layer.padding, depthwise_initializer=he_normal(self._kernel),
            use_bias=layer.use_bias, name=name,
        )  # fmt: skip

    def _seeded(self, config: dict[str, Any]) -> dict[str, Any]:
        """Return a layer's settings with a seed of the job in every initializer that draws."""
        for value in config.values():
            if isinstance(value, dict) and "seed" in value.get("config", {}):
                value["config"]["seed"] = self._kernel().seed
        if "mean" in config or "scale" in config:  # Of the pixels, whose levels 16 bits do not hold.
            config["dtype"] = "float32"
        return config


def _steady_names(original: keras.Model) -> dict[int, str]:
    """Return a name for each layer with weights whose own one counts the layers of the process, by identity."""
    numbered = [layer for layer in original.layers if layer.weights and automatic_name(layer)]
    numbered.sort(key=lambda layer: (type(layer).__name__, _number(layer.name)))
    names = {}
    for kind, group in itertools.groupby(numbered, lambda layer: re.sub(r"_\d+$", "", layer.name)):
        names.update({id(layer): f"unnamed_{kind}_{place}" for place, layer in enumerate(group)})
    return names


def _number(name: str) -> int:
    ending = re.search(r"_(\d+)$", name)
    return int(ending[1]) if ending else 0
