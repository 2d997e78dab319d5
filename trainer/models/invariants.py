"""What a network may not contain, because a job could then not be resumed or spread over devices exactly.

Each rule looks at all layers, those of nested models too, and refuses by name with what to use instead.
Owns: these rules.  Does not own: how the layers of ours keep them (``layers.py``).
"""

import collections
from collections.abc import Iterator
from typing import Any

import keras

from trainer.core.errors import RequestError
from trainer.models import layers

_NOISE = (keras.layers.Dropout, keras.layers.GaussianDropout, keras.layers.GaussianNoise, keras.layers.AlphaDropout)


def check_features(model_name: str, features: Any) -> None:
    """Refuse what is not a vector of features for each image.

    Raises:
        RequestError: with what the network returned.
    """
    shape = getattr(features, "shape", None)
    if not isinstance(features, keras.KerasTensor) or len(features.shape) != 2:
        received = type(features).__name__ if shape is None else f"the shape {tuple(shape)}"
        raise RequestError(
            f"--model={model_name}: expected features of shape (None, F), received {received}; end the network with "
            "keras.layers.Flatten or a global pooling"
        )


def check(model_name: str, model: keras.Model) -> None:
    """Refuse a model that breaks an invariant of training.

    Raises:
        RequestError: naming the first layer that does, and the remedy.
    """
    for problem in _problems(model):
        raise RequestError(f"--model={model_name}: {problem}")


def _problems(model: keras.Model) -> Iterator[str]:
    everything = list(layers.all_layers(model))
    for layer in everything:
        yield from _own_problems(layer)
    yield from _equal_salts(everything)
    yield from _unsteady_names(model, everything)


def _own_problems(layer: keras.layers.Layer) -> Iterator[str]:
    """Yield what is wrong with one layer on its own."""
    received = f"received {type(layer).__name__} {layer.name!r}"
    if isinstance(layer, keras.layers.BatchNormalization):
        yield (
            f"expected batch normalisation that padding and devices do not change, {received}; use "
            "trainer.models.layers.ShardBatchNorm"
        )
    if isinstance(layer, _NOISE) or _holds_generator(layer):
        yield (
            f"expected noise that is a function of (seed, step, slot), {received}, which keeps a hidden state; use "
            "trainer.models.layers.SlotDropout"
        )
    if _is_unseeded(layer):
        yield f"expected initial weights that depend on the seed alone, {received}; give it kernel_initializer=kernel()"


def _holds_generator(layer: keras.layers.Layer) -> bool:
    return any(isinstance(value, keras.random.SeedGenerator) for value in vars(layer).values())


def _is_unseeded(layer: keras.layers.Layer) -> bool:
    """Return whether one of a layer's initializers takes its seed from Python's global generator."""
    initializers = [value for value in vars(layer).values() if isinstance(value, keras.initializers.Initializer)]
    return any(initializer.get_config().get("seed", 0) is None for initializer in initializers)


def _equal_salts(everything: list[keras.layers.Layer]) -> Iterator[str]:
    """Yield dropout layers that would draw the same mask."""
    salts = collections.defaultdict(list)
    for layer in everything:
        if isinstance(layer, layers.SlotDropout):
            salts[layer.salt].append(layer.name)
    for salt, names in salts.items():
        if len(names) > 1:
            yield f"expected a salt of its own for each SlotDropout, received salt={salt} for {', '.join(names)}"


def _unsteady_names(model: keras.Model, everything: list[keras.layers.Layer]) -> Iterator[str]:
    """Yield variables by whose names a checkpoint could not find them again."""
    paths = [variable.path for variable in model.variables]
    for path, count in collections.Counter(paths).items():
        if count > 1:
            yield f"expected a name of its own for each variable, received {path!r} {count} times; name the layers"
    numbered = {layer.name for layer in everything if layers.automatic_name(layer)}
    for path in paths:
        if numbered & set(path.split("/")[:-1]):
            yield (
                f"expected a name for each layer with weights, received the automatic one of {path!r}, which changes "
                "from start to start; give the layer name=..."
            )
