"""The lock on gs://, on a real server: one winner, dead holders replaced, live ones respected, lost ones noticed."""

import concurrent.futures
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.fake_gcs import objects, request_of
from tests.helpers.leases import taken
from trainer.core.errors import StoppedEarly, StorageDown
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files, gcs_client, gcs_objects, lock
from trainer.core.storage import lease as lease_lib
from trainer.core.storage.lease import Lease

ROOT = Path(__file__).resolve().parents[2]
BEAT = 0.1  # Seconds.
HOLDER = """
import sys, time
from trainer.core.job_dir import JobPaths
from trainer.core.storage import lock
with lock.hold(JobPaths(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def lease(bucket):
    path = f"{bucket}/lock"
    return Lease(gcs_objects.ObjectRecord(path), path, protects=bucket, heartbeat=BEAT)


def take(bucket):
    """Return a lease that was taken, or None."""
    return taken(lease(bucket))


@pytest.fixture
def dead(bucket):
    """Leave behind what a killed holder does, and return the bucket."""
    mine = lease(bucket)
    mine._thread = type("Silent", (), {"start": lambda self: None})()  # It dies before its first heartbeat.
    mine.take()
    return bucket


def test_a_lease_is_taken_kept_and_released(bucket):
    mine = take(bucket)
    first = gcs_objects.read_with_generation(f"{bucket}/lock")[1]
    time.sleep(4 * BEAT)
    assert gcs_objects.read_with_generation(f"{bucket}/lock")[1] != first
    mine.check()
    assert take(bucket) is None
    mine.check()
    mine.release()
    assert objects(bucket) == []


def test_of_many_who_want_a_free_one_exactly_one_gets_it(bucket):
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        taken = [mine for mine in pool.map(take, [bucket] * 6) if mine]
    assert len(taken) == 1
    taken[0].check()
    taken[0].release()


def test_of_many_who_find_a_dead_holder_exactly_one_takes_over(dead):
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        taken = [mine for mine in pool.map(take, [dead] * 6) if mine]
    assert time.monotonic() - began >= 6 * BEAT
    assert len(taken) == 1
    taken[0].check()
    taken[0].release()


def test_a_lock_without_sense_is_taken_over(bucket):
    files.write_text(f"{bucket}/lock", "[torn")
    mine = take(bucket)
    assert mine
    mine.release()


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_holder_that_lost_its_lease_writes_nothing_more(bucket, monkeypatch, how):
    monkeypatch.setenv("DEEPDETECT_LOCK_HEARTBEAT_SECONDS", str(BEAT))
    paths = JobPaths(f"{bucket}/job")
    with lock.hold(paths):
        files.write_text(f"{bucket}/job/a", "")
        if how == "replaced":
            gcs_objects.write_if(paths.lock, b'{"owner": "process 7 on elsewhere", "token": "x"}',
                         gcs_objects.read_with_generation(paths.lock)[1], fenced=False)  # fmt: skip
        else:
            gcs_objects.remove(paths.lock, fenced=False)
        time.sleep(3 * BEAT)
        now = "held by process 7 on elsewhere" if how == "replaced" else "removed"
        with pytest.raises(StoppedEarly, match=f"lost its lock on '{bucket}/job', which is now {now}"):
            files.append_text(f"{bucket}/job/a", "x")
        with pytest.raises(StoppedEarly):
            files.remove_tree(f"{bucket}/job")
    assert files.read_text(f"{bucket}/job/a") == ""
    assert files.exists(paths.lock) == (how == "replaced")  # Another one's lock is not removed at the end.


@pytest.mark.parametrize("when", ["before", "during", "after"])
def test_a_sweep_that_lost_its_lease_writes_nothing_more_whatever_its_trials_hold(bucket, monkeypatch, when):
    monkeypatch.setenv("DEEPDETECT_LOCK_HEARTBEAT_SECONDS", str(BEAT))

    def lose():
        gcs_objects.remove(f"{bucket}/lock", fenced=False)
        time.sleep(3 * BEAT)

    with lock.hold(JobPaths(bucket)):
        if when == "before":
            lose()
        with lock.hold(JobPaths(f"{bucket}/trials/0000")):
            if when == "during":
                lose()
            if when != "after":
                with pytest.raises(StoppedEarly, match=f"lost its lock on '{bucket}'"):
                    files.write_text(f"{bucket}/trials/0000/result.json", "{}")
        if when == "after":
            lose()
        with pytest.raises(StoppedEarly, match=f"lost its lock on '{bucket}'"):
            files.write_text(f"{bucket}/oracle.json", "{}")
    assert objects(bucket) == []
    files.write_text(f"{bucket}/free", "")


def test_a_holder_that_was_suspended_asks_before_it_writes(bucket):
    mine = lease(bucket)
    mine.take()
    mine._ending.set()  # No heartbeat from here on, as in a process that is stopped.
    time.sleep(5 * BEAT)
    mine.check()  # Nobody came: it is confirmed and goes on.
    time.sleep(5 * BEAT)
    other = take(bucket)
    assert other
    with pytest.raises(StoppedEarly, match="lost its lock"):
        mine.check()
    mine.release()
    other.check()
    other.release()


def test_an_answer_that_got_lost_costs_no_lease(bucket, gcs_server, monkeypatch):
    monkeypatch.setattr(gcs_client, "_FIRST_DELAY", 0.02)
    with gcs_server.fault(match="POST.*ifGeneration", reset=True, after=True, every=2) as hit:
        mine = take(bucket)
        time.sleep(5 * BEAT)
        mine.check()
        assert hit.hits >= 2
    mine.check()
    mine.release()
    assert objects(bucket) == []


def test_without_an_answer_a_holder_in_doubt_does_not_write(bucket, gcs_server, monkeypatch):
    monkeypatch.setenv("DEEPDETECT_GCS_RETRY_SECONDS", "0.3")
    mine = take(bucket)
    with gcs_server.fault(match=request_of(bucket), status=503):
        time.sleep(5 * BEAT)
        with pytest.raises(StorageDown):
            mine.check()
    mine.check()  # Back again, and nobody has taken over.
    mine.release()


@pytest.mark.parametrize("how", ["write", "create", "append", "remove"])
def test_a_request_that_was_held_up_changes_nothing_of_the_next_holder(bucket, monkeypatch, how):
    """The process is suspended between its look at the lease and its request, and wakes up as another one writes."""
    path = f"{bucket}/job/result.json"
    with lock.hold(JobPaths(f"{bucket}/job")):
        if how != "create":
            files.write_text(path, "old")
        real = gcs_client.FENCES.check
        requests = []

        def suspend(*arguments):
            real()
            if not requests:  # Once; others then write what the request is about.
                requests.append("held up")
                monkeypatch.setattr(gcs_client.FENCES, "check", real)
                generation = (gcs_objects.read_with_generation(path) or ("", 0))[1]
                gcs_objects.write_if(path, b"of the next holder", generation, fenced=False)

        if how == "append":  # Not before its part, which has a name of its own.
            monkeypatch.setattr(gcs_objects, "write", lambda path, content, write=gcs_objects.write: (
                write(path, content), monkeypatch.setattr(gcs_client.FENCES, "check", suspend)))  # fmt: skip
        else:
            monkeypatch.setattr(gcs_client.FENCES, "check", suspend)
        if how == "remove":
            files.remove(path)
        else:
            with pytest.raises(StoppedEarly, match="another process changed it"):
                (files.append_text if how == "append" else files.write_text)(path, "mine")
        assert requests
    assert files.read_text(path) == "of the next holder"


def test_a_write_whose_answer_got_lost_is_none_of_another_process(bucket, gcs_server, monkeypatch):
    monkeypatch.setattr(gcs_client, "_FIRST_DELAY", 0.02)
    path = f"{bucket}/job/result.json"
    with lock.hold(JobPaths(f"{bucket}/job")):
        for content in ("first", "second"):
            with gcs_server.fault(match="POST.*ifGeneration", reset=True, after=True, times=1) as hit:
                files.write_text(path, content)
            assert (hit.hits, files.read_text(path)) == (1, content)


@pytest.mark.slow
def test_a_live_process_is_named_and_a_killed_one_is_replaced(bucket, monkeypatch):
    monkeypatch.setenv("DEEPDETECT_LOCK_HEARTBEAT_SECONDS", "0.3")
    paths = JobPaths(f"{bucket}/job")
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, paths.job_dir], cwd=ROOT, env=os.environ.copy(),
                              stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert holder.stdout.readline() == "held\n"
    owner = f"process {holder.pid} on {socket.gethostname()}"
    with pytest.raises(StoppedEarly, match=f"found a live job in it .{owner}"), lock.hold(paths):
        pass
    holder.kill()
    holder.wait()
    lines = []
    monkeypatch.setattr(lease_lib.log, "info", lambda text, *values: lines.append(text % values))
    with lock.hold(paths):
        assert lines == [f"{paths.job_dir} was held by {owner}, which has ended: taking it over"]
        assert f"process {os.getpid()} " in files.read_text(paths.lock)
    assert objects(bucket) == []
