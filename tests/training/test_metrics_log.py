"""``metrics.jsonl``: every step appears once, whatever happened before."""

import json
import math

import pytest

from trainer.core.job_dir import JobPaths
from trainer.training import metrics_log
from trainer.training.loop import Plan
from trainer.training.metrics_log import MetricsLog
from trainer.training.observers import SavedCheckpoint, Start, TrainLine, Window

PLAN = Plan(total_steps=8, steps_per_epoch=4)
MACHINE = {"version": "1", "precision": "float32"}


@pytest.fixture
def paths(tmp_path):
    return JobPaths(str(tmp_path))


def lines(paths):
    with open(paths.metrics) as file:
        return [json.loads(line) for line in file]


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


@pytest.mark.parametrize("torn", ['{"kind": "train", "st', '{"kind": "train", "step": 2}', "3\n"])
def test_a_last_line_that_a_kill_cut_off_is_dropped(paths, torn):
    log = MetricsLog(paths, PLAN, write=True)
    log.on_window(window(1))
    with open(paths.metrics, "a") as file:
        file.write(torn)
    log.on_start(Start(2, 8, MACHINE, rollback=True))
    assert [line["step"] for line in lines(paths)] == [1]


def test_values_that_are_not_finite_are_null_and_rates_are_as_a_person_wrote_them(paths):
    MetricsLog(paths, PLAN, write=True).on_window(window(5, loss=math.nan))
    assert lines(paths) == [{"kind": "train", "step": 5, "epoch": 2, "loss": None, "learning_rate": 0.1}]


def test_only_the_chief_writes(paths):
    MetricsLog(paths, PLAN, write=True).on_window(window(5))
    other = MetricsLog(paths, PLAN, write=False)
    other.on_start(Start(0, 8, MACHINE))
    other.on_window(window(1))
    assert [line["step"] for line in lines(paths)] == [5]
