"""ModelConfig -> Keras model: pixels in [0, 1] to class probabilities.

Owns: architectures, how dropout draws its noise and batch normalisation its statistics.
Does not own: precision, devices, weights' later life.
"""

import contextlib
import dataclasses
import functools
import math
import random
import threading
from collections.abc import Callable, Iterator

import keras
import tensorflow as tf

from trainer.core.config import ModelConfig
from trainer.core.errors import RequestError


@dataclasses.dataclass(frozen=True)
class Shard:
    """What a layer may know of the examples that are being trained on, beside their features.

    Attributes:
        seed: [2] int64, a function of (job seed, step).
        first: int32 scalar, the first slot in the global batch.
        batch_size: slots of the global batch.
        weights: [b] float32, 0 for slots that are not real.
        statistics: filled by the layers: their batch statistics, by layer name.
    """

    seed: tf.Tensor
    first: tf.Tensor
    batch_size: int
    weights: tf.Tensor
    statistics: dict[str, tf.Tensor] = dataclasses.field(default_factory=dict)


# Each replica is traced in a thread of its own, so what a thread sets is what its replica sees.
_current = threading.local()


@contextlib.contextmanager
def training_on(shard: Shard) -> Iterator[None]:
    """Tell the layers that are traced inside about their shard."""
    _current.shard = shard
    try:
        yield
    finally:
        _current.shard = None


def _shard() -> Shard:
    shard: Shard | None = getattr(_current, "shard", None)
    assert shard is not None, "training outside of models.training_on()"
    return shard


