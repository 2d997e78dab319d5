"""Which example each slot of a batch holds: a function of (seed, step), never a state.

The global stream of a job is one permutation of the examples per pass.  Step ``k`` holds the same examples whatever the
number of devices, so resuming a job only means to start at another ``k``.
"""

import dataclasses
import math

import tensorflow as tf

from trainer.data.readers import BLOCK, WINDOW


@dataclasses.dataclass(frozen=True)
class Order:
    """A stream of global batches over ``size`` examples.

    The last batch of a pass is padded to ``batch_size`` and the padding is marked.  So every example counts exactly
    once per pass, and every step has the same shape.

    Attributes:
        size: examples in the split.
        batch_size: examples of a global batch, padding included.
        seed: decides the permutations.
        shuffle: whether to permute; False keeps the manifest's order (validation).
    """

    size: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True

    @property
    def steps_per_pass(self) -> int:
        """Steps in which every example occurs once."""
        return math.ceil(self.size / self.batch_size)

    def slots(self, step: tf.Tensor, first: int, count: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return the examples in slots ``[first, first + count)`` of the global batch of ``step``.

        Args:
            step: int64 scalar, counted from 0 over the whole job.
            first: first slot to return (a replica's share starts at replica * share).
            count: slots to return.

        Returns:
            ``(pass number int64 scalar, example numbers [count] int64, real [count] bool)``; padding has real
            False and example number 0.
        """
        number = step // self.steps_per_pass
        position = (step % self.steps_per_pass) * self.batch_size + first + tf.range(count, dtype=tf.int64)
        real = position < self.size
        position = tf.where(real, position, 0)
        index = permute(position, self.seed, number, self.size) if self.shuffle else position
        return number, tf.where(real, index, 0), real


def permute(position: tf.Tensor, seed: int, pass_number: tf.Tensor, size: int) -> tf.Tensor:
    """Return the example at each position of a pass: a pseudorandom permutation of ``range(size)``.

    Random access in O(1) time and memory (TensorFlow's ``RandomIndexShuffle``, a Feistel-like block cipher on
    the smallest even power of two that holds ``size``).  The cipher uses only the low 8 or 9 bits of each number of its
    key, so seeds (and passes) 256 apart would have the same order.  Therefore the key is drawn from both first.

    A set of more than two windows is shuffled in two levels: blocks of ``BLOCK`` neighbours over the whole set, then
    the ``WINDOW`` examples of each run of blocks among themselves.  Neighbours are adjacent in a packed shard, so a
    reader can fetch a block in one request and use all of it soon (``readers.py``).  Two examples of a batch of 32 are
    neighbours only as often as chance within a window makes them.
    """
    seeds = tf.stack([tf.constant(seed, tf.int64), tf.cast(pass_number, tf.int64)])
    key = tf.random.stateless_uniform([2], seeds, minval=None, maxval=None, dtype=tf.int64, alg="philox")
    if size <= 2 * WINDOW:
        return _shuffle(position, key, tf.constant(size - 1, tf.int64))
    # Inner level: shuffle within each window, with a key of its own.
    windows = size // WINDOW  # The last one also takes the remainder.
    window = tf.minimum(position // WINDOW, windows - 1)
    start = window * WINDOW
    last = tf.where(window == windows - 1, size - start, WINDOW) - 1
    mixed = (window + 1) * 0x9E3779B1  # Knuth's multiplicative hash; its middle bits are the key's low ones.
    place = start + _shuffle(position - start, key + tf.stack([mixed // 2**8, mixed // 2**20], axis=-1), last)
    # Outer level: shuffle whole blocks over the set.
    blocks = size // BLOCK  # Fewer than BLOCK examples at the end belong to none and stay in the last window.
    block = _shuffle(tf.minimum(place // BLOCK, blocks - 1), key, tf.constant(blocks - 1, tf.int64))
    return tf.where(place < blocks * BLOCK, block * BLOCK + place % BLOCK, place)


def _shuffle(index: tf.Tensor, key: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
    """Shuffle ``range(last + 1)`` by a key ``[2]``, or by one ``[n, 2]`` for each index.

    Equal to ``tf.random.experimental.index_shuffle`` for one key; for several, TensorFlow 2.21 pads the wrong axis.
    """
    first = tf.fill(tf.concat([tf.shape(key)[:-1], [1]], 0), tf.constant(498247692, tf.int64))
    return tf.raw_ops.RandomIndexShuffle(index=index, seed=tf.concat([first, key], -1), max_index=last, rounds=4)
