"""``--sampling=balanced``: every class equally often, as a function of (seed, step)."""

import collections
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.jobs import float32_policy, result_of, run_job, sigterm_after, values_of  # noqa: F401
from trainer.core.config import DataConfig
from trainer.data import manifest, pipeline
from trainer.data.bad_images import BadImages
from trainer.data.image_source import ImageSource
from trainer.data.order import Order, of_training
from trainer.data.readers import BLOCK, WINDOW

COUNTS = (5, 30, 13)
ENDS = np.cumsum(COUNTS)


def order(counts=COUNTS, batch=10, seed=3):
    return Order(sum(counts), batch, seed, balanced=counts)


def drawn(stream, start, stop):
    """Return passes and examples of steps ``[start, stop)``, one after the other."""
    rows = [stream.slots(tf.constant(step, tf.int64), 0, stream.batch_size) for step in range(start, stop)]
    assert all(real.numpy().all() for _, _, real in rows)
    return tuple(np.concatenate([row[part].numpy() for row in rows]) for part in (0, 1))


def classes_of(index):
    return np.searchsorted(ENDS, index, side="right")


def test_any_run_of_groups_holds_every_class_equally_often():
    classes = classes_of(drawn(order(), 0, 60)[1])
    for first in (0, 3, 99, 300):
        for groups in (1, 2, 7, 90):
            window = classes[first : first + 3 * groups]
            assert np.bincount(window, minlength=3).tolist() == [groups] * 3
    for first in (1, 5, 31):  # Between two groups a class has one more or less.
        assert set(np.bincount(classes[first : first + 30], minlength=3).tolist()) <= {9, 10, 11}
    assert len({tuple(group) for group in classes.reshape(-1, 3).tolist()}) == 6  # In every order.


def test_a_class_comes_whole_before_any_of_its_examples_comes_again():
    passes, index = drawn(order(), 0, 60)
    for label, count in enumerate(COUNTS):
        mine = classes_of(index) == label
        for number in range(mine.sum() // count):
            part = slice(number * count, (number + 1) * count)
            assert sorted(index[mine][part]) == list(range(ENDS[label] - count, ENDS[label]))
            assert (passes[mine][part] == number).all()
    small = index[classes_of(index) == 0].reshape(-1, 5)
    assert len({tuple(row) for row in small.tolist()}) > 30  # Of 40 passes of 120 orders each.


@pytest.mark.slow
def test_steps_are_the_same_from_any_start_in_any_share_and_in_a_graph():
    whole = drawn(order(), 0, 20)
    for start in (1, 7, 19):
        for all_steps, later in zip(whole, drawn(order(), start, 20), strict=True):
            assert all_steps[10 * start :].tolist() == later.tolist()
    shares = [order().slots(tf.constant(4, tf.int64), first, 5)[1].numpy() for first in (0, 5)]
    assert np.concatenate(shares).tolist() == whole[1][40:50].tolist()
    stream = tf.data.Dataset.range(20).map(lambda step: order().slots(step, 0, 10))
    assert np.concatenate([index for _, index, _ in stream.as_numpy_iterator()]).tolist() == whole[1].tolist()
    assert drawn(order(batch=25), 0, 8)[1].tolist() == whole[1].tolist()
    far = drawn(order(), 10**12, 10**12 + 1)[1]
    assert set(np.bincount(classes_of(far), minlength=3).tolist()) <= {2, 3, 4}


def test_seeds_are_other_orders_and_an_epoch_has_as_many_steps_as_without():
    assert len({tuple(drawn(order(seed=seed), 0, 3)[1]) for seed in (0, 1, 2, 256, 2**31 - 1)}) == 5
    assert [order(batch=batch).steps_per_pass for batch in (10, 48, 50)] == [5, 1, 1]


def test_large_classes_are_shuffled_by_blocks_for_the_readers():
    counts = (50, 3 * WINDOW + 7)
    passes, index = drawn(order(counts, batch=2 * counts[1]), 0, 1)
    large = index[index >= 50] - 50
    assert sorted(large) == list(range(counts[1]))
    window = np.sort(large[: WINDOW // 2]).reshape(-1, BLOCK)
    assert (window % BLOCK == np.arange(BLOCK)).all()
    assert len(np.unique(large[: WINDOW // 2] // WINDOW)) > 2
    counted = collections.Counter(index[index < 50].tolist()).values()
    assert max(counted) - min(counted) <= 1
    assert passes[index < 50].max() == (counts[1] - 1) // 50


@pytest.fixture(scope="module")
def uneven(image_set, tmp_path_factory):
    """Return data_dir of 9 Fake and 31 Real images in Train."""
    root = tmp_path_factory.mktemp("uneven")
    shutil.copytree(image_set, root, dirs_exist_ok=True)
    for name, count in (("Fake", 9), ("Real", 31)):
        for path in sorted((root / "Train" / name).iterdir())[count:]:
            path.unlink()
    return str(root)


def test_an_image_that_comes_again_is_augmented_anew(uneven):
    split = manifest.read_split(uneven, "Train")
    stream = of_training(split, "balanced", 8, 1)
    source = ImageSource(split, DataConfig(image_size=16))
    dataset = pipeline.batches(split, source, stream, BadImages(os.devnull, 0.0, write=False), augmentation="notebook",
                               share=pipeline.ReplicaShare(), start_step=0, stop_step=9)  # fmt: skip
    batches = list(dataset.as_numpy_iterator())
    assert all(batch["label"].sum() == 4 for batch in batches)
    draws = [tuple(row) for batch in batches for row in batch["draws"].tolist()]
    index = np.concatenate([batch["index"] for batch in batches])
    assert collections.Counter(index.tolist())[0] == 4  # 36 draws of 9 Fake images.
    assert len(set(draws)) == 72
    assert of_training(split, "none", 8, 1) == Order(40, 8, 1)


@pytest.mark.slow
def test_devices_and_restarts_change_nothing(uneven, tmp_path):
    settings = {"sampling": "balanced", "steps_per_epoch": 3}
    assert run_job(uneven, tmp_path / "whole", **settings) == 0
    with sigterm_after(4):
        assert run_job(uneven, tmp_path / "halves", **settings) == 75
    assert run_job(uneven, tmp_path / "halves", **settings, num_devices=2) == 0
    assert values_of(tmp_path / "whole") == values_of(tmp_path / "halves")
    assert result_of(tmp_path / "whole")["weights_sha256"] == result_of(tmp_path / "halves")["weights_sha256"]
