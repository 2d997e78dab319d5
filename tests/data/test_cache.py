"""Cached pixels are the decoded ones, now and after a restart, and damage or a full disk costs time, not truth."""

import errno
import gc
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from tests.helpers import faults
from tests.helpers.images import write_image_set
from tests.helpers.jobs import float32_policy, result_of, run_job  # noqa: F401
from trainer.core.config import DataConfig
from trainer.core.errors import RequestError
from trainer.data import cache as cache_lib
from trainer.data import decode_batch, manifest
from trainer.data.image_source import ImageSource

SIZE = 48
BYTES = 3 * SIZE * SIZE
ALL = np.arange(20)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_image_set(tmp_path_factory.mktemp("cached"), train=10, validation=2, test=2, size=60)


@pytest.fixture
def data_dir(source, tmp_path):
    shutil.copytree(source, tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def decoded(monkeypatch):
    """Return the list of how many images each decoding took."""
    counts, real = [], decode_batch.load_batch

    def load_batch(contents, *arguments):
        counts.append(len(contents))
        return real(contents, *arguments)

    monkeypatch.setattr(decode_batch, "load_batch", load_batch)
    return counts


def images(data_dir, cache, cache_bytes=0, split="Train"):
    config = DataConfig(image_size=SIZE, cache=str(cache), cache_bytes=cache_bytes)
    return ImageSource(manifest.read_split(str(data_dir), split), config)


def pixels(source, index=ALL):
    return source.load(np.asarray(index)).images


@pytest.fixture
def plain(data_dir):
    return pixels(images(data_dir, "none"))


@pytest.mark.parametrize("kind", ["memory", "folder"])
def test_an_image_is_decoded_once(data_dir, plain, tmp_path, decoded, kind):
    cached = images(data_dir, kind if kind == "memory" else tmp_path / "cache")
    assert np.array_equal(pixels(cached, [3, 5]), plain[[3, 5]])
    assert np.array_equal(pixels(cached, [5, 4, 3]), plain[[5, 4, 3]])
    assert np.array_equal(pixels(cached), plain)
    assert np.array_equal(pixels(cached, ALL[::-1]), plain[::-1])
    assert decoded == [2, 1, 17]


def test_the_next_start_finds_what_is_in_the_folder(data_dir, plain, tmp_path, decoded):
    pixels(images(data_dir, tmp_path / "cache"), [1, 2, 3])
    again = images(data_dir, tmp_path / "cache")
    assert np.array_equal(pixels(again), plain)
    assert decoded == [3, 17]


def test_no_more_is_kept_than_there_is_room_for(data_dir, plain, tmp_path, decoded):
    for kind in ("memory", tmp_path / "cache"):
        cached = images(data_dir, kind, cache_bytes=7 * BYTES + 5)
        for _ in range(2):
            assert np.array_equal(pixels(cached), plain)
        assert decoded == [20, 13]
        decoded.clear()
    assert sum(path.stat().st_size for path in (tmp_path / "cache").rglob("pixels")) == 7 * BYTES


def test_a_flipped_bit_is_noticed_and_the_image_decoded_again(data_dir, plain, tmp_path, decoded):
    pixels(images(data_dir, tmp_path / "cache"))
    (file,) = (tmp_path / "cache").rglob("pixels")
    content = bytearray(file.read_bytes())
    content[4 * BYTES + 17] ^= 1
    file.write_bytes(content)
    again = images(data_dir, tmp_path / "cache")
    for _ in range(2):
        assert np.array_equal(pixels(again), plain)
    assert decoded == [20, 1]


def test_a_torn_cache_is_filled_up(data_dir, plain, tmp_path, decoded):
    pixels(images(data_dir, tmp_path / "cache"))
    (file,) = (tmp_path / "cache").rglob("pixels")
    os.truncate(file, 15 * BYTES + 100)
    assert np.array_equal(pixels(images(data_dir, tmp_path / "cache")), plain)
    assert decoded == [20, 5]


def test_a_changed_image_is_not_taken_from_the_cache(data_dir, plain, tmp_path):
    pixels(images(data_dir, tmp_path / "cache"))
    names = sorted((data_dir / "Train/Fake").iterdir())
    names[0].write_bytes(names[1].read_bytes())
    assert np.array_equal(pixels(images(data_dir, tmp_path / "cache"))[0], plain[1])


def test_sizes_and_splits_have_caches_of_their_own(data_dir, tmp_path):
    pixels(images(data_dir, tmp_path / "cache"))
    validation = images(data_dir, tmp_path / "cache", split="Validation")
    assert np.array_equal(pixels(validation, [0]), pixels(images(data_dir, "none", split="Validation"), [0]))
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_a_bad_image_is_never_cached(data_dir, tmp_path):
    sorted((data_dir / "Train/Fake").iterdir())[2].write_bytes(b"text")
    for kind in ("memory", tmp_path / "cache"):
        cached = images(data_dir, kind)
        for _ in range(2):
            loaded = cached.load(ALL)
            assert list(loaded.errors) == [2]
            assert not loaded.images[2].any()


def test_its_files_are_closed_with_it_and_not_a_word_at_the_end_of_the_process(data_dir, tmp_path):
    def open_files():
        links = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
        return sum(link.startswith(str(tmp_path / "cache")) for link in links)

    cached = images(data_dir, tmp_path / "cache")
    assert open_files() == 2
    del cached
    gc.collect()
    assert open_files() == 0
    script = f"""
import os  # A module that is torn down late keeps the cache until then.
from pathlib import Path
from trainer.data import cache
os.kept = cache._Disk(Path({str(tmp_path / "late")!r}), 1, 8)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_full_disk_ends_the_caching_only(data_dir, plain, tmp_path, monkeypatch, package_log):
    cached = images(data_dir, tmp_path / "cache")
    real, room = os.pwrite, [5 * BYTES]

    def pwrite(descriptor, content, offset):
        room[0] -= len(content)
        if room[0] < 0:
            raise OSError(28, "No space left on device")
        return real(descriptor, content, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    for _ in range(2):
        assert np.array_equal(pixels(cached), plain)
    assert package_log.text.count("No space left") == 1


def test_a_cache_that_cannot_be_read_makes_no_bad_images(data_dir, plain, tmp_path, monkeypatch, package_log):
    pixels(images(data_dir, tmp_path / "cache"))
    cached, real = images(data_dir, tmp_path / "cache"), os.preadv

    def preadv(descriptor, buffers, offset):
        if offset % (2 * BYTES):
            raise OSError(errno.EIO, "Input/output error")
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", preadv)
    for _ in range(2):
        loaded = cached.load(ALL)
        assert not loaded.errors
        assert np.array_equal(loaded.images, plain)
    assert package_log.text.count("Input/output error; images are decoded again while it cannot be read") == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ESTALE])
def test_a_disk_in_trouble_at_the_start_costs_the_cache_and_not_the_job(data_dir, plain, tmp_path, package_log, number):
    for event in ("os.mkdir", "open"):
        with faults.injected(event=event, path="*/cache*", count=0, number=number):
            cached = images(data_dir, tmp_path / "cache")
        assert np.array_equal(pixels(cached), plain)
    assert package_log.text.count("this start decodes the images of Train every time") == 2


def test_a_folder_that_cannot_be_used_is_refused(data_dir, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="--cache: expected none, memory or a folder"):
        images(data_dir, tmp_path / "file")


def test_free_memory_is_a_sensible_number():
    assert 2**26 < cache_lib.free_memory() < 2**46


@pytest.mark.slow
def test_training_with_a_cache_gives_the_same_weights(image_set, tmp_path):
    for number, kind in enumerate(("none", "memory", tmp_path / "cache", tmp_path / "cache")):
        assert run_job(image_set, tmp_path / str(number), cache=kind, epochs=2) == 0
    digests = {result_of(tmp_path / str(number))["weights_sha256"] for number in range(4)}
    assert len(digests) == 1
