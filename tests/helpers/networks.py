"""Small networks for ``--model=tests.helpers.networks:NAME``."""

import sys

import keras
import tensorflow as tf

from trainer.models import backbones, efficientnet_lite
from trainer.models.layers import ShardBatchNorm, SlotDropout


def tiny(inputs, config, kernel):
    """Return the features of one convolution with batch normalisation, after dropout: traced in a second."""
    return SlotDropout(config.dropout, salt=0, name="dropout")(plain(inputs, config, kernel))


def plain(inputs, config, kernel):
    """Return the same without dropout."""
    x = keras.layers.Conv2D(8, 5, strides=4, kernel_initializer=kernel(), name="conv")(inputs)
    x = keras.layers.Activation("relu", name="relu")(ShardBatchNorm(name="norm")(x))
    return keras.layers.Flatten(name="flatten")(keras.layers.MaxPooling2D(5, name="pool")(x))


def through_text(inputs, config, kernel):
    """Return the features of ``plain`` for pixels that were text in between, which XLA cannot compile."""
    return plain(_ThroughText(name="text")(inputs), config, kernel)


@keras.saving.register_keras_serializable("tests")
class _ThroughText(keras.layers.Layer):
    def call(self, inputs):
        return tf.reshape(tf.strings.to_number(tf.strings.as_string(inputs, precision=9)), tf.shape(inputs))

    def compute_output_shape(self, shape):
        return shape


def small_lite(inputs, config, kernel):
    """Return the features of an EfficientNet-Lite of few and narrow blocks."""
    x = efficientnet_lite.features(inputs, kernel, width=0.2, depth=0.1)
    return SlotDropout(config.dropout, salt=0, name="dropout")(x)


def small_convnext(inputs, config, kernel):
    """Return the features of a ConvNeXt of few and narrow blocks, which has every kind of layer that is replaced."""

    def application(**options):
        return sys.modules[keras.applications.ConvNeXtTiny.__module__].ConvNeXt(
            [1, 1, 1, 1], [8, 8, 16, 16], drop_path_rate=0.1, include_top=False, weights=None, name="small_convnext",
            weights_name="", **{name: options[name] for name in ("input_shape", "pooling")},
        )  # fmt: skip

    return backbones.features(application, inputs, config.dropout, kernel)
