"""Batches take over the memory of earlier ones, but never of one that is still in use, and no memory is lost."""

import collections
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.pictures import encoded, noise
from trainer.core.config import DataConfig
from trainer.data import augment, decode_batch, image_files, manifest, pipeline, pixels
from trainer.data.bad_images import BadImages
from trainer.data.image_source import ImageSource
from trainer.data.input_rule import InputRule
from trainer.data.order import Order
from trainer.data.pixels import aligned_empty

SHAPE = (8, 256, 256, 3)  # More than a block's least size.
PAGE = os.sysconf("SC_PAGE_SIZE")


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


def address(array):
    return array.ctypes.data


def test_memory_is_aligned_and_used_again_once_nobody_looks_at_it():
    first = aligned_empty(SHAPE)
    first[:] = 7
    place = address(first)
    assert place % 64 == 0
    assert first.shape == SHAPE
    view = first[3:, ::2]
    del first
    second = aligned_empty(SHAPE)
    assert address(second) != place  # The view lives.
    second[:] = 8
    del view
    third = aligned_empty(SHAPE)
    assert address(third) == place
    assert np.all(third == 7)  # New memory would be zeros.


def test_memory_of_a_living_tensor_is_not_used_again():
    make = lambda: np.full_like(aligned_empty(SHAPE), 0)  # noqa: E731

    def filled():
        images = aligned_empty(SHAPE)
        images[:] = 7
        return images

    with tf.device("/CPU:0"):
        tensor = tf.numpy_function(filled, [], tf.uint8)
        others = [make() for _ in range(3)]
        again = aligned_empty(SHAPE)
        again[:] = 9
    assert np.all(tensor.numpy() == 7)
    del others


def test_memory_that_nobody_uses_is_bounded():
    before = resident_bytes()
    many = [aligned_empty((64 + number, 256, 256, 3)) for number in range(2 * pixels._MOST_FREE)]
    for one in many:
        one[:] = 1
    most = many[-1].nbytes
    assert resident_bytes() - before > (2 * pixels._MOST_FREE - 1.5) * most
    del many, one
    assert resident_bytes() - before < (pixels._MOST_FREE + 0.5) * most


def test_a_batch_keeps_its_pixels_while_later_ones_are_decoded():
    rule = InputRule(224)
    contents = [encoded(noise(256, 256, 3, seed=seed), "JPEG") for seed in range(9)]
    contents[4] = contents[4][:500]
    first = decode_batch.load_batch(contents, rule)
    copy = first.images.copy()
    second = decode_batch.load_batch(contents[::-1], rule)
    assert np.array_equal(first.images, copy)
    assert np.array_equal(second.images, copy[::-1])
    assert list(first.errors) == [4]


@pytest.mark.parametrize("augmentation", ["none", "flip", "cutmix", "mixup", "sbi"])
def test_all_batches_are_in_memory_that_a_gpu_fetches_by_itself(image_set, augmentation, monkeypatch):
    """Whole ones and padded ones, with and without an augmentation on the host."""

    def prepare(block):
        block[:] = 255  # As memory that was used before.
        prepared.append((address(block), block.nbytes))

    prepared = []
    monkeypatch.setattr(pixels, "_prepare", prepare)
    monkeypatch.setattr(pixels, "_free", collections.deque(maxlen=4))  # Without blocks of other tests.
    split = manifest.read_split(image_set, "Train")
    order = Order(len(split), len(split) - 2)  # The second batch is padded.
    assert order.steps_per_pass == 2
    batches = pipeline.batches(
        split, ImageSource(split, DataConfig(image_size=224)), order, BadImages(os.devnull, 0.0, write=False),
        augmentation=augmentation, settings=augment.Settings(positive=0), share=pipeline.ReplicaShare(), start_step=0,
        stop_step=2,
    )  # fmt: skip
    for batch in batches:
        images = np.asarray(memoryview(batch["image"]))
        assert images.nbytes > 2**20
        assert any(start <= address(images) < start + size for start, size in prepared)
        weight = batch["weight"].numpy()
        assert not images[weight == 0.0].any()
        assert images[weight > 0.0].reshape(int(weight.sum()), -1).any(axis=1).all()
    assert (weight == 0.0).sum() == len(split) - 4


def test_a_file_of_another_size_than_announced_is_read_whole(tmp_path):
    path = "/proc/version"  # Its size is said to be zero.
    assert image_files.read_local(path, "") == Path(path).read_bytes() != b""
    (tmp_path / "empty").touch()
    assert image_files.read_local(str(tmp_path / "empty"), "") == b""


@pytest.mark.slow
@pytest.mark.parametrize("cache", ["none", "memory"])
def test_thousands_of_batches_do_not_grow(image_set, cache):
    split = manifest.read_split(image_set, "Train")
    images = ImageSource(split, DataConfig(image_size=48, cache=cache))
    order = Order(len(split), 160)  # 1.1 MB, from several passes.
    nowhere = BadImages(os.devnull, 0.0, write=False)
    batches = iter(
        pipeline.batches(split, images, order, nowhere, augmentation="none", share=pipeline.ReplicaShare(),
                         start_step=0, stop_step=10**9)
    )  # fmt: skip
    sizes = []
    for number in range(2001):
        next(batches)
        if number in (400, 2000):
            sizes.append(resident_bytes())
    assert sizes[1] - sizes[0] < 8 * 2**20
