"""Networks by name -> Keras models: pixels in [0, 1] to class probabilities.

A name is a module of ``networks/``, or ``module:function`` outside this package with the same signature.
Owns: where networks are found, and what comes before and after them.  Does not own: architectures (``networks/``),
layers (``layers.py``), what a network may not contain (``invariants.py``), precision, devices.
Keras is imported late, so that networks can be looked up without it.
"""

import dataclasses
import importlib
import os
import random
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from trainer.core import registry
from trainer.core.config import NETWORKS, ModelConfig
from trainer.core.errors import RequestError, StoppedEarly
from trainer.core.storage.transient import is_transient

if TYPE_CHECKING:
    import keras


@dataclasses.dataclass(frozen=True)
class Network:
    """One network.

    Attributes:
        build: ``(inputs [N, S, S, 3], config, kernel) -> features [N, F]``; every layer with a kernel takes
            ``kernel_initializer=kernel()``, in a fixed order, so that the initial weights depend on the seed alone.
        input_range: range of the inputs that it expects.
        minimum_image_size: side of the smallest image that it can shrink, pixels.
    """

    build: Callable[..., "keras.KerasTensor"]
    input_range: tuple[float, float] = (0.0, 1.0)
    minimum_image_size: int = 1


def network(name: str) -> Network:
    """Return a network by the value of ``--model``.

    Raises:
        RequestError: if a ``module:function`` cannot be imported, or is not a function.
    """
    if registry.is_dotted(name):
        return _outside(name)
    module = NETWORKS.load(name)
    return _of(module, module.build)


def _outside(name: str) -> Network:
    """Return a network outside this package."""
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:  # A console script does not look there; last, so that it hides nothing.
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except StoppedEarly:
        raise
    except Exception as error:  # The module is not ours: importing it can fail in any way.
        if is_transient(error):
            raise
        raise RequestError(
            f"--model={name}: expected a module that can be imported, received {error!r}; start in its folder or set "
            "PYTHONPATH"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        received = "none of that name" if function is None else type(function).__name__
        raise RequestError(
            f"--model={name}: expected a function build(inputs, config, kernel) in {module_name}, received {received}"
        )
    return _of(module, function)


def _of(module: Any, function: Callable[..., "keras.KerasTensor"]) -> Network:
    """Return a network with what its module says of it."""
    return Network(
        function,
        getattr(module, "INPUT_RANGE", Network.input_range),
        getattr(module, "MINIMUM_IMAGE_SIZE", Network.minimum_image_size),
    )


def build(config: ModelConfig, *, num_classes: int, image_size: int, seed: int) -> "keras.Model":
    """Build the model with fresh weights, which depend on the seed alone.

    Input ``[N, S, S, 3]`` in [0, 1]; output ``probabilities [N, C] float32``.  The layer before the softmax is named
    ``logits`` (float32), so that a loss can be computed without the softmax's rounding (``logits_of``).

    Raises:
        RequestError: if the network cannot be built for this image size, or breaks an invariant.
    """
    import keras

    from trainer.models import invariants, preprocess

    chosen = network(config.model)
    if image_size < chosen.minimum_image_size:
        raise RequestError(
            f"--image_size: expected a number at least {chosen.minimum_image_size} for --model={config.model}; "
            f"received {image_size}"
        )
    random_numbers = random.Random(seed)  # Keras asks Python's global generator, from which other threads draw as well.

    def kernel() -> keras.Initializer:
        return keras.initializers.GlorotUniform(random_numbers.randint(1, 10**9))

    inputs = keras.Input([image_size, image_size, 3], name="pixels")
    try:
        features = chosen.build(preprocess.to_input_range(inputs, chosen.input_range), config, kernel)
    except RequestError:
        raise
    except ValueError as error:
        raise RequestError(
            f"--image_size: expected an image that --model={config.model} can shrink, received {image_size}: {error}"
        ) from error
    invariants.check_features(config.model, features)
    # The last layers stay in float32 under mixed precision: float16 probabilities are too coarse for a loss.
    logits = keras.layers.Dense(num_classes, kernel_initializer=kernel(), dtype="float32", name="logits")(features)
    outputs = keras.layers.Activation("softmax", dtype="float32", name="probabilities")(logits)
    model = keras.Model(inputs, outputs, name=re.sub(r"\W", "_", config.model))
    invariants.check(config.model, model)
    return model


def logits_of(model: "keras.Model") -> "keras.Model":
    """Return a view of the model (same weights) that ends before the softmax."""
    import keras

    return keras.Model(model.input, model.get_layer("logits").output, name=f"{model.name}_logits")
