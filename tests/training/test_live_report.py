"""The report of a running, stopped and failed job: always there, never in the way."""

import json
import logging
import threading

import numpy as np
import pytest

from tests.helpers.jobs import float32_policy, result_of, run_job, sigterm_after  # noqa: F401
from trainer.core.errors import StoppedEarly
from trainer.reports.training import Pictures
from trainer.training.exports.live_report import LiveReport
from trainer.training.observers import End, Start, Validation

NOTHING = Pictures(b"", "", b"", [])
VALIDATION = Validation(2, {"val_loss": 0.5}, np.zeros(0, np.int64), np.zeros([0, 2], np.float32))
LINES = [
    {"kind": "start", "step": 0, "epoch": 1, "total_steps": 4, "time": "2026-01-02T03:04:05+00:00", "host": "there"},
    {"kind": "train", "step": 2, "epoch": 1, "loss": 0.75, "accuracy": 0.5, "examples": 8, "learning_rate": 0.1},
    {"kind": "validation", "step": 2, "epoch": 1, "val_loss": 0.5, "val_accuracy": 0.5, "val_auc": 0.625},
]


@pytest.fixture
def job_dir(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"monitor": "val_auc", "epochs": 2}))
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    return tmp_path


def page_of(job_dir):
    return (job_dir / "report" / "index.html").read_text()


def state_of(job_dir):
    return page_of(job_dir).split('data-state="')[1].split('"')[0]


def test_a_validation_writes_the_page_and_a_new_start_says_that_it_runs(job_dir):
    report = LiveReport(str(job_dir), lambda: NOTHING, write=True)
    report.on_start(Start(0, 4, {}))
    report.on_end(End(0, None))
    assert not (job_dir / "report").exists()  # Nothing to tell yet.
    report.on_validation(VALIDATION)
    report.on_end(End(2, None))
    assert state_of(job_dir) == "running"
    assert "0.6250" in page_of(job_dir)
    with pytest.raises(StoppedEarly), report.outcome():
        raise StoppedEarly("SIGTERM at step 2 of 4")
    assert state_of(job_dir) == "stopped"
    assert "SIGTERM at step 2 of 4" in page_of(job_dir)
    again = LiveReport(str(job_dir), lambda: NOTHING, write=True)
    again.on_start(Start(2, 4, {}))
    again.on_end(End(2, None))
    assert state_of(job_dir) == "running"


def test_a_failure_is_on_the_page_and_still_raised(job_dir):
    report = LiveReport(str(job_dir), lambda: NOTHING, write=True)
    with pytest.raises(ValueError, match="boom"), report.outcome():
        raise ValueError("boom <b>")
    assert state_of(job_dir) == "failed"
    assert "The job failed: boom &lt;b&gt;" in page_of(job_dir)


def test_training_does_not_wait_for_the_page_and_pages_that_nobody_saw_are_left_out(job_dir):
    moved_on, drawn = threading.Event(), []

    def draw():
        drawn.append(moved_on.wait(20))
        return NOTHING

    report = LiveReport(str(job_dir), draw, write=True)
    for _ in range(3):
        report.on_validation(VALIDATION)
    moved_on.set()
    report.on_end(End(2, None))
    assert drawn == [True]  # Not False: the validations returned while the page was waiting to be drawn.
    assert state_of(job_dir) == "running"


def test_an_error_is_one_warning(job_dir, caplog):
    def draw():
        raise OSError("disk full")

    caplog.set_level(logging.WARNING)
    report = LiveReport(str(job_dir), draw, write=True)
    for _ in range(2):
        report.on_validation(VALIDATION)
        report.on_end(End(2, None))
    assert [record.getMessage() for record in caplog.records if "training report" in record.getMessage()] == [
        "the training report cannot be written now: disk full; training continues"
    ]


def test_only_the_chief_writes(job_dir):
    report = LiveReport(str(job_dir), lambda: NOTHING, write=False)
    report.on_validation(VALIDATION)
    report.on_end(End(2, None))
    assert not (job_dir / "report").exists()


@pytest.mark.slow
def test_a_stopped_job_has_a_report_and_its_next_start_finishes_it(image_set, tmp_path):
    job_dir = tmp_path / "job"
    with sigterm_after(3):
        assert run_job(image_set, job_dir, report=True) == 75
    assert state_of(job_dir) == "stopped"
    assert "rerun the same command to resume" in page_of(job_dir)
    assert "data:image/jpeg" in page_of(job_dir)
    assert run_job(image_set, job_dir, report=True) == 0
    assert state_of(job_dir) == "finished"
    assert result_of(job_dir)["unmade"] == []
    assert "<span>Starts</span><b>2</b>" in page_of(job_dir)
