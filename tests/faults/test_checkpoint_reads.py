"""Trouble while a checkpoint is read, or while card, report and export are made, is neither damage nor an end."""

import contextlib
import errno
import os
import signal
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from tests.helpers import faults
from tests.helpers.jobs import SMALL, float32_policy, result_of, run_job  # noqa: F401  (a fixture)
from trainer.core import signals
from trainer.core.errors import RequestError, StoppedEarly, StorageDown
from trainer.core.job_dir import EXPORT_CARD, MODEL_FILE
from trainer.core.storage import files, transient
from trainer.reports import model_card
from trainer.training.checkpoints.checkpoint import Checkpoint, CheckpointStore, DamagedCheckpoint
from trainer.training.exports import exporter

PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EMFILE, errno.ENFILE, errno.ENOMEM)
READS = 3  # Of one checkpoint: marker, arrays, state.


@pytest.fixture
def store(tmp_path):
    store = CheckpointStore(str(tmp_path / "checkpoints"), keep=3)
    for step in (1, 2):
        store.save(Checkpoint(step, {"w": np.full([3], step)}, {"step": step}))
    return store


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setenv("DEEPDETECT_FILE_RETRY_SECONDS", "0")


@pytest.mark.parametrize("number", PASSING, ids=errno.errorcode.get)
@pytest.mark.parametrize("first", range(1, READS + 1))
def test_trouble_that_lasts_ends_the_start_and_not_the_checkpoint(store, impatient, number, first, package_log):
    with faults.injected(path="*/checkpoints/*", first=first, count=0, number=number), pytest.raises(StorageDown):
        store.newest()
    assert "damaged" not in package_log.text
    assert store.newest().step == 2


@pytest.mark.parametrize("first", range(1, READS + 1))
def test_trouble_that_passes_is_waited_for(store, monkeypatch, first):
    monkeypatch.setattr(transient, "_FIRST_DELAY", 0.001)
    with faults.injected(path="*/checkpoints/*", first=first, count=2, number=errno.EIO) as fault:
        assert store.newest().step == 2
    assert fault.seen == READS + 2


@pytest.mark.parametrize("first", range(1, READS + 1))
@pytest.mark.parametrize("error", [StorageDown("gs://bucket did not answer"), StoppedEarly("lock lost")], ids=str)
def test_an_outage_of_a_bucket_passes_through(store, monkeypatch, first, error):
    real, calls = files.read_bytes, []

    def read(path):
        calls.append(path)
        if len(calls) == first:
            raise error
        return real(path)

    monkeypatch.setattr(files, "read_bytes", read)
    with pytest.raises(StoppedEarly) as caught:
        store.newest()
    assert caught.value is error


@pytest.mark.parametrize("first", range(1, READS + 1))
def test_a_stop_request_while_it_is_read_stops(store, first):
    fault = {"path": "*/checkpoints/*", "first": first, "signal": int(signal.SIGTERM)}
    with signals.stop_requests() as stop:
        stop.at_once = "at start-up"
        with faults.injected(**fault), pytest.raises(StoppedEarly, match="SIGTERM at start-up"):
            store.newest()


def test_a_missing_right_is_named_and_is_no_damage(store):
    with (
        faults.injected(path="*/arrays.npz", count=0, number=errno.EACCES),
        pytest.raises(RequestError, match="to be readable, received: Permission denied"),
    ):
        store.newest()


def test_a_missing_file_is_damage(store):
    Path(store.path(2), "arrays.npz").unlink()
    with pytest.raises(DamagedCheckpoint):
        store.read(2)
    assert store.newest().step == 1


PASS_THROUGH = [
    StoppedEarly("SIGTERM"), StorageDown("gs://bucket"), OSError(errno.EIO, "I/O error"), OSError(errno.ENOSPC, "full"),
    OSError(errno.EDQUOT, "quota"),
]  # fmt: skip


@pytest.mark.parametrize("error", PASS_THROUGH, ids=repr)
def test_a_card_is_given_up_only_for_its_own_faults(error):
    with pytest.raises(type(error)) as caught:
        model_card.attempt(mock.Mock(side_effect=error))
    assert caught.value is error


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), MemoryError(), OSError(errno.ENOENT, "x")], ids=repr)
def test_a_card_that_cannot_be_made_costs_no_model(error, package_log):
    assert model_card.attempt(mock.Mock(side_effect=error)) == ""
    assert "could not be made" in package_log.text


@contextlib.contextmanager
def quick_exports():
    """Write exports without a model, as only their files matter here."""

    def write(target, arrays, metadata, samples, *, config, image_size, card):
        files.write_text(files.join(target, MODEL_FILE), "a model")
        if card:
            files.write_text(files.join(target, EXPORT_CARD), card)
        return 0.0

    with mock.patch.object(exporter.saved_model, "write", write):
        yield


def terminate(*_, **__):
    os.kill(os.getpid(), signal.SIGTERM)
    return "too late"


CARD = (model_card, "render")
REPORT = (exporter.training_report, "write_training_report")
EXPORT = (exporter.saved_model, "write")
FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.slow
def test_what_a_stop_or_a_full_disk_prevented_is_made_by_the_next_start(image_set, tmp_path, capsys, monkeypatch):
    job = {**SMALL, "epochs": 1, "export": "best", "threshold_by": "none", "max_restarts_without_progress": 0}
    job_dir = tmp_path / "job"

    def start(place=None, effect=None, *, report=False):
        with quick_exports(), contextlib.ExitStack() as stack:
            if place:
                stack.enter_context(mock.patch.object(*place, side_effect=effect))
            code = run_job(image_set, job_dir, report=report or place is REPORT, **job)
        return code, capsys.readouterr().err

    for place, effect, words in [
        (CARD, terminate, "SIGTERM while exporting"),
        (REPORT, terminate, "SIGTERM while exporting"),
        (EXPORT, terminate, "SIGTERM while exporting"),
        (CARD, FULL, "No space left"),
        (REPORT, FULL, "No space left"),
        (EXPORT, OSError(errno.EIO, "Input/output error"), "Input/output error"),
    ]:
        code, err = start(place, effect)
        assert code == 75, (place, err)
        assert words in err
        assert not (job_dir / "result.json").exists()
    # The storage of the checkpoint is away: nothing is blamed on the checkpoint.
    monkeypatch.setenv("DEEPDETECT_FILE_RETRY_SECONDS", "0")
    with faults.injected(path="*/arrays.npz", count=0, number=errno.EIO):
        code, err = start()
    assert code == 75, err
    assert "never" not in err
    # A fault of card and report themselves costs no model, and is tried again.
    assert start(CARD, ValueError("a bug"))[0] == 0
    assert result_of(job_dir)["unmade"] == ["model card of best"]
    assert start(REPORT, ValueError("a bug"))[0] == 0
    assert result_of(job_dir)["unmade"] == ["report"]
    step = result_of(job_dir)["step"]
    assert (job_dir / f"export/best/{step}" / EXPORT_CARD).read_text()
    assert start(report=True)[0] == 0
    assert result_of(job_dir)["unmade"] == []
    assert (job_dir / "report/index.html").exists()
    assert "already done" in start()[1]
    # A kill while an export is replaced is noticed by what it leaves.
    (job_dir / f"export/best/{step}").rename(job_dir / f"export/best/{step}.tmp")
    assert start()[0] == 0
    assert os.listdir(job_dir / "export/best") == [str(step)]
