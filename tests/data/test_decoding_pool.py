"""Images that other processes decode: the same pixels and the same reasons, whatever becomes of the processes."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.image_cases import cases
from tests.helpers.jobs import result_of, run_job
from tests.helpers.pictures import encoded, noise, smooth
from trainer.core.config import DataConfig
from trainer.data import input_rule, manifest
from trainer.data.decoding import pool as pool_lib
from trainer.data.decoding.pool import DecodePool
from trainer.data.decoding.worker import Place
from trainer.data.image_source import ImageSource
from trainer.data.input_rule import InputRule
from trainer.data.pack import writer
from trainer.data.pack.request import PackFlags
from trainer.data.pixels import aligned_empty

RULE = InputRule(32, interpolation="nearest")


@pytest.fixture(scope="module")
def odd_set(tmp_path_factory):
    """Return a data_dir of plain JPEGs in two sizes, and of everything that is not one."""
    root = tmp_path_factory.mktemp("odd")
    for number in range(40):
        side = 48 if number % 3 else 40
        write(root, "Real", f"{number:03d}.jpg", encoded(noise(side, side, 3, seed=number), "JPEG"))
    for number, case in enumerate(cases()):
        write(root, "Fake", f"{number:03d}.jpg", case.content)
    return root


def write(root, name, file, content):
    path = root / "Train" / name / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def is_running(number):
    command = Path(f"/proc/{number}/cmdline")
    return command.exists() and command.read_text() != ""  # Empty: it has ended, and nobody has asked how.


def loaded(data_dir, processes, **settings):
    """Return pixels, and reasons by position, of all training images, the last of which is gone by then."""
    split = manifest.read_split(str(data_dir), "Train")
    config = DataConfig(image_size=32, decode_processes=processes, **settings)
    source = ImageSource(split, config, training=True)
    index = np.arange(len(split))
    draws = input_rule.draw(0, np.zeros_like(index), index) if source.is_random else None
    if split.records is None:
        os.remove(split.path(len(split) - 1))
    return source.load(index, draws)


@pytest.mark.parametrize(
    ("settings", "packed"),
    [
        ({"interpolation": "nearest"}, False),
        pytest.param({"interpolation": "nearest"}, True, marks=pytest.mark.slow),
        pytest.param({"input": "crop"}, True, marks=pytest.mark.slow),
        pytest.param({"interpolation": "bilinear"}, False, marks=pytest.mark.slow),  # Its workers import TensorFlow.
    ],
    ids=str,
)
def test_pixels_and_reasons_are_those_of_one_process(odd_set, tmp_path, settings, packed):
    data = shutil.copytree(odd_set, tmp_path / "data")
    if packed:
        writer.pack(PackFlags(data_dir=str(data), out=str(tmp_path / "p")), manifest.read_all_splits(str(data)))
        data = tmp_path / "p"
    expected = loaded(shutil.copytree(data, tmp_path / "copy"), 1, **settings)
    received = loaded(data, 2, **settings)
    np.testing.assert_array_equal(received.images, expected.images)
    assert received.errors == {at: why.replace("/copy/", "/data/") for at, why in expected.errors.items()}
    assert packed or len(received.errors) > 10
    assert pool_lib.shared(2).processes, "no process was started"


def test_a_worker_leaves_out_what_it_does_not_know(tmp_path):
    pool = DecodePool(1)
    (tmp_path / "a.jpg").write_bytes(encoded(smooth(), "JPEG"))
    os.mkfifo(tmp_path / "pipe")  # Must not be waited for.
    sources = [
        Place(str(tmp_path / "a.jpg")), Place(str(tmp_path / "b.jpg")), Place(str(tmp_path / "pipe")), b"",
        encoded(smooth(), "PNG"), encoded(smooth(), "JPEG")[:200], encoded(smooth(), "JPEG"),
        Place(str(tmp_path / "a.jpg"), 0, 100, crc=1),
    ]  # fmt: skip
    images = aligned_empty((len(sources), *RULE.shape))
    assert pool.load(sources, RULE, 10**6, None, images) == [1, 2, 3, 4, 5, 7]
    np.testing.assert_array_equal(images[0], images[6])
    assert pool.load(sources, RULE, 100, None, images) == list(range(8))  # Too many pixels.
    pool.close()


def test_what_a_worker_cannot_do_is_said_once(caplog):
    pool = DecodePool(1)
    for _ in range(2):
        assert pool.load([Place(None)] * 40, RULE, 10**6, None, aligned_empty((40, *RULE.shape))) == list(range(40))
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "a decoding process failed, and this one does its work"
    ]
    pool.close()


def test_workers_that_die_are_replaced_by_the_caller(caplog):
    pool = DecodePool(2)
    content = encoded(noise(48, 48, 3), "JPEG")

    def left_over(_=0):
        return pool.load([content] * 80, RULE, 10**6, None, aligned_empty((80, *RULE.shape)))

    with ThreadPoolExecutor(2) as threads:
        assert list(threads.map(left_over, range(2))) == [[], []]
        victim, survivor = pool.processes
        os.kill(victim, signal.SIGKILL)
        results = []
        while len(pool.processes) > 1 and len(results) < 100:  # Who takes the dead one next, notices.
            results += threads.map(left_over, range(2))
    assert [result for result in results if result] == [list(range(80))]
    assert pool.processes == [survivor]
    assert "ended with code -9; 1 are left" in caplog.text
    assert left_over() == []
    os.kill(survivor, signal.SIGKILL)
    for _ in range(2):  # The dead worker, and then none.
        assert left_over() == list(range(80))
        assert pool.processes == []
    assert "ended with code -9; 0 are left" in caplog.text


def test_threads_share_the_workers():
    pool, content = DecodePool(2), encoded(noise(48, 48, 3), "JPEG")
    results = []

    def load():
        images = aligned_empty((70, *RULE.shape))
        results.append((pool.load([content] * 70, RULE, 10**6, None, images), images))

    threads = [threading.Thread(target=load) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pool.processes) == 2
    assert [missing for missing, _ in results] == [[]] * 5
    assert all(np.array_equal(image, results[0][1][0]) for _, images in results for image in images)
    pool.close()


def test_automatic_processes_follow_the_cores(monkeypatch):
    for cores, expected in ((1, 1), (2, 1), (4, 1), (8, 8), (16, 16)):
        monkeypatch.setattr(pool_lib.joblib, "cpu_count", lambda cores=cores: cores)
        assert pool_lib.automatic() == expected


@pytest.mark.slow
def test_workers_end_with_a_process_that_is_killed():
    code = """
