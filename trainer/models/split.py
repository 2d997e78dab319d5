"""A model cut in two: the backbone that turns pixels into features, and the head that turns these into classes.

The cut is what the last layer sees, before the dropout that stands in front of it.  Both parts are views of the model:
they have the same layers and the same variables.
"""

import dataclasses

import keras

from trainer.models.layers import SlotDropout


@dataclasses.dataclass(frozen=True)
class Parts:
    """The parts of a model.

    Attributes:
        backbone: pixels ``[N, S, S, 3]`` in [0, 1] to features ``[N, F]``.
        head: features to probabilities ``[N, C]``.
        head_logits: features to logits ``[N, C]``, the head without the softmax.
    """

    backbone: keras.Model
    head: keras.Model
    head_logits: keras.Model


def split(model: keras.Model) -> Parts:
    """Cut a model of ``registry.build``."""
    features = _features(model)
    return Parts(
        keras.Model(model.input, features, name=f"{model.name}_backbone"),
        keras.Model(features, model.output, name=f"{model.name}_head"),
        keras.Model(features, model.get_layer("logits").output, name=f"{model.name}_head_logits"),
    )


def _features(model: keras.Model) -> keras.KerasTensor:
    last = model.get_layer("logits").input
    for layer in model.layers:
        if isinstance(layer, SlotDropout) and layer.output is last:
            return layer.input
    return last
