"""Read numbers and pieces of encoded images with TensorFlow's operations, for the graph of an export."""

import tensorflow as tf


def first_bytes(data: tf.Tensor, count: int) -> tf.Tensor:
    """Return the first ``count`` bytes, zero-padded, because ``substr`` fails beyond the end."""
    padded = tf.strings.join([tf.strings.substr(data, 0, count), tf.constant(b"\0" * count)])
    return tf.strings.substr(padded, 0, count)


def piece(data: tf.Tensor, at: tf.Tensor | int, count: tf.Tensor | int) -> tf.Tensor:
    """Return ``count`` bytes from ``at``, which lies within the data; fewer at the end."""
    both = (tf.constant(each, tf.int64) if isinstance(each, int) else tf.cast(each, tf.int64) for each in (at, count))
    return tf.strings.substr(data, *both)


def digits(data: tf.Tensor, at: tf.Tensor | int, count: tf.Tensor | int) -> tf.Tensor:
    """Return the bytes from ``at``, int64; fewer at the end."""
    return tf.cast(tf.io.decode_raw(piece(data, at, count), tf.uint8), tf.int64)


def number(data: tf.Tensor, at: tf.Tensor | int, count: int, *, big: tf.Tensor | bool = False) -> tf.Tensor:
    """Return ``count`` bytes from ``at``, which must all be there, as an unsigned number, int64."""
    return value(tf.ensure_shape(digits(data, at, count), [count]), big=big)


def value(numbers: tf.Tensor, *, big: tf.Tensor | bool = False) -> tf.Tensor:
    """Return bytes ``[..., count]`` as unsigned numbers ``[...]``; big: the most significant comes first."""
    weights = [256**power for power in range(numbers.shape[-1])]
    if isinstance(big, bool):
        return tf.reduce_sum(numbers * tf.constant(weights[::-1] if big else weights, tf.int64), axis=-1)
    return tf.reduce_sum(
        numbers * tf.where(big, *(tf.constant(order, tf.int64) for order in (weights[::-1], weights))), -1
    )


def starts_with(data: tf.Tensor, prefix: bytes, at: tf.Tensor | int = 0) -> tf.Tensor:
    """Return whether ``prefix`` stands at ``at``, which lies within the data."""
    return piece(data, at, len(prefix)) == prefix


def behind(data: tf.Tensor, count: tf.Tensor | int) -> tf.Tensor:
    """Return the data without its first ``count`` bytes."""
    length = tf.strings.length(data)
    return piece(data, tf.minimum(count, length), length)
