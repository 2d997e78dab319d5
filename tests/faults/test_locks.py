"""File systems that refuse flock: a lease in files stands in; one winner, and a holder that lost it writes nothing."""

import concurrent.futures
import contextlib
import errno
import fcntl
import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import faults
from tests.helpers.leases import taken
from trainer.core.errors import RequestError, StoppedEarly
from trainer.core.job_dir import JobPaths
from trainer.core.storage import file_lease, files, lease, local, lock
from trainer.core.storage.file_lease import FileRecord
from trainer.core.storage.lease import Lease
from trainer.training import run

ROOT = Path(__file__).resolve().parents[2]
BEAT = 0.05  # Seconds.
REFUSALS = ["ENOSYS", "ENOLCK", "EOPNOTSUPP", "ENOTSUP", "EINVAL"]
HOLDER = """
import errno, fcntl, os, sys, time
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files, lock
def refuse(file, how):
    raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
fcntl.flock = refuse
with lock.hold(JobPaths(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
    files.append_text(sys.argv[1] + "/metrics.jsonl", "of the old holder")
"""


def refuse(monkeypatch, name="ENOSYS"):
    number = getattr(errno, name)

    def flock(file, how):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture(autouse=True)
def _short_heartbeat(monkeypatch):
    monkeypatch.setenv("DEEPDETECT_LOCK_HEARTBEAT_SECONDS", str(BEAT))


@pytest.fixture
def log(caplog, monkeypatch):
    """Return the log; the package's own handler may have switched propagation off."""
    monkeypatch.setattr(logging.getLogger("trainer"), "propagate", True)
    caplog.set_level(logging.INFO, logger="trainer")
    return caplog


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "lock")


def leases(path):
    return Lease(FileRecord(path), path, protects="J")


def take(path):
    """Return a lease that was taken, or None."""
    return taken(leases(path))


def steal(record):
    """Take a lease over from its live holder, as another process does once it heard nothing of it."""
    while not record.take(b'{"owner": "process 7 on elsewhere", "token": "x"}', record.read()[1]):
        pass  # A heartbeat came between.


def until_lost():
    """Wait until this process's writes are refused, at a heartbeat."""
    with contextlib.suppress(StoppedEarly):
        while True:
            local.FENCES.check()
            time.sleep(BEAT / 10)


@pytest.fixture
def dead(path):
    """Leave behind what a killed holder does, and return it."""
    mine = leases(path)
    mine._thread = type("Silent", (), {"start": lambda self: None})()  # It dies before its first heartbeat.
    mine.take()
    return mine


@pytest.mark.parametrize("name", REFUSALS)
def test_without_flock_a_lease_holds_the_job_dir_with_one_warning(tmp_path, monkeypatch, log, name):
    refuse(monkeypatch, name)
    paths = JobPaths(str(tmp_path / "new" / "J"))
    with lock.hold(paths):
        assert len([record for record in log.records if record.levelname == "WARNING"]) == 1
        assert "cannot be locked on this file system" in log.text
        assert f"process {os.getpid()} on " in files.read_text(paths.lock)
        files.write_text(paths.config, "{}")
        with pytest.raises(StoppedEarly, match=rf"found a live job in it \(process {os.getpid()} "), lock.hold(paths):
            pass
        files.append_text(paths.config, "\n")
    assert sorted(os.listdir(paths.job_dir)) == ["config.json", "lock", "lock.1"]
    with lock.hold(paths):  # At once, as it was released.
        assert sorted(os.listdir(paths.job_dir)) == ["config.json", "lock", "lock.1", "lock.2"]
    with lock.hold(paths):
        assert sorted(os.listdir(paths.job_dir)) == ["config.json", "lock", "lock.2", "lock.3"]


def test_another_error_of_flock_is_not_hidden(tmp_path, monkeypatch):
    refuse(monkeypatch, "EIO")
    with pytest.raises(OSError, match="Input/output"), lock.hold(JobPaths(str(tmp_path))):
        pass


@pytest.mark.parametrize("name", ["EAGAIN", "EACCES"])
def test_a_lock_that_is_held_is_no_refusal(tmp_path, monkeypatch, name):
    (tmp_path / "lock").write_bytes(b"process 7 on \xff\n")
    refuse(monkeypatch, name)
    with (
        pytest.raises(StoppedEarly, match=r"found a live job in it \(process 7 on "),
        lock.hold(JobPaths(str(tmp_path))),
    ):
        pass
    assert os.listdir(tmp_path) == ["lock"]