import sys, time
sys.path[:] = eval(sys.argv[1])
from trainer.data.decoding.pool import DecodePool
from tests.data.test_decoding_pool import RULE, aligned_empty, encoded, noise
pool = DecodePool(1)
assert pool.load([encoded(noise(48, 48, 3), "JPEG")] * 20, RULE, 10**6, None, aligned_empty((20, *RULE.shape))) == []
print(*pool.processes, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code, repr(sys.path)], stdout=subprocess.PIPE, text=True)
    (worker,) = map(int, parent.stdout.readline().split())
    os.kill(worker, signal.SIGTERM)  # As a terminal's Ctrl-C, none of its business.
    time.sleep(0.3)
    os.kill(worker, 0)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 10
    while is_running(worker):
        assert time.monotonic() < deadline, "the worker outlived its parent"
        time.sleep(0.05)


@pytest.mark.slow
def test_a_job_has_the_same_weights_and_survives_the_death_of_a_process(image_set, tmp_path, monkeypatch):
    pool_lib.shared.cache_clear()
    start = DecodePool._start_one

    def start_and_kill(self):
        start(self)
        if self._most == 3:
            threading.Timer(1.0, os.kill, [self._workers[-1].process.pid, signal.SIGKILL]).start()

    monkeypatch.setattr(DecodePool, "_start_one", start_and_kill)
    weights = []
    for processes in (1, 2, 3):
        job = tmp_path / str(processes)
        assert run_job(image_set, job, decode_processes=processes, batch_size=20, epochs=3) == 0
        weights.append(result_of(job)["weights_sha256"])
    assert pool_lib.shared(2).processes
    assert len(set(weights)) == 1
