"""Which example each slot of a batch holds: a function of (seed, step), never a state.

The global stream of a job is one permutation of the examples per pass, or with ``--sampling=balanced`` one of each
class's examples per pass of that class.  Step ``k`` holds the same examples whatever the number of devices, so resuming
a job only means to start at another ``k``.
"""

import dataclasses
import math

import tensorflow as tf

from trainer.data.manifest import Split
from trainer.data.readers import BLOCK, WINDOW


@dataclasses.dataclass(frozen=True)
class Order:
    """A stream of global batches over ``size`` examples.

    The last batch of a pass is padded to ``batch_size`` and the padding is marked.  So every example counts exactly
    once per pass, and every step has the same shape.

    A balanced stream has no padding.  Each group of C slots (C classes) holds one example of each class, in an order of
    its own, and the k-th group holds the k-th draw of every class.  A class's draws are a permutation of its examples
    per pass of that class, so its examples differ by at most one in how often they were seen.

    Attributes:
        size: examples in the split.
        batch_size: examples of a global batch, padding included.
        seed: decides the permutations.
        shuffle: whether to permute; False keeps the manifest's order (validation).
        balanced: examples of each class, if all classes are drawn equally often; the classes follow one another in the
            split.  Empty: every example is drawn once per pass.
    """

    size: int
    batch_size: int
    seed: int = 0
    shuffle: bool = True
    balanced: tuple[int, ...] = ()

    @property
    def steps_per_pass(self) -> int:
        """Steps in which every example occurs once; of a balanced stream, in which as many examples are drawn."""
        return math.ceil(self.size / self.batch_size)

    def slots(self, step: tf.Tensor, first: int, count: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return the examples in slots ``[first, first + count)`` of the global batch of ``step``.

        Args:
            step: int64 scalar, counted from 0 over the whole job.
            first: first slot to return (a replica's share starts at replica * share).
            count: slots to return.

        Returns:
            ``(pass numbers [count] int64, example numbers [count] int64, real [count] bool)``; padding has real
            False and example number 0.  A pass number says how often the example occurred before.
        """
        place = first + tf.range(count, dtype=tf.int64)
        if self.balanced:
            passes, index = _balanced(step * self.batch_size + place, self.seed, self.balanced)
            return passes, index, tf.ones_like(index, tf.bool)
        number = step // self.steps_per_pass
        position = (step % self.steps_per_pass) * self.batch_size + place
        real = position < self.size
        position = tf.where(real, position, 0)
        index = permute(position, self.seed, number, self.size) if self.shuffle else position
        return tf.fill([count], number), tf.where(real, index, 0), real


def of_training(split: Split, sampling: str, batch_size: int, seed: int) -> Order:
    """Return the order in which a job sees its training images; ``sampling`` is a choice of ``--sampling``."""
    if sampling == "none":
        return Order(len(split), batch_size, seed)
    # Every split is sorted by class (``manifest.py``).
    return Order(len(split), batch_size, seed, balanced=tuple(filter(None, split.counts.values())))


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
    return _shuffle_in_blocks(position, key, tf.constant(size, tf.int64), WINDOW)


def _shuffle_in_blocks(position: tf.Tensor, key: tf.Tensor, size: tf.Tensor, length: int) -> tf.Tensor:
    """Shuffle ``range(size)`` in two levels, see ``permute``; ``size`` and ``key`` may be those of each position.

    Args:
        position: int64 [n].
        key: int64 [2] or [n, 2].
        size: int64, scalar or [n], at least ``length``.
        length: of a window; a multiple of ``BLOCK``.
    """
    # Inner level: shuffle within each window, with a key of its own.
    windows = size // length  # The last one also takes the remainder.
    window = tf.minimum(position // length, windows - 1)
    start = window * length
    last = tf.where(window == windows - 1, size - start, length) - 1
    mixed = (window + 1) * 0x9E3779B1  # Knuth's multiplicative hash; its middle bits are the key's low ones.
    place = start + _shuffle(position - start, key + tf.stack([mixed // 2**8, mixed // 2**20], axis=-1), last)
    # Outer level: shuffle whole blocks over the set.
    blocks = size // BLOCK  # Fewer than BLOCK examples at the end belong to none and stay in the last window.
    block = _shuffle(tf.minimum(place // BLOCK, blocks - 1), key, blocks - 1)
    return tf.where(place < blocks * BLOCK, block * BLOCK + place % BLOCK, place)


def _balanced(position: tf.Tensor, seed: int, counts: tuple[int, ...]) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the pass of its class and the example at each position of a balanced stream, both ``[n] int64``."""
    classes = len(counts)
    group = position // classes
    # The classes of a group in the order of a hash: ``_shuffle`` takes 0.4 ms to shuffle two.
    hashes = _key(seed, group[:, None], tf.range(classes, dtype=tf.int64))[..., 1]
    label = tf.gather(tf.argsort(hashes, stable=True), position % classes, axis=1, batch_dims=1)
    size = tf.gather(tf.constant(counts, tf.int64), label)
    first = tf.gather(tf.cumsum(tf.constant(counts, tf.int64), exclusive=True), label)
    passes, place = group // size, group % size
    key = _key(seed, passes, label)
    # Windows of all classes together are as long as the one of ``permute``, for the sake of the readers.
    length = max(WINDOW // classes // BLOCK, 1) * BLOCK
    within = _shuffle(place, key, size - 1)
    if max(counts) > 2 * length:
        in_blocks = _shuffle_in_blocks(place, key, tf.maximum(size, length), length)
        within = tf.where(size > 2 * length, in_blocks, within)
    return passes, first + within


def _key(seed: int, *numbers: tf.Tensor | int) -> tf.Tensor:
    """Return keys ``[..., 2]`` for ``_shuffle``, one for each tuple of numbers; their shapes are broadcast.

    SplitMix64's mixing function (Steele, Lea and Flood 2014) over one number after the other: unlike
    ``stateless_uniform`` it takes a seed for each element.
    """
    state = tf.constant([seed], tf.uint64)
    for number in numbers:
        state = _mix(state + tf.cast(number, tf.uint64))
    return tf.cast(tf.stack([tf.bitwise.right_shift(state, tf.constant(32, tf.uint64)), state], -1), tf.int64)


def _mix(state: tf.Tensor) -> tf.Tensor:
    """Return SplitMix64's next output for each state, uint64."""
    state += tf.constant(0x9E3779B97F4A7C15, tf.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        state = tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, tf.constant(shift, tf.uint64)))
        state *= tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(state, tf.bitwise.right_shift(state, tf.constant(31, tf.uint64)))


def _shuffle(index: tf.Tensor, key: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
    """Shuffle ``range(last + 1)`` by a key ``[2]``, or by one ``[n, 2]`` for each index.

    Equal to ``tf.random.experimental.index_shuffle`` for one key; for several, TensorFlow 2.21 pads the wrong axis.
    """
    first = tf.fill(tf.concat([tf.shape(key)[:-1], [1]], 0), tf.constant(498247692, tf.int64))
    return tf.raw_ops.RandomIndexShuffle(index=index, seed=tf.concat([first, key], -1), max_index=last, rounds=4)