def test_a_process_that_can_lock_respects_a_lease_of_one_that_cannot(tmp_path):
    paths = JobPaths(str(tmp_path))
    other = take(paths.lock)
    with pytest.raises(StoppedEarly, match="found a live job in it"), lock.hold(paths):
        pass
    other.release()
    with lock.hold(paths):  # Without a lease again.
        assert not file_lease.exists(paths.lock)


def test_of_many_who_want_a_free_one_exactly_one_gets_it(path):
    for _ in range(3):  # The first time there is no file yet, then a released one.
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            taken = [mine for mine in pool.map(take, [path] * 6) if mine]
        assert len(taken) == 1
        taken[0].check()
        taken[0].release()


def test_of_many_who_find_a_dead_holder_exactly_one_takes_over(path, dead):
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        taken = [mine for mine in pool.map(take, [path] * 6) if mine]
    assert len(taken) == 1
    taken[0].check()
    with pytest.raises(StoppedEarly, match="lost its lock on 'J', which is now held by process"):
        dead._beat() or dead.check()
    taken[0].check()
    taken[0].release()
    assert not file_lease.exists(path)


def test_a_holder_that_comes_back_at_the_last_moment_keeps_it(path):
    holder, taker = FileRecord(path), FileRecord(path)
    generation = holder.take(b"holder", 0)
    assert taker.read() == (b"holder", generation)
    renewed = holder.renew(b"holder 2", generation)
    assert taker.take(b"taker", generation) is None
    assert holder.renew(b"holder 3", renewed)
    assert taker.read()[0] == b"holder 3"


def test_a_taker_that_slept_while_others_came_and_went_gets_nothing(path):
    sleeper, others = FileRecord(path), FileRecord(path)
    assert sleeper.read() is None
    for number in range(4):
        assert others.read() is None
        generation = others.take(b"other %d" % number, 0)
        others.release(generation)
    assert sorted(os.listdir(os.path.dirname(path))) == ["lock.3", "lock.4"]
    assert sleeper.take(b"sleeper", 0) is None  # Its number is free again, and counts no more.
    assert others.read() is None
    assert sleeper.read() is None
    assert sleeper.take(b"sleeper", 0)


def test_a_lock_whose_files_were_removed_is_lost(path):
    mine = take(path)
    os.unlink(f"{path}.1")
    mine._beat()
    with pytest.raises(StoppedEarly, match="which is now removed"):
        mine.check()
    mine.release()
    assert os.listdir(os.path.dirname(path)) == []


def test_a_torn_record_expires(path):
    Path(f"{path}.7").write_bytes(b'{"owner": "proc')
    mine = take(path)
    mine.check()
    mine.release()
    assert os.listdir(os.path.dirname(path)) == ["lock.7", "lock.8"]


@pytest.mark.parametrize("event", ["open", "os.listdir"])
def test_trouble_that_passes_at_any_call_costs_no_lease(tmp_path, event):
    pattern = "*lock*" if event == "open" else str(tmp_path / "*")
    for first in range(1, 40):
        path = str(tmp_path / f"{event}-{first}" / "lock")
        os.makedirs(os.path.dirname(path))
        with faults.injected(event=event, path=pattern, first=first, number=errno.EIO) as fault:
            mine = leases(path)
            mine._heartbeat = 1000.0  # It beats only by hand.
            mine.take()
            mine._beat()
            mine.check()
            other = FileRecord(path)
            assert other.read()[1] == mine._generation
            mine.release()
            assert other.read() is None
        if fault.seen < first:
            return
    raise AssertionError("the sweep did not reach the last call")


def test_a_full_disk_leaves_no_empty_record_and_a_holder_needs_no_room(path, monkeypatch):
    mine = take(path)
    real = os.pwrite

    def full(file, content, offset):
        if not os.fstat(file).st_size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, content, offset)

    monkeypatch.setattr(os, "pwrite", full)
    mine._beat()
    mine.check()
    mine.release()
    with pytest.raises(OSError, match="No space left"):
        leases(path).take()
    assert os.listdir(os.path.dirname(path)) == ["lock.1"]


