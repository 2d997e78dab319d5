"""Grad-CAM over a model's last convolutional feature map, as a graph that an export can hold.

Owns: the maths, and the choice of the layer.  Does not own: the signature (``saved_model.py``), pictures
(``heatmap.py``).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from trainer.models import registry

# Layers after the last convolution that keep its positions but not their meaning: pooling loses resolution, and
# normalisation mixes the positions.
_SKIPPED_LAYERS = ("Pooling", "Norm", "Dropout", "Padding")


def feature_layer(model: keras.Model) -> keras.layers.Layer | None:
    """Return the layer whose output is the last convolutional feature map, or None if there is none.

    That is the last layer, nested models included, at or after the first convolution, with a ``[N, h, w, c]`` output of
    more than one position, that is not pooling, normalisation, dropout or padding.  So it is a convolution, or the
    activation or sum that follows one.
    """
    last_map = None
    after_convolution = False
    for layer in _flat(model):
        kind = type(layer).__name__
        after_convolution = after_convolution or "Conv" in kind
        has_one_output = after_convolution and isinstance(layer.output, keras.KerasTensor)
        shape: Any = layer.output.shape if has_one_output else ()
        is_skipped = any(word in kind for word in _SKIPPED_LAYERS)
        # A nested model may take images of any size: an unknown dimension counts as more than one position.
        if len(shape) == 4 and (shape[1] or 2) * (shape[2] or 2) > 1 and not is_skipped:
            last_map = layer
    return last_map


def _flat(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield the layers of a model and of the models nested in it, in order."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flat(layer)
        else:
            yield layer


def grad_cam(
    model: keras.Model, layer: keras.layers.Layer, pixels: tf.Tensor, of: tf.Tensor, size: int
) -> tf.Tensor:  # fmt: skip
    """Return ``[N, size, size] float32`` in [0, 1]: how much each position contributes to a class.

    Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2): the channels of the feature map are weighted
    by the mean gradient of the class's score, added, and clipped at 0.  The paper's score is the logit; here it is the
    log odds ``log(p / (1 - p))``, because adding the same number to all logits does not change a softmax.  For two
    classes that is the difference of the logits.  Each map is divided by its maximum; one without evidence is all 0.

    Args:
        model: as ``registry.build`` makes it, with a layer ``logits``.
        layer: from ``feature_layer``.
        pixels: ``[N, S, S, 3]`` in [0, 1].
        of: ``[N]`` integers, the class to explain for each image.
        size: height and width of the maps, pixels.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape, _watched(layer, tape) as outputs:
        logits = registry.logits_of(model)(pixels, training=False)
        # log(p / (1 - p)) = logit - logsumexp(other logits).
        chosen = tf.one_hot(of, logits.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
        others = tf.where(chosen, tf.constant(float("-inf"), logits.dtype), logits)
        score = tf.reduce_sum(tf.where(chosen, logits, tf.zeros_like(logits)), 1) - tf.reduce_logsumexp(others, 1)
    # Equation 1: the weight of a channel is its mean gradient.  Equation 2: the weighted sum, where it is positive.
    (features,) = outputs
    weights = tf.reduce_mean(tape.gradient(score, features), axis=[1, 2], keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1, keepdims=True))
    heat = tf.image.resize(tf.cast(heat, tf.float32), [size, size])[..., 0]
    return tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=[1, 2], keepdims=True))


@contextlib.contextmanager
def _watched(layer: keras.layers.Layer, tape: tf.GradientTape) -> Iterator[list[tf.Tensor]]:
    """Yield a list that receives the layer's output when the block calls the model.

    A model that ends at the layer would be enough for a flat model, but the tensors of a nested model belong to a graph
    of their own.
    """
    outputs: list[tf.Tensor] = []
    call = layer.call

    def watching(*arguments: Any, **options: Any) -> Any:
        output = call(*arguments, **options)
        tape.watch(output)
        outputs.append(output)
        return output

    layer.call = watching
    try:
        yield outputs
    finally:
        del layer.call
