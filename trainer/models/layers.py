"""The layers and helpers that networks are built from: dropout and batch normalisation that restarts do not change.

Owns: how dropout draws its noise and batch normalisation its statistics, and how a model's layers are walked.
Does not own: architectures (``networks/``), what the train step does with the statistics.
"""

import contextlib
import dataclasses
import math
import re
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

# Makes the initializer of the next kernel; its seed is drawn from the job's.
Kernel = Callable[[], keras.Initializer]


def he_normal(kernel: Kernel) -> keras.Initializer:
    """Return the initializer of a convolution before a ReLU (He et al. 2015, arXiv:1502.01852), seeded by ``kernel``.

    Counted by outputs, because that is right for convolutions of each channel as well.
    """
    return keras.initializers.VarianceScaling(2.0, "fan_out", "truncated_normal", seed=kernel().seed)


@dataclasses.dataclass(frozen=True)
class Shard:
    """What a layer may know about the examples it is trained on, besides their features.

    Attributes:
        seed: [2] int64, a function of (job seed, step).
        first: int32 scalar, the first slot in the global batch.
        batch_size: slots of the global batch.
        weights: [b] float32, 0 for slots that are not real.
        statistics: filled by the layers: their batch statistics, by ``ShardBatchNorm.key``.
    """

    seed: tf.Tensor
    first: tf.Tensor
    batch_size: int
    weights: tf.Tensor
    statistics: dict[str, tf.Tensor] = dataclasses.field(default_factory=dict)


# Each replica is traced in a thread of its own, so what a thread sets is what its replica sees.
_current = threading.local()


@contextlib.contextmanager
def training_on(shard: Shard, *, compiled: bool = False) -> Iterator[None]:
    """Provide the layers that are traced inside with their shard, and with whether XLA compiles them."""
    _current.shard, _current.compiled = shard, compiled
    try:
        yield
    finally:
        _current.shard, _current.compiled = None, False


def is_compiled() -> bool:
    """Return whether XLA compiles what is traced now for training, so that operations that it handles well pay."""
    return getattr(_current, "compiled", False)


def _shard() -> Shard:
    shard: Shard | None = getattr(_current, "shard", None)
    assert shard is not None, "training outside of layers.training_on()"
    return shard


