"""Stop requests and trouble of a storage are nobody's fault: not of a space file, a network, a trial or a report."""

import errno

import pytest

from tests.helpers import faults
from trainer.core.config import from_flat
from trainer.core.errors import StoppedEarly, StorageDown
from trainer.models import registry
from trainer.sweep import space, trial
from trainer.training import run as training_run
from trainer.training import tensorboard
from trainer.training.tensorboard import TensorBoardReporter

CONFIG = from_flat({"data_dir": "D", "job_dir": "J"})


def raising(error):
    def act(*_, **__):
        raise error

    return act


def test_a_space_file_on_a_lost_mount(tmp_path, monkeypatch):
    monkeypatch.setenv("DEEPDETECT_FILE_RETRY_SECONDS", "0")
    (tmp_path / "space.yaml").write_text("- {name: learning_rate, kind: float, range: [1e-4, 1e-2]}")
    with faults.injected(path="*/space.yaml", count=0, number=errno.ESTALE), pytest.raises(StorageDown):
        space.read(str(tmp_path / "space.yaml"))


@pytest.mark.parametrize("error", [StoppedEarly("SIGTERM"), OSError(errno.EIO, "Input/output error")], ids=repr)
def test_a_network_while_it_is_imported(monkeypatch, error):
    monkeypatch.setattr(registry.importlib, "import_module", raising(error))
    with pytest.raises(type(error)) as caught:
        registry.network("mylab.nets:build")
    assert caught.value is error


@pytest.mark.slow
@pytest.mark.parametrize("error", [StoppedEarly("SIGTERM"), OSError(errno.ESTALE, "Stale file handle")], ids=repr)
def test_a_trial(monkeypatch, error):
    monkeypatch.setattr(training_run, "run", raising(error))
    with pytest.raises(type(error)) as caught:
        trial.run_here(CONFIG)
    assert caught.value is error


@pytest.mark.parametrize("error", [StoppedEarly("SIGTERM"), OSError(errno.EIO, "Input/output error")], ids=repr)
def test_a_board(monkeypatch, tmp_path, error):
    reporter = object.__new__(TensorBoardReporter)
    reporter._enabled = True
    reporter._writer = type("Writer", (), {"add": raising(error)})()
    with pytest.raises(type(error)) as caught:
        reporter._safely(1, lambda: None)
    assert caught.value is error
    monkeypatch.setattr(tensorboard, "session", raising(error))
    with pytest.raises(type(error)):
        tensorboard.write(str(tmp_path), "1", {}, "val_loss", 0.5)
