"""Reads that hang: a pipe is never waited for, a dead mount is named in the log, and a job that is to stop stops."""

import errno
import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.helpers import faults
from tests.helpers.images import write_image_set
from tests.helpers.jobs import checkpoints_of, float32_policy, result_of, run_job  # noqa: F401
from trainer.core.config import DataConfig
from trainer.core.errors import StoppedEarly
from trainer.data import image_files, interruptible, manifest, slow_reads
from trainer.data.image_source import ImageSource
from trainer.data.interruptible import DaemonPool

JOB = {"batch_size": 4, "epochs": 2, "checkpoint_every_steps": 100, "log_every_steps": 1}  # 4 steps an epoch.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return 16 train images and 4 of validation; read only."""
    return write_image_set(tmp_path_factory.mktemp("images"), train=8, validation=2, test=0)


@pytest.fixture
def soon(monkeypatch):
    """Look often whether the job is to stop, and give reads no time to end by themselves."""
    monkeypatch.setattr(interruptible, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(interruptible, "GRACE_SECONDS", 0.1)


@pytest.fixture
def mount(monkeypatch):
    """Return a mount that dies at the read whose number is assigned to ``dies_at``, until ``alive`` is set."""

    class Mount:
        alive = threading.Event()
        hangs = threading.Event()  # Set by the first read that hangs.
        dies_at = 0
        reads = 0

    real, lock = os.open, threading.Lock()

    def hanging_open(path, *arguments, **options):
        if str(path).endswith(".jpg"):
            with lock:
                Mount.reads += 1
                is_dead = 0 < Mount.dies_at <= Mount.reads
            if is_dead:
                Mount.hangs.set()
                Mount.alive.wait()
        return real(path, *arguments, **options)

    monkeypatch.setattr(os, "open", hanging_open)
    yield Mount
    Mount.alive.set()


def test_pipes_sockets_devices_and_folders_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "folder.jpg").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.jpg"))
        for name in ("pipe.jpg", "socket.jpg"):
            with pytest.raises(OSError, match="not a regular file") as caught:
                image_files.read(str(tmp_path / name))
            assert caught.value.errno == errno.EINVAL
    for path, number in (("/dev/zero", errno.EINVAL), (str(tmp_path / "folder.jpg"), errno.EISDIR)):
        with pytest.raises(OSError, match=path) as caught:
            image_files.read(path)
        assert caught.value.errno == number
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        with pytest.raises(OSError, match="not a regular"):
            image_files.read(str(tmp_path / "pipe.jpg"))
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_pipe_that_takes_the_place_of_an_image_is_a_bad_image(tmp_path):
    split = manifest.read_split(write_image_set(tmp_path, train=3, validation=0, test=0), "Train")
    os.remove(split.path(1))
    os.mkfifo(split.path(1))
    assert ImageSource(split, DataConfig(image_size=64)).load(np.arange(6)).errors == {1: "not a regular file"}


def test_the_log_names_what_is_waited_for_at_growing_intervals(package_log):
    with slow_reads.watched("/mnt/Train/Fake/a.jpg"):
        started = time.monotonic()
        with slow_reads.watched("/mnt/Train/Fake/b.jpg"):
            for seconds in (1, 59, 61, 90, 123, 200, 250, 400):
                slow_reads.report(started + seconds)
        slow_reads.report(started + 503)
        assert slow_reads.oldest() == "/mnt/Train/Fake/a.jpg"
    slow_reads.report(started + 9999)
    assert slow_reads.oldest() == ""
    assert package_log.messages == [
        "waiting 61 s for image /mnt/Train/Fake/a.jpg and 1 more",
        "waiting 123 s for image /mnt/Train/Fake/a.jpg and 1 more",
        "waiting 250 s for image /mnt/Train/Fake/a.jpg and 1 more",
        "waiting 503 s for image /mnt/Train/Fake/a.jpg",
    ]


def test_who_waits_for_a_hanging_call_gives_it_up_when_the_job_is_to_stop(soon):
    never, reasons = threading.Event(), ["", "", "SIGTERM"]

    def reason():
        return reasons.pop(0) if len(reasons) > 1 else reasons[0]

    with (
        interruptible.stopped_by(reason),
        slow_reads.watched("a.jpg"),
        pytest.raises(StoppedEarly, match=r"SIGTERM while waiting for a\.jpg"),
    ):
        interruptible.run(never.wait)
    assert interruptible.run(lambda: 7) == 7
    with pytest.raises(TimeoutError, match="its own"):
        interruptible.run(failing_with(TimeoutError("its own")))
    never.set()


