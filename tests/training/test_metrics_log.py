"""``metrics.jsonl``: every step appears once, whatever happened before."""

import json
import math
import os

import numpy as np
import pytest

from trainer.core.job_dir import JobPaths
from trainer.training import metrics_log
from trainer.training.loop import Plan
from trainer.training.metrics_log import MetricsLog
from trainer.training.observers import SavedCheckpoint, Start, TrainLine, Validation, Window

PLAN = Plan(total_steps=8, steps_per_epoch=4)
MACHINE = {"version": "1", "precision": "float32"}


@pytest.fixture
def paths(tmp_path):
    return JobPaths(str(tmp_path))


def lines(paths):
    with open(paths.metrics) as file:
        return [json.loads(line) for line in file]


def validation(step, loss):
    return Validation(step, {"val_loss": loss}, np.zeros(0, np.int64), np.zeros([0, 2], np.float32))


def window(*steps, loss=0.5):
    train_lines = [TrainLine(step, {"loss": loss, "learning_rate": 0.1 + 2e-9}) for step in steps]
    return Window(steps[-1], 0.1, loss, 0.5, 20, 1.0, 0.0, train_lines)


def test_a_start_describes_the_machine(paths, monkeypatch):
    monkeypatch.setattr(metrics_log, "utc_now", lambda: "now")
    MetricsLog(paths, PLAN, write=True).on_start(Start(4, 8, MACHINE))
    assert lines(paths) == [{"kind": "start", "step": 4, "epoch": 1, **MACHINE, "total_steps": 8, "time": "now"}]
    assert list(lines(paths)[0]) == ["kind", "step", "epoch", *MACHINE, "total_steps", "time"]


def test_lines_of_steps_that_come_again_are_dropped_and_a_rollback_writes_no_start(paths):
    log = MetricsLog(paths, PLAN, write=True)
    log.on_window(window(3, 4, 5))
    log.on_checkpoint(SavedCheckpoint(4, "path", 1.23456))
    log.write_line("end", 4, status="done")
    log.on_start(Start(4, 8, MACHINE, rollback=True))
    assert [(line["kind"], line["step"]) for line in lines(paths)] == [("train", 3), ("train", 4), ("checkpoint", 4)]
    assert lines(paths)[-1]["seconds"] == 1.235


def test_the_end_of_an_earlier_start_is_dropped(paths):
    log = MetricsLog(paths, PLAN, write=True)
    log.on_window(window(4))
    log.write_line("end", 4, status="done")
    MetricsLog(paths, PLAN, write=True).on_start(Start(4, 12, MACHINE))
    assert [line["kind"] for line in lines(paths)] == ["train", "start"]


def test_a_validation_that_comes_again_replaces_its_line(paths):
    """A kill came between a validation, before the first step of a start, and its checkpoint."""
    first = MetricsLog(paths, PLAN, write=True)
    first.on_window(window(4))
    first.on_validation(validation(4, 0.5))
    log = MetricsLog(paths, PLAN, write=True)
    log.on_start(Start(4, 8, MACHINE))
    log.on_validation(validation(4, 0.25))
    log.on_validation(validation(8, 0.125))
    assert [(line["step"], line["val_loss"]) for line in lines(paths) if line["kind"] == "validation"] == [
        (4, 0.25), (8, 0.125),
    ]  # fmt: skip


def test_a_validation_in_the_checkpoint_keeps_its_line(paths):
    MetricsLog(paths, PLAN, write=True).on_validation(validation(4, 0.5))
    log = MetricsLog(paths, PLAN, write=True)
    log.on_start(Start(4, 8, MACHINE))
    log.on_validation(validation(8, 0.125))
    assert [line["step"] for line in lines(paths) if line["kind"] == "validation"] == [4, 8]


@pytest.mark.parametrize("torn", ["\0\0\0\0\n", '{"kind": "train", "st', '{"kind": "train", "step": 2}', "3\n"])
def test_a_last_line_that_a_kill_cut_off_is_dropped(paths, torn):
    log = MetricsLog(paths, PLAN, write=True)
    log.on_window(window(1))
    with open(paths.metrics, "a") as file:
        file.write(torn)
    log.on_start(Start(2, 8, MACHINE, rollback=True))
    assert [line["step"] for line in lines(paths)] == [1]


def test_values_that_are_not_finite_are_null_and_rates_are_as_a_person_wrote_them(paths):
    MetricsLog(paths, PLAN, write=True).on_window(window(5, loss=math.nan))
    (line,) = lines(paths)
    expected = {"kind": "train", "step": 5, "epoch": 2, "loss": None, "learning_rate": 0.1}
    assert {name: line[name] for name in expected} == expected


def test_every_line_has_a_time_and_train_lines_say_how_the_process_fares(paths, monkeypatch):
    monkeypatch.setattr(metrics_log, "utc_now", lambda: "now")
    log = MetricsLog(paths, PLAN, write=True)
    log.on_window(Window(1, 0.1, 0.5, 0.5, 20, seconds=2.0, waited=0.5, lines=[TrainLine(1, {"loss": 0.5})]))
    log.on_validation(validation(4, 0.5))
    log.on_checkpoint(SavedCheckpoint(4, "path", 1.0))
    assert [line["time"] for line in lines(paths)] == ["now"] * 3
    train = lines(paths)[0]
    assert train["data_wait"] == 0.25
    if os.path.exists("/proc/self/statm"):
        assert 10_000_000 < train["memory_bytes"] < 100_000_000_000


def test_only_the_chief_writes(paths):
    MetricsLog(paths, PLAN, write=True).on_window(window(5))
    other = MetricsLog(paths, PLAN, write=False)
    other.on_start(Start(0, 8, MACHINE))
    other.on_window(window(1))
    assert [line["step"] for line in lines(paths)] == [5]