@keras.saving.register_keras_serializable("deepdetect")
class SlotDropout(keras.layers.Layer):  # type: ignore[misc]
    """Dropout whose mask depends on (seed, step, slot of the global batch) alone.

    Keras's own layer keeps hidden generator state, which ``tf.train.Checkpoint`` does not save, and draws by
    replica; here an example meets the same mask on one device and on eight, before and after a restart.

    Args:
        rate: share of units set to zero; the others are scaled by ``1 / (1 - rate)``.
        salt: distinguishes the layers of one model.
        whole: whether an example's units are dropped all or none: stochastic depth, for a branch beside a shortcut.
    """

    def __init__(self, rate: float, salt: int, whole: bool = False, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.rate = rate
        self.salt = salt
        self.whole = whole

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the inputs, masked when training; ``[b, ...]`` in their own dtype."""
        if not training or not self.rate:
            return inputs
        shard = _shard()
        # The mask of the whole global batch, so that a slot's part is the same on any number of devices.
        units = [1] * (len(inputs.shape) - 1) if self.whole else inputs.shape[1:]
        shape = [shard.batch_size, *units]
        seed = tf.random.fold_in(shard.seed, self.salt, alg="philox")
        # Integers, because XLA turns the generator's bits into other floats than the plain kernel does.
        bits = tf.random.stateless_uniform(shape, seed, minval=None, maxval=None, dtype=tf.int32, alg="philox")
        # Of these, the slots of this shard.
        own = tf.slice(bits, [shard.first] + [0] * (len(shape) - 1), [inputs.shape[0], *([-1] * (len(shape) - 1))])
        # A share of ``rate`` of all 2**32 integers lies below this bound.
        dropped = own < round(self.rate * 2**32) - 2**31
        return tf.where(dropped, tf.zeros_like(inputs), inputs / (1.0 - self.rate))

    def get_config(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "rate": self.rate, "salt": self.salt, "whole": self.whole}


@keras.saving.register_keras_serializable("deepdetect")
class ShardBatchNorm(keras.layers.Layer):  # type: ignore[misc]
    """Batch normalisation over the real examples of a shard; padding does not count.

    Keras's own layer normalises over a replica's batch, padding included, and lets every replica keep moving
    averages of its own (an empty one makes them NaN).  Here ``train_step.py`` gets the batch statistics and averages
    them over all shards and replicas before it moves ``moving [2, C]`` (mean and variance, see ``momentum_at``).  A
    frozen layer (``trainable = False``) uses its moving averages and leaves them as they are.  A layer may be called
    once in a model: a second call would overwrite its statistics.

    Args:
        momentum: weight of the old averages at each update.  Keras's .99 needs hundreds of steps to be true.
        epsilon: added to the variance; the default is Keras's.
    """

    def __init__(self, momentum: float = 0.9, epsilon: float = 1e-3, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.momentum = momentum
        self.epsilon = epsilon
        self.settled = False  # Whether the averages are those of other weights, and count from the first update on.

    @property
    def key(self) -> str:
        """The name of its statistics; unlike the layer's own, unique over nested models, as checkpoints need it so."""
        return str(self.moving.path)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the variables for ``[..., C]`` inputs."""
        channels = input_shape[-1]
        self.gamma = self.add_weight(name="gamma", shape=[channels], initializer="ones", autocast=False)
        self.beta = self.add_weight(name="beta", shape=[channels], initializer="zeros", autocast=False)
        self.moving = self.add_weight(
            name="moving", shape=[2, channels], initializer=_zero_mean_unit_variance, trainable=False, autocast=False
        )

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the normalised inputs, ``[b, ..., C]`` in their own dtype."""
        values = tf.cast(inputs, tf.float32)
        gamma, beta = tf.convert_to_tensor(self.gamma), tf.convert_to_tensor(self.beta)
        if not (training and self.trainable):
            scale, shift = _scale_and_shift(tf.convert_to_tensor(self.moving), gamma, beta, self.epsilon)
            return tf.cast(values * scale + shift, inputs.dtype)
        shard = _shard()
        assert self.key not in shard.statistics, f"batch normalisation {self.key} is called twice in one model"
        out, shard.statistics[self.key] = _normalised(values, gamma, beta, shard.weights, self.epsilon)
        return tf.cast(out, inputs.dtype)

    def weight_of_old(self, updates: tf.Tensor) -> tf.Tensor:
        """Return what the old averages weigh at an update, this one counted."""
        return tf.constant(self.momentum) if self.settled else momentum_at(self.momentum, updates)

    def get_config(self) -> dict[str, object]:
        """Return the constructor's arguments."""
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}


