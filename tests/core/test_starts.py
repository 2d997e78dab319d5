"""Ends of processes are written for those who come after, with their logs: real processes, and cgroups as folders."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from trainer.core import cli
from trainer.core.job_dir import JobPaths
from trainer.core.starts import cgroup, dirty_writer, mirror, record
from trainer.core.starts.dirty_writer import DirtyWriter
from trainer.core.starts.json_lines import JsonLines
from trainer.core.starts.recorder import Recorder
from trainer.core.storage import files

ROOT = Path(__file__).resolve().parents[2]
COMMAND = """
import logging, os, signal, sys, time
from pathlib import Path
from trainer.core import cli, errors, starts

def oom(memory):  # What the kernel does.
    Path(memory, "memory.events").write_text("oom 1\\noom_kill 1\\n")
    os.kill(os.getpid(), 9)

def fail():
    raise KeyError("bug")

def main(words):
    os.write(2, b"2026-11-27 22:00:00.1: E foo.cc:1] of TensorFlow\\n")
    starts.bind(words[0].partition("=")[2], "worker 1")
    starts.note_step(words[0].partition("=")[2], 7)
    logging.getLogger("trainer.of_this_test").warning("a word")
    print("printed", flush=True)
    eval(words[1])
    return 0

cli.console(main, watched=True)
"""
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


def command(job_dir, body, **environment):
    words = [sys.executable, "-c", COMMAND, f"--job_dir={job_dir}", body]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(words, cwd=ROOT, env={**os.environ, **environment}, **pipes)


def group(folder, *, version=2, limit=100, used=0, kills=0):
    """Write a memory cgroup into a folder."""
    folder.mkdir(exist_ok=True)
    names = {"memory.max": limit, "memory.stat": f"anon {used}\nshmem 0", "memory.events": f"oom_kill {kills}"}
    if version == 1:
        names = {"memory.limit_in_bytes": limit, "memory.stat": f"total_rss {used}\ntotal_shmem 0\nrss 7",
                 "memory.oom_control": f"oom_kill_disable 0\nunder_oom 0\noom_kill {kills}"}  # fmt: skip
    for name, content in names.items():
        (folder / name).write_text(f"{content}\n")
    return folder


@pytest.mark.parametrize("version", [1, 2])
def test_both_versions_of_cgroups_are_read(tmp_path, monkeypatch, version):
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    look = cgroup.look(group(tmp_path / "group", version=version, limit=100, used=90, kills=2))
    assert (look, look.is_tight) == (cgroup.Memory(100, 90, 2), True)
    none = 2**63 - 4096 if version == 1 else "max"
    assert cgroup.look(group(tmp_path / "group", version=version, limit=none, used=90)) == cgroup.Memory(0, 90, 0)
    assert cgroup.look(tmp_path / "none") == cgroup.Memory()


@pytest.mark.parametrize(
    ("body", "code", "says"),
    [
        ("fail()", 1, "exit code 1: KeyError: 'bug'"),
        pytest.param("oom('{group}')", 137, "killed by SIGKILL, the kernel killed it for want of memory",
                     marks=pytest.mark.slow),
        pytest.param("os._exit(76)", 76, "exit code 76", marks=pytest.mark.slow),
        pytest.param("os.abort()", 134, "killed by SIGABRT", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_in_a_pod_all_of_the_log_is_json_and_stays_with_the_end(tmp_path, body, code, says):
    folder = group(tmp_path / "group", limit=2**30)
    process = command(tmp_path / "job", body.format(group=folder), **POD, DEEPDETECT_CGROUP=str(folder))
    out, err = process.communicate(timeout=60)
    assert process.returncode == code
    lines = [json.loads(line) for line in [*out.splitlines(), *err.splitlines()]]
    by_message = {line["message"].splitlines()[-1]: line for line in lines}
    assert by_message["printed"]["logger"] == "stdout"
    assert by_message["a word"]["logger"] == "trainer.of_this_test"
    assert by_message["2026-11-27 22:00:00.1: E foo.cc:1] of TensorFlow"]["severity"] == "ERROR"
    if code == 1:
        assert by_message["KeyError: 'bug'"]["message"].startswith("Traceback (most recent call last):\n  File")
    (start,) = record.lines(str(tmp_path / "job"))
    assert ": ".join(start.split(": ")[1:]).startswith(says)
    assert "worker-1 on " in start
    assert ", from step 7: " in start
    mirrored = mirror.lines(str(tmp_path / "job"))
    assert mirrored[0].startswith("== worker-1-2")
    assert sorted(mirrored[1:]) == sorted([*out.splitlines(), *err.splitlines()])


@pytest.mark.slow
def test_in_a_pod_signals_arrive_once_and_a_killed_parent_takes_the_command_along(tmp_path):
    process = command(tmp_path / "job", "time.sleep(60)", **POD)
    assert "printed" in process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 75
    assert json.loads(err.splitlines()[-1])["message"] == "stopped: SIGTERM; rerun the same command"
    process = command(tmp_path / "job", "(print(os.getpid(), flush=True), time.sleep(60))", **POD)
    process.stdout.readline()
    child = int(json.loads(process.stdout.readline())["message"])
    while len(record.read(str(tmp_path / "job"), 9)) < 2:
        time.sleep(0.02)
    process.kill()
    process.communicate()
    while Path(f"/proc/{child}/stat").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        time.sleep(0.02)
    ends = [start.end for start in record.read(str(tmp_path / "job"), 9)]
    assert [end and end.code for end in ends] == [75, None]


def test_a_command_by_hand_records_its_end_and_writes_no_log(tmp_path):
    process = command(tmp_path, "time.sleep(60)")
    assert process.stdout.readline() == "printed\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err.splitlines()[-1]) == (75, "stopped: SIGTERM; rerun the same command")
    (start,) = record.read(str(tmp_path), 9)
    assert (start.end.code, start.end.words, start.step) == (75, "stopped: SIGTERM; rerun the same command", 7)
    assert not (tmp_path / "logs").exists()


def test_the_next_start_says_of_what_the_one_before_died(tmp_path, monkeypatch):
    monkeypatch.setenv(cgroup.FOLDER, str(group(tmp_path / "group", kills=1)))
    job = str(tmp_path / "job")
    first = record.Start("main", "2026-11-27T10:00:00.000", os.uname().nodename, cgroup.Memory(100, 0, 0), step=3)
    first.write(job)
    Recorder(job, "main").end(0)
    starts = record.read(job, 9)
    assert starts[0].ran_out_of_memory
    assert "ended without a word, the kernel killed it for want of memory (limit 0.0 GiB)" in starts[0].line()
    Recorder(job, "main").end(0)  # It is not blamed again.
    assert [start.ran_out_of_memory for start in record.read(job, 9)] == [True, False, False]
    (Path(JobPaths(job).starts) / f"{first.name}.json").write_text("torn")
    assert len(record.read(job, 9)) == 2


def test_only_so_many_starts_and_parts_of_a_log_are_kept(tmp_path, monkeypatch):
    job = str(tmp_path)
    for minute in range(record.KEPT + 2):
        record.Start("main", f"2026-11-27T10:{minute:02}:00.000", "host").write(job)
        files.write_text(f"{job}/logs/main-20261127T10{minute:02}00000.log", "old")
    record.Start("worker-1", "2026-11-27T10:00:00.000", "host").write(job)
    recorder = Recorder(job, "main")
    recorder.end(0)
    assert len(files.list_names(f"{job}/starts")) == record.KEPT + 2
    assert len(files.list_names(f"{job}/logs")) == record.KEPT
    assert "20261127T100000000-worker-1.json" in files.list_names(f"{job}/starts")

    monkeypatch.setattr(mirror, "_PART_BYTES", 10)
    log = mirror.Mirror()
    for number in range(30):
        log.add(f"line {number:03}\n".encode())
    log.begin(job, recorder.name)
    log.end(30.0)
    lines = mirror.lines(job)
    assert lines[:2] == [f"== {recorder.name} ==", "line 000"]
    assert lines[2:] == [f"line {number:03}" for number in range(21, 30)]


def test_a_storage_that_is_away_costs_nothing(tmp_path):
    (tmp_path / "file").write_text("no folder")
    recorder = Recorder(f"{tmp_path}/file/job", "main")
    recorder.end(0)
    log = mirror.Mirror()
    log.add(b"a\n")
    log.begin(f"{tmp_path}/file/job", "main-1")
    log.end(30.0)
    assert record.lines(f"{tmp_path}/file/job") == []


def test_what_a_storage_refused_is_written_once_it_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr(dirty_writer, "_FIRST_PAUSE", 0.01)
    monkeypatch.setattr(dirty_writer, "_LOOK_SECONDS", 0.01)
    refusals = []

    def write():
        try:
            (tmp_path / "folder" / "file").write_text("written")
        except OSError as error:
            refusals.append(error)
            raise

    writer = DirtyWriter(write)
    writer.mark()
    writer.start()
    deadline = time.monotonic() + 30
    while len(refusals) < 3:
        assert time.monotonic() < deadline, "it was not tried again"
        time.sleep(0.01)
    (tmp_path / "folder").mkdir()
    while not (tmp_path / "folder" / "file").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    writer.end(30.0)


def test_what_a_storage_says_to_these_threads_is_not_the_commands_log(capsys):
    def command(_):
        for name in ("other", dirty_writer.THREAD):
            words = (f"from {name}",)
            thread = threading.Thread(target=logging.getLogger("trainer.of_this_test").warning, args=words, name=name)
            thread.start()
            thread.join()
        return 0

    assert cli.run_command(command, []) == 0
    assert capsys.readouterr().err == "from other\n"


def test_a_chain_of_tracebacks_is_one_line_and_what_follows_another():
    text = ["Traceback (most recent call last):", '  File "a"', "KeyError: 1", "",
            "During handling of the above exception, another exception occurred:", "",
            "Traceback (most recent call last):", '  File "b"', "ValueError: 2", "after"]  # fmt: skip
    lines = JsonLines("stderr")
    written = b"".join(lines.add(f"{line}\n".encode()) for line in text) + lines.end()
    messages = [json.loads(line)["message"] for line in written.splitlines()]
    assert messages == ["\n".join(text[:-1]), "after"]
