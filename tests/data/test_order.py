"""Invariant 1: which example stands where is a function of (seed, step)."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.data.order import Order, permute
from trainer.data.readers import BLOCK, WINDOW

SIZES = [1, 2, 3, 4, 5, 16, 17, 100, 1000]


def permutation(size, seed=0, pass_number=0):
    positions = tf.range(size, dtype=tf.int64)
    return permute(positions, seed, tf.constant(pass_number, tf.int64), size).numpy()


def slots(order, step, first=0, count=None):
    count = order.batch_size if count is None else count
    passes, index, real = order.slots(tf.constant(step, tf.int64), first, count)
    (number,) = set(passes.numpy().tolist())
    return number, index.numpy(), real.numpy()


def one_pass(order, number=0):
    steps = range(number * order.steps_per_pass, (number + 1) * order.steps_per_pass)
    return [slots(order, step) for step in steps]


@pytest.mark.parametrize("size", SIZES)
def test_every_pass_is_a_permutation(size):
    for seed in (0, 1, 2**31 - 1):
        for pass_number in (0, 1, 7):
            assert sorted(permutation(size, seed, pass_number)) == list(range(size))


def test_one_position_is_what_the_whole_pass_says():
    whole = permutation(1000, 3, 2)
    for position in (0, 1, 499, 999):
        alone = permute(tf.constant([position], tf.int64), 3, tf.constant(2, tf.int64), 1000)
        assert alone.numpy().tolist() == [whole[position]]


def test_other_seed_other_pass_other_order():
    orders = [tuple(permutation(100, seed, number)) for seed in range(6) for number in range(6)]
    assert len(set(orders)) == 36


@pytest.mark.parametrize("size", [1000, 140_002])
def test_numbers_far_apart_are_other_seeds_and_passes_too(size):
    # index_shuffle itself looks at the low bits of its key alone: 0, 256 and 65536 would be the same seed.
    numbers = (0, 1, 255, 256, 257, 512, 1024, 65_536, 2**20, 2**31 - 1)
    position = tf.range(50, dtype=tf.int64)
    by_seed = {tuple(permute(position, number, tf.constant(0, tf.int64), size).numpy()) for number in numbers}
    by_pass = {tuple(permute(position, 0, tf.constant(number, tf.int64), size).numpy()) for number in numbers}
    assert len(by_seed) == len(by_pass) == len(numbers)
    assert len(by_seed | by_pass) == 2 * len(numbers) - 1


def test_a_permutation_is_no_near_relative_of_the_last_one():
    # Two independent permutations agree in one place on average, neighbours stay neighbours in 2 of 999 pairs.
    first, second = permutation(1000, 0, 0), permutation(1000, 0, 1)
    assert np.sum(first == second) < 10
    pairs = {frozenset(pair) for pair in zip(first[:-1].tolist(), first[1:].tolist(), strict=True)}
    again = sum(frozenset(pair) in pairs for pair in zip(second[:-1].tolist(), second[1:].tolist(), strict=True))
    assert again < 15
    assert abs(np.corrcoef(first, np.arange(1000))[0, 1]) < 0.15


LARGE = [2 * WINDOW + 1, 2 * WINDOW + BLOCK, 3 * WINDOW - 1, 3 * WINDOW, 50_003]


@pytest.mark.parametrize("size", LARGE)
def test_a_large_set_is_shuffled_by_blocks_in_windows(size):
    whole = permutation(size, 3, 1)
    assert sorted(whole) == list(range(size))
    for start in range(0, size - 2 * WINDOW, WINDOW):  # Each window but the last is made of whole blocks.
        window = np.sort(whole[start : start + WINDOW]).reshape(-1, BLOCK)
        assert (window % BLOCK == np.arange(BLOCK)).all()
    some = tf.constant([0, WINDOW - 1, WINDOW, 2 * WINDOW, size - 1], tf.int64)
    assert permute(some, 3, tf.constant(1, tf.int64), size).numpy().tolist() == whole[some.numpy()].tolist()


def test_batches_of_a_large_set_are_as_mixed_as_chance_has_it():
    size, batch = 50_003, 32
    first, second = permutation(size, 0, 0), permutation(size, 0, 1)
    halves = (first[: size // batch * batch].reshape(-1, batch) < size // 2).mean(axis=1)
    assert abs(halves.std() / (0.5 / np.sqrt(batch)) - 1) < 0.1  # The spread of a fair coin thrown 32 times.
    neighbours = np.abs(np.diff(np.sort(first[: size // batch * batch].reshape(-1, batch), axis=1))) < BLOCK
    by_chance = (batch - 1) * batch / 2 * 2 * (BLOCK - 1) / WINDOW / 2  # Pairs of one block in a batch of a window.
    assert neighbours.sum(axis=1).mean() < 2 * by_chance
    assert np.sum(first == second) < 10
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.05
    places = [np.argsort(permutation(size, 0, number)[:WINDOW]) for number in range(2)]
    assert np.sum(places[0] == places[1]) < 10
    windows = [whole % WINDOW for whole in (first[:WINDOW], first[WINDOW : 2 * WINDOW])]
    assert np.sum(windows[0] == windows[1]) < 20


@pytest.mark.parametrize("size", [5, 20])
def test_every_example_comes_to_every_place_alike(size):
    passes = 1000
    position = tf.range(size, dtype=tf.int64)

    @tf.function
    def all_passes():
        return tf.map_fn(lambda number: permute(position, 1, number, size), tf.range(passes, dtype=tf.int64))

    counts = np.zeros([size, size])
    np.add.at(counts, (np.tile(np.arange(size), passes), all_passes().numpy().ravel()), 1)
    # A chi-square with (size - 1)^2 degrees of freedom, five deviations wide; the seed is fixed, so it never flickers.
    expected = passes / size
    free = (size - 1) ** 2
    statistic = ((counts - expected) ** 2 / expected).sum()
    assert statistic < free + 5 * np.sqrt(2 * free)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("size", "batch"), [(1, 4), (2, 2), (3, 2), (5, 4), (100, 30), (1000, 64), (7, 7), (4, 1)])
def test_every_example_once_a_pass_padding_last(size, batch, shuffle):
    order = Order(size, batch, seed=3, shuffle=shuffle)
    for number in (0, 3):
        steps = one_pass(order, number)
        assert all(step_number == number for step_number, _, _ in steps)
        assert all(len(index) == len(real) == batch for _, index, real in steps)
        index = np.concatenate([index for _, index, _ in steps])
        real = np.concatenate([real for _, _, real in steps])
        assert sorted(index[real]) == list(range(size))
        assert real.tolist() == [True] * size + [False] * (len(real) - size)
        assert not index[~real].any()
        assert len(real) - size < batch


def test_without_shuffle_the_order_is_the_manifests():
    order = Order(10, 4, seed=9, shuffle=False)
    assert [index.tolist() for _, index, _ in one_pass(order, 5)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 0]]


@pytest.mark.parametrize("replicas", [2, 3, 6])
def test_replicas_shares_put_together_are_the_global_batch(replicas):
    order = Order(101, 12, seed=4)
    share = order.batch_size // replicas
    for step in (0, 8, 9, 25):
        number, index, real = slots(order, step)
        parts = [slots(order, step, replica * share, share) for replica in range(replicas)]
        assert {part[0] for part in parts} == {number}
        assert np.concatenate([part[1] for part in parts]).tolist() == index.tolist()
        assert np.concatenate([part[2] for part in parts]).tolist() == real.tolist()


def test_a_step_is_the_same_in_a_graph_and_from_any_start():
    order = Order(53, 8, seed=2)
    told = [slots(order, step) for step in range(20)]
    for start in (0, 6, 7, 13):
        stream = tf.data.Dataset.range(start, 20).map(lambda step: order.slots(step, 0, 8))
        for (passes, index, real), expected in zip(stream.as_numpy_iterator(), told[start:], strict=True):
            assert passes.tolist() == [expected[0]] * 8
            assert index.tolist() == expected[1].tolist()
            assert real.tolist() == expected[2].tolist()


def test_the_batch_size_changes_batches_but_not_the_stream():
    streams = [
        np.concatenate([index[real] for _, index, real in one_pass(Order(60, batch, seed=8), 1)])
        for batch in (1, 7, 30, 64)
    ]
    assert all(stream.tolist() == streams[0].tolist() for stream in streams)


def test_steps_per_pass():
    assert [Order(size, 32).steps_per_pass for size in (1, 31, 32, 33, 64)] == [1, 1, 1, 2, 2]


def test_a_far_step_is_as_good_as_a_near_one():
    order = Order(140_002, 32, seed=1)
    far = 10**9 * order.steps_per_pass  # Pass numbers beyond what 32 bits of position would hold.
    number, index, real = slots(order, far)
    assert number == 10**9
    assert real.all()
    assert len(set(index.tolist())) == 32
    assert 0 <= index.min() <= index.max() < 140_002
