"""Break a job on purpose, start it again, and compare with one that nobody disturbed."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.jobs import argv, checkpoints_of, finished_job, lines_of, result_of, run_job, values_of

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
JOB = {"epochs": 3, "dropout": 0.2, "checkpoint_every_steps": 2}


@pytest.fixture(scope="module")
def undisturbed(image_set, tmp_path_factory):
    """Return the job_dir of a finished job."""
    return finished_job(image_set, tmp_path_factory.mktemp("undisturbed"), **JOB)


@pytest.fixture
def broken_off(undisturbed, tmp_path):
    """Return a job_dir as a kill after step 14 of 15 leaves it: no result, no last checkpoint."""
    job_dir = tmp_path / "job"
    shutil.copytree(undisturbed, job_dir)
    (job_dir / "result.json").unlink()
    shutil.rmtree(folder(job_dir, 15))
    return job_dir


def folder(job_dir, step):
    return Path(job_dir) / "checkpoints" / f"{step:010d}"


def assert_ends_alike(image_set, job_dir, undisturbed):
    assert run_job(image_set, job_dir, **JOB) == 0
    assert result_of(job_dir)["weights_sha256"] == result_of(undisturbed)["weights_sha256"]
    assert values_of(job_dir) == values_of(undisturbed)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = {
    "truncated arrays": lambda path: os.truncate(path / "arrays.npz", 1000),
    "flipped bit": lambda path: flip_a_bit(path / "arrays.npz"),
    "flipped bit in the state": lambda path: flip_a_bit(path / "state.json"),
    "missing arrays": lambda path: (path / "arrays.npz").unlink(),
    "torn marker": lambda path: os.truncate(path / "COMMIT.json", 10),
    "missing marker": lambda path: (path / "COMMIT.json").unlink(),
}


_FEW = {"flipped bit", "missing marker"}


@pytest.mark.parametrize(
    "damage", [name if name in _FEW else pytest.param(name, marks=pytest.mark.thorough) for name in DAMAGES]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(
    image_set, undisturbed, broken_off, damage, package_log
):
    newest = checkpoints_of(broken_off)[-1]
    DAMAGES[damage](folder(broken_off, newest))
    assert_ends_alike(image_set, broken_off, undisturbed)
    assert f"{newest:010d}" in package_log.text
    assert ": skipped" in package_log.text
    assert f"continuing from step {checkpoints_of(undisturbed)[-3]}" in package_log.text


def test_if_all_checkpoints_are_damaged_the_job_does_not_start_from_zero(image_set, broken_off, capsys):
    before = checkpoints_of(broken_off)
    for step in before:
        flip_a_bit(folder(broken_off, step) / "arrays.npz")
    assert run_job(image_set, broken_off, **JOB) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: expected a whole checkpoint")
    assert checkpoints_of(broken_off) == before


def test_a_line_that_a_kill_cut_off_is_written_again(image_set, undisturbed, broken_off):
    metrics = broken_off / "metrics.jsonl"
    os.truncate(metrics, metrics.stat().st_size - 7)
    assert_ends_alike(image_set, broken_off, undisturbed)


def test_a_job_without_its_first_checkpoint_starts_from_zero_with_a_clean_journal(image_set, undisturbed, broken_off):
    shutil.rmtree(broken_off / "checkpoints")
    assert_ends_alike(image_set, broken_off, undisturbed)


def test_a_time_limit_saves_and_asks_to_be_started_again(image_set, undisturbed, tmp_path, capsys):
    job_dir = tmp_path / "job"
    assert run_job(image_set, job_dir, max_seconds=0.001, **JOB) == 75
    assert "--max_seconds at step 1 of 15" in capsys.readouterr().err
    assert checkpoints_of(job_dir) == [1]
    assert not (job_dir / "result.json").exists()
    assert_ends_alike(image_set, job_dir, undisturbed)


def test_another_number_of_devices_continues_with_the_same_weights(image_set, undisturbed, broken_off):
    assert run_job(image_set, broken_off, num_devices=2, **JOB) == 0
    assert result_of(broken_off)["weights_sha256"] == result_of(undisturbed)["weights_sha256"]


def test_a_job_that_gets_nowhere_is_refused(image_set, broken_off, capsys):
    step = checkpoints_of(broken_off)[-1]
    (broken_off / "restarts.json").write_text(json.dumps({"step": step, "starts": 4}))
    assert run_job(image_set, broken_off, **JOB) == 1
    assert "without progress" in capsys.readouterr().err
    assert run_job(image_set, broken_off, max_restarts_without_progress=0, **JOB) == 0


def test_a_divergence_stops_or_goes_back_with_half_the_rate(image_set, tmp_path, capsys, package_log):
    wild = {"optimizer": "sgd", "lr_schedule": "constant", "dropout": 0.0, "epochs": 1, "checkpoint_every_steps": 1}
    rates = [4.0 * 2 ** (power / 2) for power in range(8)]
    rate = next(r for r in rates if run_job(image_set, tmp_path / f"stop{r}", learning_rate=r, **wild) == 1)
    assert "not finite" in capsys.readouterr().err
    job_dir = tmp_path / "rollback"
    assert run_job(image_set, job_dir, learning_rate=rate, on_divergence="rollback", **wild) == 0
    assert "back to step" in package_log.text
    assert [line["step"] for line in lines_of(job_dir, "train")] == [1, 2, 3, 4, 5]
    assert lines_of(job_dir, "train")[-1]["learning_rate"] < rate


def test_a_full_disk_ends_no_training_and_costs_no_older_checkpoint(image_set, undisturbed, tmp_path):
    """On a real tmpfs that holds one checkpoint and no second, in a mount namespace of its own."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this machine allows no mount namespace")
    disk = tmp_path / "disk"
    disk.mkdir()
    train = " ".join([sys.executable, "-m", "trainer.train", *argv(image_set, disk / "job", **JOB)])
    script = f"""
        mount -t tmpfs -o size=4500k tmpfs {disk}
        {train} > /dev/null 2> {tmp_path}/first; echo first $?
        ls {disk}/job/checkpoints/*/COMMIT.json | wc -l
        mount -o remount,size=64m {disk}
        {train} > /dev/null 2> {tmp_path}/second; echo second $?
        cp {disk}/job/result.json {disk}/job/metrics.jsonl {tmp_path}
    """
    done = subprocess.run(
        ["unshare", "-rm", "bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    first = (tmp_path / "first").read_text()
    assert done.stdout.split() == ["first", "1", "1", "second", "0"], (done, first)
    assert "could not be written" in first
    assert "No space left" in first
    assert "Traceback" not in first
    assert result_of(tmp_path)["weights_sha256"] == result_of(undisturbed)["weights_sha256"]
    assert values_of(tmp_path) == values_of(undisturbed)


@pytest.mark.parametrize(
    ("devices", "precision"), [(1, "float32"), pytest.param(2, "mixed_float16", marks=pytest.mark.thorough)]
)
def test_kills_at_random_moments_change_nothing(devices, precision):
    """A short run of the script that anyone can run for longer; docs/measured/exact-resume.md keeps its long table."""
    command = [sys.executable, "scripts/chaos.py", "--kills=2", "--epochs=2", f"--devices={devices}",
               f"--precisions={precision}"]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    row = done.stdout.splitlines()[-1]
    assert row.startswith(f"| {devices} | {precision} | 2 |")
    assert row.count("identical") == 2
