"""What Keras finds while a command imports it."""

import subprocess
import sys
from pathlib import Path

import pytest

from trainer.core import keras_environment

ROOT = Path(__file__).resolve().parents[2]
IMPORT = "import {0}\nfound = {0}.__name__"


def found(importer, package):
    """Return whether a module of this name can import the package; it has not been imported before."""
    scope = {"__name__": importer}
    try:
        exec(IMPORT.format(package), scope)
    except ModuleNotFoundError:
        return False
    return scope["found"] == package


@pytest.mark.parametrize("package", keras_environment._OPTIONAL)
def test_only_keras_misses_what_no_command_needs(monkeypatch, tmp_path, package):
    (tmp_path / f"{package}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    with keras_environment.lean():
        assert not found("keras.src.wrappers.fixes", package)
        for importer in ("keras_tuner.src.tuners.bayesian", "trainer.reports.plots", "keras"):
            assert found(importer, package)
            del sys.modules[package]
        assert found("keras.src.wrappers.fixes", "wave")
    assert found("keras.src.wrappers.fixes", package)
    assert not any(isinstance(finder, keras_environment._NotForKeras) for finder in sys.meta_path)


@pytest.mark.slow
def test_a_command_loads_tensorflow_without_them_and_has_them_later():
    code = """
import sys
from trainer.core import cli

def command(argv):
    import tensorflow
    import keras
    absent = {"sklearn", "matplotlib"}.isdisjoint(sys.modules)
    import matplotlib
    from trainer.evaluation.metrics import scikit
    return 0 if absent and scikit.sk().roc_auc_score([0, 1], [0.1, 0.2]) == 1 else 1

sys.exit(cli.run_command(command, []))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
