"""``--selftest`` on the CPU of this machine, and what it says when something is wrong."""

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.training import selftest

ROOT = Path(__file__).resolve().parents[2]


def run(*words):
    """Run it as users do: its all-reduce wants a process in which no other strategy has been."""
    command = [sys.executable, "-m", "trainer.train", "--selftest", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.slow
def test_all_is_well_on_a_cpu(image_set, tmp_path):
    if selftest._visible_devices():
        pytest.skip("this machine has GPUs")
    code, lines, _ = run(f"--data_dir={image_set}", f"--job_dir={tmp_path / 'job'}")
    assert code == 0, lines
    assert all(line.startswith("ok") for line in lines)
    assert {line.split()[1] for line in lines} >= {
        "driver",
        "GPUs",
        "CUDA",
        "cuDNN",
        "all-reduce",
        "/dev/shm",
        "job_dir",
    }
    assert any("correct over 2 CPU devices" in line for line in lines)


@pytest.mark.slow
def test_what_fails_is_named_with_what_to_do_and_the_rest_still_runs(tmp_path):
    (tmp_path / "file").write_text("")
    code, lines, _ = run("--expect_gpus=64", f"--job_dir={tmp_path / 'file'}", f"--data_dir={tmp_path / 'absent'}")
    assert code == 1, lines
    failed = {line.split()[1]: line for line in lines if line.startswith("FAILED")}
    assert set(failed) == {"GPUs", "data_dir", "job_dir"}
    assert "tensorflow[and-cuda]" in failed["GPUs"]


def test_a_wrong_flag_is_refused():
    code, _, error = run("--expect_gpu=1")
    assert code == 2
    assert "did you mean 'expect_gpus'?" in error