def failing_with(error):
    def fail():
        raise error

    return fail


def test_a_pool_reuses_its_threads_and_keeps_no_process_alive():
    pool = DaemonPool(2)
    gate = threading.Event()
    waiting = [pool.submit(gate.wait) for _ in range(3)]
    assert pool._threads == 2
    gate.set()
    assert [future.result() for future in waiting] == [True] * 3
    assert [pool.submit(abs, -n).result() for n in range(20)] == list(range(20))
    assert pool._threads == 2
    with pytest.raises(ZeroDivisionError):
        pool.submit(lambda: 1 // 0).result()
    names = [pool.submit(threading.current_thread).result() for _ in range(4)]
    assert all(thread.daemon for thread in names)
    pool.shutdown(cancel_futures=True)
    for thread in names:
        thread.join()
    unlimited = DaemonPool()
    gate = threading.Event()
    more = [unlimited.submit(gate.wait) for _ in range(5)]
    assert unlimited._threads == 5
    gate.set()
    assert all(future.result() for future in more)
    unlimited.shutdown()


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    job = tmp_path_factory.mktemp("jobs") / "undisturbed"
    assert run_job(data, job, **JOB) == 0
    return result_of(job)["weights_sha256"]


def until_main_thread_waits_in_tensorflow():
    """Return when the main thread has been at one place in TensorFlow for a while: where handlers do not run."""
    place, looks = None, 0
    while looks < 20:
        frame = sys._current_frames()[threading.main_thread().ident]
        now = (frame.f_code.co_filename, id(frame), frame.f_lasti)
        looks = looks + 1 if now == place and "tensorflow" in now[0] else 0
        place = now
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("dies_at", "step"), [(1, 0), (18, 2), (36, 4)], ids=["first", "epoch", "validation"])
def test_sigterm_while_a_read_hangs_saves_the_last_finished_step(
    data, undisturbed, tmp_path, mount, soon, capsys, dies_at, step
):
    mount.dies_at = dies_at

    def terminate():
        mount.hangs.wait()
        until_main_thread_waits_in_tensorflow()
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    assert run_job(data, tmp_path, **JOB) == 75
    thread.join()
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("stopped: SIGTERM")
    done = checkpoints_of(tmp_path)[-1:] or [0]
    assert f"step {done[0]} of 8" in line
    assert done[0] >= step - 2
    mount.alive.set()
    assert run_job(data, tmp_path, **JOB) == 0
    assert result_of(tmp_path)["weights_sha256"] == undisturbed


@pytest.mark.slow
def test_the_time_limit_ends_a_job_that_waits_for_a_read(data, undisturbed, tmp_path, mount, soon, capsys):
    mount.dies_at = 18
    assert run_job(data, tmp_path, max_seconds=0.5, **JOB) == 75
    assert "stopped: --max_seconds" in capsys.readouterr().err
    mount.alive.set()
    assert run_job(data, tmp_path, **JOB) == 0
    assert result_of(tmp_path)["weights_sha256"] == undisturbed


@pytest.mark.slow
def test_a_process_whose_reads_hang_ends(data, tmp_path):
    """In a process of its own: nothing at its end may wait for the thread that hangs."""
    hook = tmp_path / "sitecustomize.py"
    hook.write_text(
        "import os, time\n"
        "real, reads = os.open, []\n"
        "def hanging_open(path, *arguments, **options):\n"
        "    if str(path).endswith('.jpg'):\n"
        "        reads.append(path)\n"
        "        while len(reads) > 17:\n"
        "            time.sleep(1)\n"
        "    return real(path, *arguments, **options)\n"
        "os.open = hanging_open\n"
    )
    words = [f"--{name}={value}" for name, value in JOB.items()]
    child = faults.start(
        "trainer.train", f"--data_dir={data}", f"--job_dir={tmp_path / 'job'}", "--image_size=64", "--export=none",
        "--max_seconds=0.1", *words, env={"PYTHONPATH": os.pathsep.join([str(tmp_path), str(faults.ROOT)])},
    )  # fmt: skip
    _, err = child.communicate(timeout=120)
    assert child.returncode == 75, err
    assert "with everything saved" in err or "state saved" in err
    assert (tmp_path / "job/config.json").exists()
    assert json.loads(Path(tmp_path, "job/restarts.json").read_text())["starts"] == 1
