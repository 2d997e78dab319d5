"""A job that was promised GPUs and finds fewer says so; it never trains on the CPU in silence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.children import Child
from tests.helpers.commands import refusal
from tests.helpers.jobs import argv, result_of, run_job
from trainer import train
from trainer.core.config import RuntimeConfig
from trainer.core.errors import RequestError
from trainer.distributed import gpu_promise
from trainer.distributed.gpu_promise import MissingGpus

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import local_cluster

ROOT = Path(__file__).resolve().parents[2]
PROMISED = {"DEEPDETECT_GPUS": "4"}
HIDDEN = {"CUDA_VISIBLE_DEVICES": "-1"}

pytestmark = pytest.mark.skipif(gpu_promise.nvidia_devices() > 0, reason="this machine has GPUs")


@pytest.mark.parametrize(("settings", "received", "environment", "expected"), [
    ({}, 0, {}, ""),
    ({"num_devices": 2}, 0, {}, ""),  # Logical devices of a CPU.
    ({"num_devices": 2}, 0, HIDDEN, ""),
    ({"num_devices": 2}, 0, {"CUDA_VISIBLE_DEVICES": ""}, ""),
    ({"num_devices": 2}, 0, {"CUDA_VISIBLE_DEVICES": "0,1"}, "2 GPUs (--num_devices)"),
    ({"num_devices": 2}, 0, {"CUDA_VISIBLE_DEVICES": "GPU-1f3a"}, "2 GPUs (--num_devices)"),
    ({"num_devices": 2}, 1, {}, "2 GPUs (--num_devices)"),
    ({"num_devices": 2}, 2, {}, ""),
    ({"num_devices": 2, "require_gpu": True}, 0, {}, "2 GPUs (--num_devices)"),
    ({"require_gpu": True}, 0, HIDDEN, "1 GPUs (--require_gpu)"),
    ({"require_gpu": True}, 1, {}, ""),
    ({}, 3, PROMISED, "4 GPUs (DEEPDETECT_GPUS)"),
    ({"num_devices": 2}, 2, PROMISED, "4 GPUs (DEEPDETECT_GPUS)"),
    ({}, 8, PROMISED, ""),
    ({"num_devices": 2}, 0, {"DEEPDETECT_GPUS": "0", "CUDA_VISIBLE_DEVICES": "0,1"}, ""),
    ({"num_devices": 2}, 0, {"DEEPDETECT_GPUS": "1"}, "2 GPUs (--num_devices)"),
])  # fmt: skip
def test_promises_are_kept_or_named(settings, received, environment, expected):
    text = gpu_promise.shortfall(RuntimeConfig(**settings), received, environment)
    assert bool(text) == bool(expected)
    assert text.startswith(f"expected {expected}, received {received}; " if expected else "")


@pytest.mark.parametrize(("environment", "in_cluster", "kind"), [
    ({}, False, RequestError),
    ({"DEEPDETECT_GPUS": "0"}, False, RequestError),
    (PROMISED, False, MissingGpus),
    ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, False, MissingGpus),
    ({"SLURM_JOB_ID": "7"}, False, MissingGpus),
    ({}, True, MissingGpus),
])  # fmt: skip
def test_a_scheduler_may_try_another_machine(environment, in_cluster, kind):
    assert type(gpu_promise.broken("expected", in_cluster=in_cluster, environment=environment)) is kind


def test_a_visible_gpu_that_tensorflow_does_not_find_is_never_left_in_silence(monkeypatch):
    monkeypatch.setattr(gpu_promise, "nvidia_devices", lambda: 2)
    two = RuntimeConfig(num_devices=2)
    assert gpu_promise.shortfall(two, 0, {}).startswith("expected 2 GPUs (--num_devices), received 0; ")
    assert gpu_promise.unused(0, {}).startswith("this machine shows 2 NVIDIA devices, but TensorFlow finds no GPU")
    for hiding in (HIDDEN, {"CUDA_VISIBLE_DEVICES": ""}, {"DEEPDETECT_GPUS": "0"}):
        assert gpu_promise.shortfall(two, 0, hiding) == gpu_promise.unused(0, hiding) == ""
    assert gpu_promise.unused(2, {}) == ""


def test_a_promise_that_cannot_be_read_is_refused():
    with pytest.raises(RequestError, match="DEEPDETECT_GPUS: expected a number of GPUs, received 'all'"):
        gpu_promise.from_environment({"DEEPDETECT_GPUS": "all"})


@pytest.mark.parametrize(("options", "environment"), [
    ({"require_gpu": True}, {}),
    ({"num_devices": 2}, {"CUDA_VISIBLE_DEVICES": "0,1"}),
])  # fmt: skip
def test_at_a_desk_a_job_without_its_gpus_is_refused(image_set, tmp_path, monkeypatch, capsys, options, environment):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    line = refusal(capsys, train.main, *argv(image_set, tmp_path, **options))
    assert "received 0; " in line
    assert "--selftest --expect_gpus=" in line
    assert not (tmp_path / "metrics.jsonl").exists()


def test_in_a_cluster_a_job_without_its_gpus_asks_for_another_start_but_not_for_ever(image_set, tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPDETECT_GPUS", "2")
    options = {"max_restarts_without_progress": 1, "epochs": 1, "steps_per_epoch": 1}
    assert [run_job(image_set, tmp_path, **options) for _ in range(3)] == [75, 75, 1]
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.slow
def test_logical_gpus_add_up_the_same_gradients(image_set, tmp_path):
    """Without a GPU nothing is divided, but gradients are added up as between two devices of one card."""
    job = {"epochs": 1, "steps_per_epoch": 2}
    words = argv(image_set, tmp_path / "two", num_devices=2, **job)
    process = Child("trainer.train", words, {"DEEPDETECT_LOGICAL_GPUS": "2"})
    assert run_job(image_set, tmp_path / "one", **job) == 0
    _, log = process.communicate(timeout=120)
    assert process.returncode == 0, log
    one, two = (result_of(tmp_path / name) for name in ("one", "two"))
    assert (two["device_kind"], two["num_devices"]) == ("CPU", 2)
    assert two["weights_sha256"] == one["weights_sha256"]


def test_logical_gpus_must_be_a_number(image_set, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DEEPDETECT_LOGICAL_GPUS", "two")
    assert "DEEPDETECT_LOGICAL_GPUS" in refusal(capsys, train.main, *argv(image_set, tmp_path))


@pytest.mark.slow
def test_one_machine_without_its_gpus_stops_all_and_the_chief_counts(image_set, tmp_path):
    promises = [{"DEEPDETECT_GPUS": "0"}, {"DEEPDETECT_GPUS": "1"}]
    described = [each | promise for each, promise in zip(local_cluster.environments(2), promises, strict=True)]
    processes = [Child("trainer.train", argv(image_set, tmp_path), each) for each in described]
    for process in processes:
        _, output = process.communicate(timeout=120)
        assert process.returncode == 75, output
        assert output.splitlines()[-1].startswith("stopped: expected 1 GPUs (DEEPDETECT_GPUS), received 0; ")
    assert json.loads((tmp_path / "restarts.json").read_text()) == {"step": 0, "starts": 1}


@pytest.mark.slow
def test_the_gate_has_the_last_word_after_all_noise_of_tensorflow(image_set, tmp_path):
    """In a sweep, too, where no trial is lost by it: trials wait for the next start."""
    environment = {**os.environ, "DEEPDETECT_GPUS": "1", "TF_CPP_MIN_LOG_LEVEL": "0"}
    command = [sys.executable, "-m", "trainer.tune", *argv(image_set, tmp_path), "--max_trials=1", "--noisolate_trials"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    lines = done.stderr.splitlines()
    assert done.returncode == 75, done.stderr
    assert any("cuda" in line.lower() for line in lines[:-1]), lines
    assert lines[-1].startswith("stopped: expected 1 GPUs (DEEPDETECT_GPUS), received 0; "), lines
