"""``--selftest`` on the CPU of this machine, and what it says when something is wrong."""

import pytest

from trainer import flags, selftest, train


def run(*words):
    return flags.run_command(train.main, ["--selftest", *words])


def test_all_is_well_on_a_cpu(image_set, tmp_path, capsys):
    if selftest._visible_devices():
        pytest.skip("this machine has GPUs")
    assert run(f"--data_dir={image_set}", f"--job_dir={tmp_path / 'job'}") == 0
    lines = capsys.readouterr().out.splitlines()
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
    assert any("right over 2 CPU devices" in line for line in lines)


def test_what_fails_is_named_with_what_to_do_and_the_rest_still_runs(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    assert run("--expect_gpus=64", f"--job_dir={tmp_path / 'file'}", f"--data_dir={tmp_path / 'absent'}") == 1
    failed = {line.split()[1]: line for line in capsys.readouterr().out.splitlines() if line.startswith("FAILED")}
    assert set(failed) == {"GPUs", "data_dir", "job_dir"}
    assert "tensorflow[and-cuda]" in failed["GPUs"]


def test_a_wrong_flag_is_refused(capsys):
    assert run("--expect_gpu=1") == 2
    assert "did you mean 'expect_gpus'?" in capsys.readouterr().err
