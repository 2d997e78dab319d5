"""The folder of compiled GPU programs.  No GPU is at hand: what needs one is what the flags are set for."""

import os
import subprocess
import sys

import pytest

from trainer.core.config import DataConfig, RuntimeConfig
from trainer.distributed import strategy, xla_cache

PROGRAM = """
import tensorflow as tf
compiled = tf.function(lambda x: tf.reduce_sum(tf.sin(x) @ x), jit_compile=True)
print(float(compiled(tf.ones([3, 3]))))
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
    runtime = strategy.setup(
        RuntimeConfig(xla_cache_dir=str(tmp_path / "cache"), precision="float32"), DataConfig(batch_size=2)
    )
    assert (list(tmp_path.iterdir()), runtime.xla) == ([], False)
    assert not {"XLA_FLAGS", "TF_XLA_FLAGS"} & set(os.environ)


@pytest.mark.slow
def test_tensorflow_keeps_programs_there_by_these_flags(tmp_path):
    """On a CPU; XLA ends a process that has flags which it does not know."""
    flags = {name: " ".join(words) for name, words in xla_cache.variables(str(tmp_path)).items()}
    flags["TF_XLA_FLAGS"] = flags["TF_XLA_FLAGS"].replace("device_types=GPU", "device_types=CPU")
    child = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=os.environ | flags, capture_output=True, text=True, check=False
    )
    assert child.returncode == 0, child.stderr
    assert float(child.stdout) == pytest.approx(9 * 0.841471 * 3, rel=1e-4)
    assert [path.name.endswith("XLA_CPU_JIT.pb") for path in tmp_path.iterdir()] == [True]
