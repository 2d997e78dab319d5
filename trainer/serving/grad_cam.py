"""Where a model looked: Grad-CAM over its last convolutional feature map, as a graph that an export can hold.

Owns: the maths and which layer it is taken from.  Does not own: the signature (``saved_model.py``), pictures
(``heatmap.py``).
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from trainer.models import registry

# Layers after the last convolution that keep its places, but not its meaning: after them a place says less (pooling)
# or every place has a share of the others (normalisation).
_PASSED_OVER = ("Pooling", "Norm", "Dropout", "Padding")


def feature_layer(model: keras.Model) -> keras.layers.Layer | None:
    """Return the layer whose output is the last convolutional feature map, or None if there is none.

    That is the last layer, nested models included, with a ``[N, h, w, c]`` output of more than one place, at or after
    the first convolution, that is no pooling, normalisation, dropout or padding: a convolution, or the activation or
    sum that follows it.
    """
    found, convolved = None, False
    for layer in _flat(model):
        convolved = convolved or "Conv" in type(layer).__name__
        shape: Any = getattr(layer.output, "shape", ()) if convolved else ()
        wanted = not any(word in type(layer).__name__ for word in _PASSED_OVER)
        # A nested model may take images of any size: what is unknown counts as more than one place.
        if len(shape) == 4 and (shape[1] or 2) * (shape[2] or 2) > 1 and wanted:
            found = layer
    return found


def _flat(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flat(layer)
        else:
            yield layer


def grad_cam(
    model: keras.Model, layer: keras.layers.Layer, pixels: tf.Tensor, of: tf.Tensor, size: int
) -> tf.Tensor:  # fmt: skip
    """Return ``[N, size, size] float32`` in [0, 1]: how much each place speaks for a class.

    Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, equations 1 and 2): the feature map's channels are weighted by
    the mean gradient of the class's score, added, and cut off at 0.  Their score is the logit; here it is the log
    odds ``log(p / (1 - p))``, because a softmax does not change when all logits do.  For two classes it is the
    difference of the logits.  Each map is divided by its largest value; one without evidence is all 0.

    Args:
        model: ends as ``models.build`` ends them, with a layer ``logits``.
        layer: of ``feature_layer``.
        pixels: ``[N, S, S, 3]`` in [0, 1].
        of: ``[N]`` integers, the class of each image.
        size: height and width of the maps, pixels.
    """
    with tf.GradientTape(watch_accessed_variables=False) as tape, _watched(layer, tape) as seen:
        logits = registry.logits_of(model)(pixels, training=False)
        chosen = tf.one_hot(of, logits.shape[-1], on_value=True, off_value=False, dtype=tf.bool)
        others = tf.where(chosen, tf.constant(float("-inf"), logits.dtype), logits)
        score = tf.reduce_sum(tf.where(chosen, logits, tf.zeros_like(logits)), 1) - tf.reduce_logsumexp(others, 1)
    (features,) = seen
    weights = tf.reduce_mean(tape.gradient(score, features), axis=[1, 2], keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * features, axis=-1, keepdims=True))
    heat = tf.image.resize(tf.cast(heat, tf.float32), [size, size])[..., 0]
    return tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=[1, 2], keepdims=True))


@contextlib.contextmanager
def _watched(layer: keras.layers.Layer, tape: tf.GradientTape) -> Iterator[list[tf.Tensor]]:
    """Yield a list that receives the layer's output when the block calls the model.

    A view of the model that ends at the layer would do for a flat model; the tensors of a nested one belong to a
    graph of their own.
    """
    seen: list[tf.Tensor] = []
    call = layer.call

    def watching(*arguments: Any, **options: Any) -> Any:
        output = call(*arguments, **options)
        tape.watch(output)
        seen.append(output)
        return output

    layer.call = watching
    try:
        yield seen
    finally:
        del layer.call
