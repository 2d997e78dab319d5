"""Pages of batches are locked and unlocked in pairs, and a driver that refuses changes nothing else.

There is no GPU here: a driver that keeps books stands in for NVIDIA's.
"""

import ctypes
import gc

import numpy as np
import pytest

from trainer.data import pixels
from trainer.distributed import page_lock

SHAPE = (8, 256, 256, 3)


class Driver:
    """Keeps the locked ranges, and refuses what overlaps one, as NVIDIA's does."""

    def __init__(self):
        self.locked, self.depth, self.refuses, self.retained = {}, 0, False, 0

    def cuInit(self, flags):
        return 0

    def cuDevicePrimaryCtxRetain(self, context, device):
        self.retained += 1
        return 0

    def cuCtxPushCurrent_v2(self, context):
        self.depth += 1
        return 0

    def cuCtxPopCurrent_v2(self, context):
        self.depth -= 1
        return 0

    def cuMemHostRegister_v2(self, address, size, flags):
        assert self.depth == 1
        pages = range(address.value // 4096, (address.value + size.value - 1) // 4096 + 1)
        overlaps = any(set(pages) & set(other) for other in self.locked.values())
        if self.refuses or overlaps:
            return 712
        self.locked[address.value] = pages
        return 0

    def cuMemHostUnregister(self, address):
        assert self.depth == 1
        del self.locked[address.value]
        return 0


@pytest.fixture
def driver(monkeypatch):
    driver = Driver()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: driver)
    monkeypatch.setattr(pixels, "_prepare", pixels._prepare)
    pixels._free.clear()
    page_lock._process_lock.cache_clear()
    page_lock.enable()
    yield driver
    page_lock._process_lock.cache_clear()
    monkeypatch.undo()
    pixels._free.clear()
    gc.collect()
    assert driver.locked == {}
    assert driver.depth == 0


@pytest.mark.slow
def test_each_batch_is_locked_as_long_as_its_memory_lives(driver):
    many = [pixels.aligned_empty(SHAPE) for _ in range(pixels._MOST_FREE + 3)]
    assert {one.ctypes.data for one in many} == set(driver.locked)
    del many
    assert len(driver.locked) == pixels._MOST_FREE  # Those that will be used again.
    again = pixels.aligned_empty(SHAPE)
    assert len(driver.locked) == pixels._MOST_FREE
    assert again.ctypes.data in driver.locked


@pytest.mark.slow
def test_the_jobs_of_a_process_share_one_lock(driver, caplog):
    caplog.set_level("INFO")
    driver.refuses = True
    pixels.aligned_empty(SHAPE)
    page_lock.enable()
    pixels.aligned_empty((9, 256, 256, 3))
    assert driver.retained == 1
    assert caplog.text.count("ordinary memory") == 1


@pytest.mark.slow
def test_small_arrays_are_left_alone(driver):
    pixels.aligned_empty((4, 4, 3))
    assert driver.locked == {}


@pytest.mark.slow
def test_a_driver_that_refuses_is_mentioned_once(driver, caplog):
    caplog.set_level("INFO")
    driver.refuses = True
    many = [pixels.aligned_empty(SHAPE) for _ in range(3)]
    assert caplog.text.count("ordinary memory, which is slower: cuMemHostRegister of NVIDIA's driver returned 712") == 1
    driver.refuses = False
    more = pixels.aligned_empty(SHAPE)
    assert list(driver.locked) == [more.ctypes.data]
    assert all(np.all(one == 0) for one in many)


def test_without_a_driver_nothing_is_locked(caplog, monkeypatch):
    caplog.set_level("INFO")
    before = pixels._prepare
    monkeypatch.setattr(page_lock, "_LIBRARY", "libcuda-that-is-not-there.so.1")
    page_lock.enable()
    assert pixels._prepare is before
    assert "ordinary memory" in caplog.text