def _normalised(
    values: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, weights: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the outputs and ``[2, C]``, mean and variance over the real examples and all positions.

    The gradient is written out, because automatic differentiation of these lines takes half of a train step.
    """
    # Padding weighs 0; in an empty shard the count of 1 keeps the statistics finite, and they are not used.
    positions = list(range(1, len(values.shape) - 1))
    count = tf.maximum(tf.reduce_sum(weights) * math.prod(values.shape[1:-1]), 1.0)
    by_example = tf.reshape(weights, [-1] + [1] * (len(values.shape) - 1))

    def total(of_each: tf.Tensor) -> tf.Tensor:
        """Return the sum ``[C]`` over the real examples and all positions."""
        return tf.reduce_sum(tf.reduce_sum(of_each, positions) * weights[:, None], 0)

    @tf.custom_gradient
    def normalise(x: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor) -> Any:
        mean = total(x) / count
        moments = tf.stack([mean, total(tf.math.squared_difference(x, mean)) / count])
        inverse = tf.math.rsqrt(moments[1] + epsilon)
        scale, shift = _scale_and_shift(moments, gamma, beta, epsilon)

        def gradient(upstream: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            """Return the gradients of Ioffe and Szegedy 2015, arXiv:1502.03167, section 3."""
            of_beta = total(upstream)
            of_gamma = (total(upstream * x) - mean * of_beta) * inverse
            slope = scale * inverse * of_gamma / count
            common = x * (by_example * slope) + by_example * (scale * of_beta / count - slope * mean)
            return upstream * scale - common, of_gamma, of_beta

        return (x * scale + shift, moments), gradient

    out: tuple[tf.Tensor, tf.Tensor] = normalise(values, gamma, beta)
    return out


def _scale_and_shift(
    moments: tf.Tensor, gamma: tf.Tensor, beta: tf.Tensor, epsilon: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the two ``[C]`` with which normalisation is one multiplication and one addition."""
    scale = gamma * tf.math.rsqrt(moments[1] + epsilon)
    return scale, beta - moments[0] * scale


def momentum_at(momentum: float, updates: tf.Tensor) -> tf.Tensor:
    """Return the weight of the old averages at an update, such that their initial values weigh nothing.

    This is the debiased average of Kingma and Ba 2014, "Adam", arXiv:1412.6980, section 3, as a recursion.

    Args:
        momentum: of the layer.
        updates: how many there have been, this one included; at least 1.
    """
    count = tf.cast(updates, tf.float32)
    return momentum * (1.0 - momentum ** (count - 1.0)) / (1.0 - momentum**count)


def _zero_mean_unit_variance(shape: tuple[int, ...], dtype: str | None = None) -> tf.Tensor:
    return tf.stack([tf.zeros(shape[1:], dtype), tf.ones(shape[1:], dtype)])


def all_layers(root: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Yield a layer and all layers inside it at any depth, each once: of nested models, and attributes of layers."""
    return _walk(root, set())


def automatic_name(layer: keras.layers.Layer) -> bool:
    """Return whether Keras named the layer: by its class, and a number that counts those of the process."""
    words = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", type(layer).__name__)
    words = re.sub("([a-z])([A-Z])", r"\1_\2", words).lower()
    return re.fullmatch(rf"{words}(_\d+)?", layer.name) is not None


def batch_norms(model: keras.Model) -> list[ShardBatchNorm]:
    """Return every ``ShardBatchNorm`` of a model, those of nested models and layers too."""
    return [layer for layer in all_layers(model) if isinstance(layer, ShardBatchNorm)]


def settle_averages(model: keras.Model, names: Collection[str]) -> None:
    """Say which moving averages, by their variables' paths, are true before the first update; the others are initial.

    Must be called before a step is traced.
    """
    for norm in batch_norms(model):
        norm.settled = norm.key in names


def settled_averages(model: keras.Model) -> list[str]:
    """Return what ``settle_averages`` said."""
    return [norm.key for norm in batch_norms(model) if norm.settled]


def trained_batch_norms(model: keras.Model) -> list[ShardBatchNorm]:
    """Return those that are not frozen: they normalise by the statistics of the batch, and move their averages."""
    return [layer for layer in batch_norms(model) if layer.trainable]


def dense_kernels(model: keras.Model) -> list[keras.Variable]:
    """Return the kernels ``[inputs, units]`` of a model's dense layers that are not frozen."""
    return [layer.kernel for layer in all_layers(model) if isinstance(layer, keras.layers.Dense) and layer.trainable]


def _walk(layer: keras.layers.Layer, seen: set[int]) -> Iterator[keras.layers.Layer]:
    if id(layer) in seen:
        return
    seen.add(id(layer))
    yield layer
    # A model's own list comes first and keeps the order of its graph; other layers hold theirs as attributes.
    inner = layer.layers if isinstance(layer, keras.Model) else ()
    for child in _layers_in([inner, *vars(layer).values()]):
        yield from _walk(child, seen)


def _layers_in(values: Iterable[object]) -> Iterator[keras.layers.Layer]:
    """Yield the layers among values and in the lists, tuples and dictionaries among them."""
    for value in values:
        if isinstance(value, keras.layers.Layer):
            yield value
        elif isinstance(value, Mapping):
            yield from _layers_in(value.values())
        elif isinstance(value, (list, tuple)):
            yield from _layers_in(value)
