"""The launcher of sweeps: whose exit code counts, and which GPUs a worker gets; no trial runs."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import local_cluster

# Stand for trainer.tune.  This chief refuses, and its workers do not listen to signals yet.
REFUSED = """
import os, sys, time
if os.environ["KERASTUNER_TUNER_ID"] == "chief":
    sys.exit(2)
time.sleep(60)
"""
# These are asked to stop; the chief has nothing to save, and workers take their time, as with a checkpoint.
STOPPED = """
import os, pathlib, signal, sys, time

def stop(number, frame):
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if os.environ["KERASTUNER_TUNER_ID"] != "chief":
        time.sleep(2)
    sys.exit(75)

signal.signal(signal.SIGTERM, stop)
pathlib.Path(sys.argv[1], os.environ["KERASTUNER_TUNER_ID"]).touch()
time.sleep(60)
"""


@pytest.fixture
def stand_in(monkeypatch):
    """Return what lets a script stand for trainer.tune."""
    real = subprocess.Popen

    def replace(script, *more):
        def start(words, **options):
            assert words[1:3] == ["-m", "trainer.tune"]
            return real([sys.executable, "-c", script, *more], **options)

        monkeypatch.setattr(local_cluster.subprocess, "Popen", start)

    return replace


def launch(*words, **environment):
    return subprocess.run(
        [sys.executable, local_cluster.__file__, "--sweep", *words], capture_output=True, text=True, timeout=60,
        env={**os.environ, **environment}, check=False,
    )  # fmt: skip


def test_a_refused_sweep_is_told_by_its_chief_and_not_by_workers_that_were_still_starting(stand_in, capsys):
    stand_in(REFUSED)
    assert local_cluster.main(["-n", "2", "--sweep"]) == 2
    assert "exit codes: chief: 2, worker 0: 143, worker 1: 143" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stop_is_passed_on_once_so_that_workers_can_save(stand_in, tmp_path, capsys):
    def ask():
        while len(list(tmp_path.iterdir())) < 3:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    stand_in(STOPPED, str(tmp_path))
    threading.Thread(target=ask, daemon=True).start()
    assert local_cluster.main(["-n", "2", "--sweep"]) == 75
    assert "exit codes: chief: 75, worker 0: 75, worker 1: 75" in capsys.readouterr().out


def test_too_few_gpus_are_refused_in_one_line():
    done = launch("-n", "2", "--devices_per_trial=2", CUDA_VISIBLE_DEVICES="4,5,-1,6")
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: expected --workers x --devices_per_trial GPUs (4), found 2")


@pytest.mark.parametrize(
    ("visible", "listed", "found"),
    [
        ("4, 5", 3, ["4", "5"]),
        ("", 3, []),
        ("GPU-8932,-1,GPU-77", 3, ["GPU-8932"]),
        (None, 3, ["0", "1", "2"]),
        (None, None, []),
    ],
)
def test_gpus_are_those_that_cuda_shows(tmp_path, monkeypatch, visible, listed, found):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    if listed is not None:  # The output of nvidia-smi -L, with one GPU divided into instances.
        program = tmp_path / "nvidia-smi"
        lines = [f"GPU {index}: NVIDIA H100 (UUID: GPU-{index})" for index in range(listed)]
        program.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in [*lines, "  MIG 1g.10gb Device 0"]))
        program.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert local_cluster.gpus() == found


def test_each_worker_gets_gpus_of_its_own():
    described = local_cluster.sweep_environments(2, 2, ["4", "5", "6", "7", "8"])
    assert [one["CUDA_VISIBLE_DEVICES"] for one in described.values()] == ["-1", "4,5", "6,7"]
    assert "CUDA_VISIBLE_DEVICES" not in local_cluster.sweep_environments(1)["worker 0"]
