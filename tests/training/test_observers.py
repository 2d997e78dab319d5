"""Observers from outside the package: what they see of a real job, and that they change nothing in it."""

import dataclasses
import operator
import sys

import numpy as np
import pytest

from tests.helpers.images import write_image_set
from tests.helpers.jobs import float32_policy, lines_of, result_of, values_of  # noqa: F401  (a fixture)
from trainer.core.config import from_flat
from trainer.distributed.cluster import Cluster
from trainer.training import run
from trainer.training.exports import exporter
from trainer.training.loop import Plan, StopReason
from trainer.training.observers import End, Observer, Observers, Start, Step, Validation, Window
from trainer.training.progress_bar import ProgressBar

SETTINGS = {"image_size": 48, "batch_size": 20, "epochs": 2, "precision": "float32", "export": "none"}


class Tracker(Observer):
    """As an experiment tracker would be: keeps every event."""

    def __init__(self):
        self.events = []

    def on_start(self, start):
        self.events.append(start)

    def on_step(self, step):
        self.events.append(step)

    def on_window(self, window):
        self.events.append(window)

    def on_validation(self, validation):
        self.events.append(validation)

    def on_checkpoint(self, checkpoint):
        self.events.append(checkpoint)

    def on_end(self, end):
        self.events.append(end)

    def names(self, *without):
        names = [type(event).__name__ for event in self.events]
        return [name for name in names if name not in without]

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]


class Vandal(Tracker):
    """Tries to change whatever it gets."""

    def __init__(self):
        super().__init__()
        self.refusals = []

    def attempt(self, change):
        try:
            change()
        except (AttributeError, TypeError, ValueError) as error:  # A frozen dataclass raises an AttributeError.
            self.refusals.append(type(error))

    def on_step(self, step):
        self.attempt(lambda: setattr(step, "learning_rate", 0.0))
        return StopReason.PRUNED

    def on_validation(self, validation):
        self.attempt(lambda: operator.setitem(validation.values, "val_loss", 0.0))
        self.attempt(lambda: operator.setitem(validation.probabilities, 0, 0.0))
        self.attempt(lambda: operator.setitem(validation.images, 0, 0))
        return StopReason.PRUNED


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_image_set(tmp_path_factory.mktemp("data"), train=20, validation=8, test=0))


@pytest.fixture(scope="module")
def jobs(data, tmp_path_factory):
    """Run a job of two epochs of two steps, without and with observers; return the folders and the observers."""
    tracker, vandal = Tracker(), Vandal()
    folders = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter.training_report, "write_training_report", lambda *_: None)
        for name, observers in (("alone", []), ("watched", [tracker, vandal])):
            folders[name] = tmp_path_factory.mktemp(name) / "job"
            config = from_flat({"data_dir": data, "job_dir": str(folders[name]), **SETTINGS})
            run.run(config, Cluster(), None, observers)
    return folders, tracker, vandal


def test_an_observer_from_outside_sees_all_six_events_in_order(jobs):
    folders, tracker, _ = jobs
    epoch = ["Step", "Step", "Validation"]
    assert tracker.names("Window", "SavedCheckpoint") == ["Start", *epoch, *epoch, "End"]
    assert tracker.names()[-2:] == ["SavedCheckpoint", "End"]
    assert [event.step for event in tracker.of(Step)] == [1, 2, 3, 4]
    assert [event.step for event in tracker.of(Validation)] == [2, 4]
    assert {event.step for event in tracker.events if type(event).__name__ == "SavedCheckpoint"} == {2, 4}
    # Windows depend on the clock, their lines do not; each comes before the validation of its epoch.
    assert [line.step for window in tracker.of(Window) for line in window.lines] == [
        line["step"] for line in lines_of(folders["watched"], "train")
    ]
    for validation in tracker.of(Validation):
        earlier = tracker.events[: tracker.events.index(validation)]
        assert [event for event in earlier if isinstance(event, Window)][-1].step == validation.step
    (start,), (end,) = tracker.of(Start), tracker.of(End)
    assert (start.step, start.total_steps, start.rollback, start.stopped) == (0, 4, False, False)
    assert end == End(4, StopReason.EPOCHS)


def test_an_observer_sees_what_is_logged(jobs):
    folders, tracker, _ = jobs
    validations = [
        {name: value for name, value in line.items() if name not in ("kind", "epoch")}
        for line in lines_of(folders["watched"], "validation")
    ]
    assert validations == [
        {"step": event.step, **event.values, "learning_rate": pytest.approx(event.values["learning_rate"])}
        for event in tracker.of(Validation)
    ]
    for event in tracker.of(Validation):
        assert event.probabilities.shape == (len(event.images), 2)


def test_an_observer_changes_neither_weights_nor_decisions(jobs):
    folders, _, vandal = jobs
    results = {name: result_of(folder) for name, folder in folders.items()}
    assert results["watched"]["weights_sha256"] == results["alone"]["weights_sha256"]
    assert results["watched"]["stopped_by"] == "epochs"
    assert values_of(folders["watched"]) == values_of(folders["alone"])
    assert len(vandal.refusals) == 4 + 3 * 2  # Every attempt: one a step, three a validation.


@pytest.mark.slow
def test_a_job_with_more_epochs_starts_where_it_ended(data, jobs):
    folders, *_ = jobs
    tracker = Tracker()
    config = from_flat({"data_dir": data, "job_dir": str(folders["alone"]), **SETTINGS, "epochs": 3})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter.training_report, "write_training_report", lambda *_: None)
        run.run(config, Cluster(), None, [tracker])
    assert tracker.of(Start)[0].step == 4
    assert [event.step for event in tracker.of(Step)] == [5, 6]
    assert [line["step"] for line in lines_of(folders["alone"], "end")] == [6]


def test_the_end_reaches_all_observers_even_if_one_fails():
    class Broken(Tracker):
        def on_end(self, end):
            raise OSError("a full disk")

    first, last = Tracker(), Tracker()
    with pytest.raises(OSError, match="a full disk"):
        Observers([first, Broken(), last]).on_end(End(1, None))
    assert first.events == last.events == [End(1, None)]


def test_events_arrive_in_the_order_of_the_observers():
    calls = []

    class Named(Tracker):
        def __init__(self, name):
            self.name = name

        def on_start(self, start):
            calls.append(("start", self.name))

        def on_end(self, end):
            calls.append(("end", self.name))

    both = Observers([Named("a"), Named("b")])
    both.on_start(Start(0, 1, {}))
    both.on_end(End(1, None))
    assert calls == [("start", "a"), ("start", "b"), ("end", "a"), ("end", "b")]


def test_a_diverged_window_does_not_spoil_the_line_of_the_epoch(capsys):
    bar = ProgressBar(Plan(total_steps=2, steps_per_epoch=2), show=True, stream=sys.stderr)
    bar.on_start(Start(0, 2, {}))
    good = Window(1, 0.1, loss=0.5, accuracy=0.75, examples=20, seconds=1.0, waited=0.0)
    bar.on_window(good)
    bar.on_window(dataclasses.replace(good, loss=np.nan, divergence="the loss is not finite"))
    values = {"val_loss": 0.4, "val_accuracy": 0.8, "val_auc": None, "learning_rate": 0.1, "best": True}
    bar.on_validation(Validation(2, values, np.zeros(0, np.int64), np.zeros([0, 2], np.float32)))
    assert "loss 0.5000  accuracy 0.7500" in capsys.readouterr().err