@keras.saving.register_keras_serializable("deepdetect")
class SlotDropout(keras.layers.Layer):  # type: ignore[misc]
    """Dropout whose mask depends on (seed, step, slot of the global batch) alone.

    Keras's own layer keeps hidden generator state, which ``tf.train.Checkpoint`` does not save, and draws by
    replica; here an example meets the same mask on one device and on eight, before and after a restart.

    Args:
        rate: share of units set to zero; the others are scaled by ``1 / (1 - rate)``.
        salt: tells the layers of one model apart.
    """

    def __init__(self, rate: float, salt: int, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.rate, self.salt = rate, salt

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the inputs, masked when training; ``[b, ...]`` in their own dtype."""
        if not training or not self.rate:
            return inputs
        source = _shard()
        shape = [source.batch_size, *inputs.shape[1:]]
        seed = tf.random.fold_in(source.seed, self.salt, alg="philox")
        # Integers, because XLA turns the generator's bits into other floats than the plain kernel does.
        bits = tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=tf.int32, alg="philox")
        own = tf.slice(bits, [source.first] + [0] * (len(shape) - 1), [inputs.shape[0], *([-1] * (len(shape) - 1))])
        dropped = own < round(self.rate * 2**32) - 2**31
        return tf.where(dropped, tf.zeros_like(inputs), inputs / (1.0 - self.rate))

    def get_config(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "rate": self.rate, "salt": self.salt}


@keras.saving.register_keras_serializable("deepdetect")
class ShardBatchNorm(keras.layers.Layer):  # type: ignore[misc]
    """Batch normalisation over the real examples of a shard; padding does not count.

    Keras's own layer normalises over a replica's batch, padding included, and lets every replica keep moving
    averages of its own (an empty one makes them NaN).  Here the batch statistics are handed to ``train_step.py``, which
    averages them over all shards and replicas before it moves ``moving [2, C]`` (mean and variance).  Momentum and
    epsilon are Keras's defaults.
    """

    MOMENTUM, EPSILON = 0.99, 1e-3

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Make the variables for ``[..., C]`` inputs."""
        channels = input_shape[-1]
        self.gamma = self.add_weight(name="gamma", shape=[channels], initializer="ones", autocast=False)
        self.beta = self.add_weight(name="beta", shape=[channels], initializer="zeros", autocast=False)
        self.moving = self.add_weight(
            name="moving", shape=[2, channels], initializer=_zero_mean_unit_variance, trainable=False, autocast=False
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the normalised inputs, ``[b, ..., C]`` in their own dtype."""
        values = tf.cast(inputs, tf.float32)
        moments = self._moments(values) if training else tf.convert_to_tensor(self.moving)
        if training:
            _shard().statistics[self.name] = moments
        scale = self.gamma * tf.math.rsqrt(moments[1] + self.EPSILON)
        return tf.cast((values - moments[0]) * scale + self.beta, inputs.dtype)

    def _moments(self, values: tf.Tensor) -> tf.Tensor:
        """Return ``[2, C]``: mean and variance over the real examples and all positions."""
        weights = _shard().weights
        weights = tf.reshape(weights, [-1] + [1] * (len(values.shape) - 1))
        axes = list(range(len(values.shape) - 1))
        positions = math.prod(values.shape[1:-1])
        count = tf.maximum(tf.reduce_sum(weights) * positions, 1.0)
        mean = tf.reduce_sum(values * weights, axes) / count
        variance = tf.reduce_sum(tf.square(values - mean) * weights, axes) / count
        return tf.stack([mean, variance])


def _zero_mean_unit_variance(shape: tuple[int, ...], dtype: str | None = None) -> tf.Tensor:
    return tf.stack([tf.zeros(shape[1:], dtype), tf.ones(shape[1:], dtype)])


def build(config: ModelConfig, *, num_classes: int, image_size: int, seed: int) -> keras.Model:
    """Build the model with fresh weights, which depend on the seed alone.

    Input ``[N, S, S, 3]`` in [0, 1]; output ``probabilities [N, C] float32``.  The layer before the softmax is named
    ``logits`` (float32), so that a loss can be computed without the softmax's rounding (``logits_of``).

    Raises:
        RequestError: if the image is too small for the architecture.
    """
    draw = random.Random(seed)  # Keras asks Python's global generator, from which other threads draw as well.

    def kernel() -> keras.Initializer:
        return keras.initializers.GlorotUniform(draw.randint(1, 10**9))

    inputs = keras.Input([image_size, image_size, 3], name="pixels")
    try:
        features = _ARCHITECTURES[config.model](inputs, config, kernel)
    except ValueError as error:
        raise RequestError(
            f"--image_size: expected an image that --model={config.model} can shrink, received {image_size}: {error}"
        ) from error
    # The last layers stay in float32 under mixed precision: float16 probabilities are too coarse for a loss.
    logits = keras.layers.Dense(num_classes, kernel_initializer=kernel(), dtype="float32", name="logits")(features)
    outputs = keras.layers.Activation("softmax", dtype="float32", name="probabilities")(logits)
    return keras.Model(inputs, outputs, name=config.model)


def logits_of(model: keras.Model) -> keras.Model:
    """Return a view of the model (same weights) that ends before the softmax."""
    return keras.Model(model.input, model.get_layer("logits").output, name=f"{model.name}_logits")


def _cnn(
    inputs: keras.KerasTensor, config: ModelConfig, kernel: Callable[[], keras.Initializer], batch_norm: bool = False
) -> keras.KerasTensor:
    """Apply the notebook's network: four blocks of 3x3 convolution and pooling, then 256 units."""
    x = inputs
    for block, filters in enumerate((32, 32, 64, 128), 1):
        x = keras.layers.Conv2D(filters, 3, activation="relu", kernel_initializer=kernel(), name=f"conv{block}")(x)
        x = ShardBatchNorm(name=f"norm{block}")(x) if batch_norm else x
        x = keras.layers.MaxPooling2D(2, name=f"pool{block}")(x)
    x = keras.layers.Flatten(name="flatten")(x)
    x = keras.layers.Dense(256, activation="relu", kernel_initializer=kernel(), name="hidden")(x)
    x = ShardBatchNorm(name="norm_hidden")(x) if batch_norm else x
    return SlotDropout(config.dropout, salt=0, name="dropout")(x)


_ARCHITECTURES: dict[str, Callable[..., keras.KerasTensor]] = {
    "cnn": _cnn,
    "cnn_bn": functools.partial(_cnn, batch_norm=True),
}
