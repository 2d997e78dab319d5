"""The folder of compiled GPU programs.  No GPU is at hand: what needs one is what the flags are set for."""

import os
import subprocess
import sys

import pytest

from tests.helpers.jobs import argv
from trainer.distributed import gpu_promise, xla_cache

PROGRAM = """
import sys
from trainer import train
from trainer.core import cli
from trainer.distributed import gpu_promise, xla_cache
gpu_promise.nvidia_devices = lambda: 1
xla_cache._KIND = "CPU"
sys.exit(cli.run_command(train.main, sys.argv[1:]))
"""


def test_the_flags_of_a_user_stay():
    flags = xla_cache.variables("/cache")["TF_XLA_FLAGS"]
    assert xla_cache.with_flags("", flags) == " ".join(flags)
    own = "--tf_xla_persistent_cache_directory=/own --tf_xla_auto_jit=2"
    assert xla_cache.with_flags(own, flags) == f"{own} {flags[1]}"


def test_the_place_follows_the_environment(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/cache/me")
    assert xla_cache.place("auto") == "/var/cache/me/deepdetect/xla"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert xla_cache.place("auto") == "/home/me/.cache/deepdetect/xla"
    assert xla_cache.place("/elsewhere") == "/elsewhere"


def test_a_cpu_gets_no_folder(tmp_path, monkeypatch):
    for name in ("XLA_FLAGS", "TF_XLA_FLAGS"):
        monkeypatch.delenv(name, raising=False)
    xla_cache.use(str(tmp_path / "cache"))
    assert list(tmp_path.iterdir()) == []
    assert not {"XLA_FLAGS", "TF_XLA_FLAGS"} & set(os.environ)


def test_the_folder_has_the_names_of_all_cards(tmp_path, monkeypatch):
    for number, model in enumerate(("NVIDIA H200", "NVIDIA H200", "Tesla T4")):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "information").write_text(f"Model: \t\t {model}\nIRQ:   \t\t 0\n")
    monkeypatch.setattr(xla_cache, "_CARDS", str(tmp_path / "*" / "information"))
    monkeypatch.setattr(gpu_promise, "nvidia_devices", lambda: 3)
    monkeypatch.setenv("XLA_FLAGS", "")
    monkeypatch.setenv("TF_XLA_FLAGS", "")
    xla_cache.use(str(tmp_path / "cache"))
    (folder,) = (tmp_path / "cache").iterdir()
    assert folder.name.endswith("-NVIDIA-H200-Tesla-T4")
    assert str(folder) in os.environ["TF_XLA_FLAGS"]


@pytest.mark.slow
def test_a_job_keeps_its_programs_there(image_set, tmp_path):
    """On a CPU that is said to be a GPU; XLA ends a process that has flags which it does not know."""
    cache = tmp_path / "cache"
    words = argv(image_set, tmp_path / "job", epochs=1, steps_per_epoch=1, xla=True, xla_cache_dir=cache)
    environment = {name: value for name, value in os.environ.items() if not name.endswith("XLA_FLAGS")}
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM, *words], env=environment, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    assert any(path.name.endswith("XLA_CPU_JIT.pb") for path in cache.rglob("*")), child.stderr
