"""A convolution with ReLU and the max-pooling after it, in the order that costs less in training.

The maximum of rectified values is the rectified maximum, and so is its gradient, bit by bit: where the largest value is
positive it goes to the same place, and elsewhere it is zero.  After pooling, a quarter of the values is left to rectify
forward and backward.  Both layers keep the class names and arguments of Keras's; exports and explanations, which do not
train, see the convolution rectified as they always did.
"""

from typing import Any

import keras

from trainer.models import max_pooling


@keras.saving.register_keras_serializable("deepdetect")
class Conv2D(keras.layers.Conv2D):  # type: ignore[misc]
    """Convolution with ReLU; in training it leaves the ReLU to the ``MaxPooling2D`` after it, its only reader."""

    def __init__(self, *arguments: Any, activation: str = "relu", **options: Any) -> None:
        assert activation == "relu", "another function cannot change places with the maximum"
        super().__init__(*arguments, activation=activation, **options)

    def call(self, inputs: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:
        """Return ``[b, H, W, C]``."""
        if not training:
            return super().call(inputs)
        # In the form that Keras gives to TensorFlow's fused kernels.
        bias = keras.ops.reshape(self.bias, [1, 1, 1, self.filters])
        return keras.ops.add(self.convolution_op(inputs, self.kernel), bias)


@keras.saving.register_keras_serializable("deepdetect")
class MaxPooling2D(max_pooling.MaxPooling2D):
    """Max-pooling of what ``Conv2D`` returns."""

    def call(self, inputs: keras.KerasTensor, training: bool = False) -> keras.KerasTensor:
        """Return the largest values, ``[b, H', W', C]``."""
        largest = super().call(inputs, training)
        return keras.ops.relu(largest) if training else largest