@pytest.mark.parametrize("how", ["write", "append", "make_dirs", "rename", "remove", "remove_tree"])
def test_a_holder_that_lost_its_lease_writes_nothing_more(tmp_path, monkeypatch, how):
    refuse(monkeypatch)
    paths = JobPaths(str(tmp_path / "J"))
    other = FileRecord(paths.lock)
    with lock.hold(paths):
        files.write_text(f"{paths.job_dir}/a", "a")
        steal(other)
        until_lost()
        words = f"lost its lock on '{paths.job_dir}', which is now held by process 7 on elsewhere"
        action = {
            "write": lambda: files.write_text(f"{paths.job_dir}/a", "b"),
            "append": lambda: files.append_text(f"{paths.job_dir}/a", "b"),
            "make_dirs": lambda: files.make_dirs(f"{paths.job_dir}/d"),
            "rename": lambda: files.rename(f"{paths.job_dir}/a", f"{paths.job_dir}/b"),
            "remove": lambda: files.remove(f"{paths.job_dir}/a"),
            "remove_tree": lambda: files.remove_tree(paths.job_dir),
        }
        with pytest.raises(StoppedEarly, match=words):
            action[how]()
    assert files.read_text(f"{paths.job_dir}/a") == "a"
    assert not files.exists(f"{paths.job_dir}/d")
    assert other.read()[0].startswith(b'{"owner": "process 7')  # Another one's record is not released at the end.
    files.write_text(f"{paths.job_dir}/a", "free")


def test_time_in_which_the_machine_was_suspended_counts_for_the_holder(path, monkeypatch):
    mine = take(path)
    mine._ending.set()
    other = FileRecord(path)
    steal(other)
    real = time.clock_gettime
    monkeypatch.setattr(mine, "_heartbeat", 1000.0)
    mine.check()  # No time passed: it is believed without a look.
    monkeypatch.setattr(lease.time, "clock_gettime", lambda clock: real(clock) + 1e6 * (clock == time.CLOCK_BOOTTIME))
    with pytest.raises(StoppedEarly, match="lost its lock"):
        mine.check()
    mine.release()


def test_without_the_clock_of_linux_a_lease_works(path, monkeypatch):
    monkeypatch.delattr(lease.time, "CLOCK_BOOTTIME")
    mine = take(path)
    mine.check()
    mine.release()


def test_a_live_job_is_named_before_its_folder_is_probed(tmp_path, monkeypatch):
    """Every container's first process has number 1, so the names of two probes can be the same."""

    def probe(path, flag):
        raise RequestError("the other process removed the probe")

    paths = JobPaths(str(tmp_path))
    with lock.hold(paths):
        monkeypatch.setattr(files, "require_writable", probe)
        with pytest.raises(StoppedEarly, match="found a live job in it"), run._own_job_dir(paths):
            pass


def test_a_folder_that_cannot_have_a_lock_is_explained(tmp_path):
    (tmp_path / "J").write_text("a file")
    words = "--job_dir: expected a folder that can be written"
    with pytest.raises(RequestError, match=words), lock.hold(JobPaths(str(tmp_path / "J"))):
        pass


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_one_that_was_stopped_cannot_write(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPDETECT_LOCK_HEARTBEAT_SECONDS", "0.2")
    refuse(monkeypatch)
    paths = JobPaths(str(tmp_path / "J"))

    def holder():
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        process = subprocess.Popen([sys.executable, "-c", HOLDER, paths.job_dir], cwd=ROOT, **pipes)
        assert process.stdout.readline() == "held\n"
        return process

    first = holder()
    with pytest.raises(StoppedEarly, match=rf"found a live job in it \(process {first.pid} on "), lock.hold(paths):
        pass
    first.kill()
    first.communicate()
    second = holder()
    second.send_signal(19)  # SIGSTOP: no heartbeat from here on.
    with lock.hold(paths):
        files.write_text(paths.metrics, "of the new holder\n")
        second.send_signal(18)
        _, err = second.communicate("go on\n", timeout=30)
        assert second.returncode == 1
        assert "StoppedEarly: this job lost its lock" in err
    assert files.read_text(paths.metrics) == "of the new holder\n"
