"""Outputs that are fetched from the device in few pieces: all of them, in order."""

import numpy as np
import pytest
import tensorflow as tf

from trainer.training import device_rows
from trainer.training.device_rows import DeviceRows


@pytest.mark.parametrize("batches", [1, 3, 4, 9])
def test_all_rows_come_in_order_in_few_pieces(monkeypatch, batches):
    monkeypatch.setattr(device_rows, "_BATCHES", 4)
    waiting, parts = DeviceRows(), []
    for number in range(batches):
        waiting.add(tf.fill([2, 3], float(number)))
        assert len(waiting) == 2 * (number % 4 + 1)
        if waiting.is_full:
            parts.append(waiting.fetch())
            assert not waiting
    if waiting:
        parts.append(waiting.fetch())
    assert len(parts) == -(-batches // 4)
    assert np.array_equal(np.concatenate(parts)[:, 0], np.repeat(np.arange(batches), 2))
