"""What a step leaves behind in memory: nothing, however long a job is.

Bytes are those that the C library's allocator has handed out, so that neither fragments nor other processes count.
"""

import contextlib
import ctypes
import gc
import weakref

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.jobs import float32_policy  # noqa: F401  (a fixture)
from tests.training.test_train_step import distribute, random_batch, trainer_of
from trainer.training.execution import Execution
from trainer.training.frozen.phase import PhasedStep
from trainer.training.loop import Plan
from trainer.training.observers import Start, TrainLine, Window
from trainer.training.progress_bar import ProgressBar
from trainer.training.step_stats import StepStatistics
from trainer.training.tensorboard import SummaryWriter


class MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def bytes_in_use():
    """Return the bytes that are allocated; skip the test where there is no glibc that says it."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        pytest.skip("expected glibc 2.33 or newer")
    mallinfo.restype = MallocInfo
    gc.collect()
    info = mallinfo()
    return info.uordblks + info.hblkhd


@contextlib.contextmanager
def growth_below(limit):
    """Fail if the block leaves more bytes behind."""
    before = bytes_in_use()
    yield
    assert bytes_in_use() - before < limit


@pytest.mark.slow
def test_a_step_keeps_neither_its_number_nor_its_rate():
    trainer = trainer_of(1, batch_size=2)
    execution, batch = Execution(trainer.strategy, trainer.optimizer, PhasedStep(trainer.steps)), random_batch(2)
    batch = distribute(trainer.strategy, batch)

    def train(steps):
        for step in steps:
            execution.train([batch], step, [1e-3 / (step + 1)])

    train(range(100))
    with growth_below(400 * 100):  # TensorFlow's tensor of a number takes 650 bytes.
        train(range(10_000, 10_400))


@pytest.mark.slow
def test_windows_of_any_number_of_steps_share_a_kernel():
    statistics, step = StepStatistics(Plan(total_steps=10_000, steps_per_epoch=10_000)), 0
    row = tf.constant([[1.0, 5.0, 10.0, 1.0, 1.0, 0.5]])

    def window(steps):
        nonlocal step
        for _ in range(steps):
            step += 1
            statistics.add(step, [0.1], row, waited=0.0)
        assert statistics.fetch(force=True).examples == 10 * steps

    window(64)
    with growth_below(200_000):  # A kernel of so many inputs takes 130,000 to 200,000.
        for steps in range(40, 60):
            window(steps)


@pytest.mark.slow
def test_events_keep_neither_their_steps_nor_their_values(tmp_path):
    writer = SummaryWriter(str(tmp_path), write=True)

    def write(steps):
        for step in steps:
            writer.scalars(step, {"train/loss": step / 7, "train/accuracy": step / 11})

    write(range(10))
    with growth_below(40 * 500):  # Three numbers of 650 bytes.
        write(range(1000, 1040))


def test_the_progress_of_a_long_epoch_keeps_no_lines():
    bar = ProgressBar(Plan(total_steps=100, steps_per_epoch=100), show=True, validation_images=1)
    bar.on_start(Start(0, 100, {}))
    line = TrainLine(1, {"loss": np.float32(0.5)})
    bar.on_window(Window(1, 0.1, loss=0.5, accuracy=0.75, examples=20, seconds=1.0, waited=0.0, lines=[line]))
    kept = weakref.ref(line)
    del line
    assert kept() is None
