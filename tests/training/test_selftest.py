"""``--selftest`` on the CPU of this machine, what it says of what is wrong, and what a broken card would show."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from trainer.distributed import gpu_promise
from trainer.training.selftest import arithmetic, devices, speed
from trainer.training.selftest.outcome import Doubtful, Failed

ROOT = Path(__file__).resolve().parents[2]
FLOAT32, TF32, BFLOAT16, FLOAT16 = arithmetic.FORMATS


def run(*words, **environment):
    """Run it as users do: its all-reduce wants a process in which no other strategy has been."""
    command = [sys.executable, "-m", "trainer.train", "--selftest", *words]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.splitlines(), done.stderr


@pytest.mark.slow
def test_all_is_well_on_a_cpu(image_set, tmp_path):
    if gpu_promise.nvidia_devices():
        pytest.skip("this machine has GPUs")
    code, lines, _ = run(f"--data_dir={image_set}", f"--job_dir={tmp_path / 'job'}")
    assert code == 0, lines
    assert all(line.startswith("ok") for line in lines)
    texts = {line[8:20].strip(): line[21:] for line in lines}
    assert texts.keys() >= {"driver", "GPUs", "CUDA", "cuDNN", "GPU memory", "/dev/shm", "job_dir"}
    assert texts["convolution"].startswith(
        "correct, with its gradient, in float32, TF32, bfloat16, float16 on 2 CPU devices"
    )
    assert texts["all-reduce"].startswith("correct over 2 CPU devices, ")
    assert texts["speed"].count("GB/s") == texts["speed"].count("bfloat16") == 2


@pytest.mark.slow
def test_what_fails_is_named_with_what_to_do_and_the_rest_still_runs(tmp_path):
    (tmp_path / "file").write_text("")
    words = (f"--job_dir={tmp_path / 'file'}", f"--data_dir={tmp_path / 'absent'}")
    code, lines, _ = run(*words, DEEPDETECT_GPUS="64")
    assert code == 1, lines
    failed = {line.split()[1]: line for line in lines if line.startswith("FAILED")}
    assert set(failed) == {"GPUs", "data_dir", "job_dir"}
    assert "expected 64, TensorFlow found 0" in failed["GPUs"]
    assert "tensorflow[and-cuda]" in failed["GPUs"]


def test_a_wrong_flag_is_refused():
    code, _, error = run("--expect_gpu=1")
    assert code == 2
    assert "did you mean 'expect_gpus'?" in error


@pytest.mark.parametrize(("environment", "number"), [
    ({"DEEPDETECT_GPUS": "2", "CUDA_VISIBLE_DEVICES": "0"}, 2),
    ({"CUDA_VISIBLE_DEVICES": "0,GPU-1f,-1,3"}, 2),
    ({"CUDA_VISIBLE_DEVICES": ""}, 0),
])  # fmt: skip
def test_the_environment_says_how_many_gpus_to_expect(environment, number):
    assert gpu_promise.expected(environment) == number


def truncated(values, mantissa):
    """Return float32 numbers cut to some bits of mantissa, as tensor cores do."""
    bits = np.asarray(values, np.float32).view(np.uint32)
    return (bits & np.uint32(0xFFFFFFFF << (23 - mantissa) & 0xFFFFFFFF)).view(np.float32).astype(np.float64)


@pytest.fixture(scope="module")
def exact():
    return arithmetic.exact_results()


def output_error(exact, form, images, kernel):
    """Return the error of a convolution of changed numbers, as a share of what the format allows."""
    output = arithmetic._convolve(images, kernel)
    return arithmetic.share(output, exact.output, form.allowed(exact.output_magnitude, 9 * exact.images.shape[-1]))


@pytest.mark.parametrize("form", [TF32, BFLOAT16, FLOAT16])
def test_what_a_healthy_tensor_core_truncates_is_allowed(exact, form):
    error = output_error(exact, form, truncated(exact.images, form.mantissa), truncated(exact.kernel, form.mantissa))
    assert 0.01 < error < 0.5


def test_float32_is_not_allowed_the_rounding_of_tf32(exact):
    assert output_error(exact, FLOAT32, truncated(exact.images, 10), truncated(exact.kernel, 10)) > 1


@pytest.mark.parametrize("form", arithmetic.FORMATS)
def test_one_wrong_element_is_noticed(exact, form):
    """A stuck bit of the exponent, in one of the images' numbers."""
    images = exact.images.copy()
    images[1, 9, 9, 5] *= 2.0**8
    assert output_error(exact, form, images, exact.kernel) > 1


@pytest.mark.parametrize("allowed", [False, True])
def test_a_device_is_within_its_bounds_and_tf32_stays_as_it_was(exact, allowed):
    switch = arithmetic.tf.config.experimental
    before = switch.tensor_float_32_execution_enabled()
    switch.enable_tensor_float_32_execution(allowed)
    try:
        assert all(0 < arithmetic.error("CPU:0", form, exact) < 0.5 for form in arithmetic.FORMATS)
        assert switch.tensor_float_32_execution_enabled() is allowed
    finally:
        switch.enable_tensor_float_32_execution(before)


def test_a_device_that_forgets_is_failed(monkeypatch):
    devices.fill("CPU:0", 4096, 1024)
    real = devices.tf.fill
    monkeypatch.setattr(devices.tf, "fill", lambda shape, value: real(shape, value if value < 3 else value + 1))
    with pytest.raises(Failed, match=r"CPU:0 reads \(4\.0, 4\.0\) where 3 was written"):
        devices.fill("/device:CPU:0", 4096, 1024)


def test_a_slow_card_is_doubtful_and_not_failed():
    def rates(copies):
        both = [speed.Rate("copies", copies, "GB/s", 4800.0), speed.Rate("float32", 9.0, "TFLOP/s")]
        return {"GPU:0 NVIDIA H200": both}

    text = speed.report(rates(3408.0))
    assert text == "GPU:0 NVIDIA H200: copies 3,408 GB/s (71% of the data sheet), float32 9 TFLOP/s"
    with pytest.raises(Doubtful, match=r"copies 2,352 GB/s \(49% of the data sheet\).*below 50%.*nvidia-smi"):
        speed.report(rates(2352.0))


def test_the_speed_is_that_of_calls_after_the_first_ones(monkeypatch):
    """A GPU gets memory from the driver in the first calls; an H200 seemed to copy at 5% of its data sheet."""
    times = []  # Of all calls, seconds.

    def work():
        times.append(0.1 if len(times) < 4 else 0.001)
        return tf.zeros([1])

    monkeypatch.setattr(speed.time, "perf_counter", lambda: sum(times))
    assert speed._seconds(work) == pytest.approx(0.001)
    assert len(times) > 100  # A tenth of a second.
