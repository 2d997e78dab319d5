"""Observers from outside the package: what they see of a real job, and that they change nothing in it."""

import dataclasses
import io
import operator
import re
import sys
import time
from unittest import mock

import numpy as np
import pytest

from tests.helpers.images import write_image_set
from tests.helpers.jobs import float32_policy, lines_of, result_of, sigterm_after, values_of  # noqa: F401  (a fixture)
from trainer.core import progress
from trainer.core.config import from_flat
from trainer.core.errors import StoppedEarly
from trainer.distributed.cluster import Cluster
from trainer.training import run
from trainer.training.exports import exporter, live_report
from trainer.training.loop import Plan, StopReason
from trainer.training.observers import Compile, End, Observer, Observers, Start, Step, Validating, Validation, Window
from trainer.training.progress_bar import ProgressBar
from trainer.training.start.clock import StartClock, StartReport
from trainer.training.start.time_left import Series, TimeLeft

SETTINGS = {"image_size": 48, "batch_size": 20, "epochs": 2, "precision": "float32", "export": "none"}


class Tracker(Observer):
    """As an experiment tracker would be: keeps every event."""

    def __init__(self):
        self.events = []

    def on_start(self, start):
        self.events.append(start)

    def on_step(self, step):
        self.events.append(step)

    def on_compile(self, event):
        self.events.append(event)

    def on_window(self, window):
        self.events.append(window)

    def on_validating(self, event):
        self.events.append(event)

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


def run_without_report(data, job_dir, observers, **more):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exporter.training_report, "write_training_report", lambda *_: None)
        patch.setattr(live_report.LiveReport, "_make", lambda *_: 0.0)
        run.run(from_flat({"data_dir": data, "job_dir": str(job_dir), **SETTINGS, **more}), Cluster(), None, observers)


@pytest.fixture(scope="module")
def watched(data, tmp_path_factory):
    """Run a job of two epochs of two steps with observers; return the folder and the observers."""
    tracker, vandal = Tracker(), Vandal()
    job_dir = tmp_path_factory.mktemp("watched") / "job"
    run_without_report(data, job_dir, [tracker, vandal])
    return job_dir, tracker, vandal


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """Return the folder of the same job without observers."""
    job_dir = tmp_path_factory.mktemp("alone") / "job"
    run_without_report(data, job_dir, [])
    return job_dir


@pytest.mark.slow
def test_an_observer_from_outside_sees_all_eight_events_in_order(watched):
    job_dir, tracker, _ = watched
    epoch = ["Step", "Step", "Validating", "Validating", "Validation"]
    assert tracker.names("Window", "SavedCheckpoint") == ["Start", "Compile", *epoch, *epoch, "End"]
    assert tracker.names()[-2:] == ["SavedCheckpoint", "End"]
    assert [event.step for event in tracker.of(Step)] == [1, 2, 3, 4]
    assert tracker.of(Validating) == [Validating(step, images, 16) for step in (2, 4) for images in (0, 16)]
    assert next(iter(tracker.of(Window))).compiled
    assert not any(event.compiled for event in tracker.of(Window)[1:])
    assert [event.step for event in tracker.of(Validation)] == [2, 4]
    assert {event.step for event in tracker.events if type(event).__name__ == "SavedCheckpoint"} == {2, 4}
    # Windows depend on the clock, their lines do not; each comes before the validation of its epoch.
    assert [line.step for window in tracker.of(Window) for line in window.lines] == [
        line["step"] for line in lines_of(job_dir, "train")
    ]
    for validation in tracker.of(Validation):
        earlier = tracker.events[: tracker.events.index(validation)]
        assert [event for event in earlier if isinstance(event, Window)][-1].step == validation.step
    (start,), (end,) = tracker.of(Start), tracker.of(End)
    assert (start.step, start.total_steps, start.rollback, start.stopped) == (0, 4, False, False)
    assert end == End(4, StopReason.EPOCHS)


def test_an_observer_sees_what_is_logged(watched):
    job_dir, tracker, _ = watched
    validations = [
        {name: value for name, value in line.items() if name not in ("kind", "epoch", "time")}
        for line in lines_of(job_dir, "validation")
    ]
    assert validations == [
        {"step": event.step, **event.values, "learning_rate": pytest.approx(event.values["learning_rate"])}
        for event in tracker.of(Validation)
    ]
    for event in tracker.of(Validation):
        assert event.probabilities.shape == (len(event.images), 2)


def test_an_observer_decides_nothing(watched):
    job_dir, _, vandal = watched
    assert result_of(job_dir)["stopped_by"] == "epochs"
    assert len(vandal.refusals) == 4 + 3 * 2  # Every attempt: one a step, three a validation.


@pytest.mark.slow
def test_an_observer_changes_no_weights(watched, alone):
    job_dir, *_ = watched
    assert result_of(job_dir)["weights_sha256"] == result_of(alone)["weights_sha256"]
    assert values_of(job_dir) == values_of(alone)


@pytest.mark.slow
def test_a_job_with_more_epochs_starts_where_it_ended_and_says_where_the_seconds_went(data, alone, package_log):
    tracker = Tracker()
    run_without_report(data, alone, [tracker], epochs=3)
    assert tracker.of(Start)[0].step == 4
    assert [event.step for event in tracker.of(Step)] == [5, 6]
    assert tracker.of(Compile) == [Compile(4)]
    says = [line for line in package_log.messages if line.startswith(("compiling", "start:"))]
    assert says[0] == "compiling the step ..."
    total, parts = re.fullmatch(r"start: ([\d.]+) s: (.*)", says[1]).groups()
    names, seconds = zip(*(part.rsplit(" ", 1) for part in parts.split(", ")), strict=True)
    assert names == ("images", "imports", "model", "checkpoint", "first batch", "first step")
    assert float(total) == pytest.approx(sum(map(float, seconds)), abs=0.4)
    assert len(says) == 2
    assert [line["step"] for line in lines_of(alone, "end")] == [6]


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


class Clock:
    """A clock that a test sets."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def epoch_ends(bar, step):
    values = {"val_loss": 0.4, "val_accuracy": 0.8, "val_auc": None, "learning_rate": 0.1, "best": True}
    bar.on_validation(Validation(step, values, np.zeros(0, np.int64), np.zeros([0, 2], np.float32)))


def window(step, seconds, *, compiled=False, examples=20):
    return Window(step, 0.1, loss=0.5, accuracy=0.75, examples=examples, seconds=seconds, waited=0.0, compiled=compiled)


def drive(bar, clock, steps, *, validation=(), per_epoch=3):
    """Play the events of a job; steps are (number, seconds, whether it is compiled), each with a window."""
    validations = iter(validation)
    for step, seconds, compiled in steps:
        if compiled:
            bar.on_compile(Compile(step - 1))
        clock.now += seconds
        bar.on_step(Step(step, 0.1))
        bar.on_window(window(step, seconds, compiled=compiled))
        if step % per_epoch == 0:
            bar.on_validating(Validating(step, 0, 40))
            for images, waits in zip((20, 40), next(validations, (0.0, 0.0)), strict=True):
                clock.now += waits
                bar.on_validating(Validating(step, images, 40))
            epoch_ends(bar, step)


def test_what_is_left_counts_validation_but_nothing_that_was_compiled_first(capsys):
    bar = ProgressBar(Plan(total_steps=9, steps_per_epoch=3), show=True, stream=sys.stderr, validation_images=40)
    with mock.patch.object(time, "monotonic", Clock()) as clock:
        bar.on_start(Start(0, 9, {}))
        steps = [(1, 900.0, True), (2, 1.0, False), (3, 1.0, False), *[(step, 1.0, False) for step in range(4, 10)]]
        drive(bar, clock, steps, validation=[(300.0, 5.0), (4.0, 4.0), (4.0, 4.0)])
    # Six steps and two validations of twice 5 s; then three steps and one of 8 s.
    assert re.findall(r"left (\S+)", capsys.readouterr().err) == ["26s", "11s", "0s"]


def test_what_is_left_is_unknown_while_later_steps_are_others(capsys):
    bar = ProgressBar(Plan(total_steps=9, steps_per_epoch=3, frozen_steps=3), show=True, stream=sys.stderr)
    with mock.patch.object(time, "monotonic", Clock()) as clock:
        bar.on_start(Start(0, 9, {}))
        drive(bar, clock, [(1, 900.0, True), (2, 1.0, False), (3, 1.0, False), (4, 300.0, True), (5, 10.0, False),
                           (6, 10.0, False)])  # fmt: skip
    assert re.findall(r"left (\S+)", capsys.readouterr().err) == ["unknown", "30s"]


def test_what_is_left_is_unknown_until_a_step_was_not_compiled(capsys):
    bar = ProgressBar(Plan(total_steps=2, steps_per_epoch=1), show=True, stream=sys.stderr)
    bar.on_start(Start(0, 2, {}))
    drive(bar, Clock(), [(1, 9.0, True), (2, 1.0, False)], per_epoch=1)
    assert re.findall(r"left (\S+)", capsys.readouterr().err) == ["unknown", "0s"]


def test_before_the_first_validation_its_images_count_as_those_of_training():
    left = TimeLeft(Plan(total_steps=6, steps_per_epoch=3), 40)
    left.add_window(window(1, 900.0, compiled=True))
    left.add_window(window(2, 1.0))
    assert left.text(2) == "8s"  # Four steps of 20 images, and twice 40 images.


def test_the_line_of_an_epoch_says_nothing_that_was_not_measured(capsys):
    bar = ProgressBar(Plan(total_steps=9, steps_per_epoch=3), show=True, stream=sys.stderr)
    bar.on_start(Start(3, 9, {}))
    epoch_ends(bar, 3)  # Validated again, as the last start was interrupted there.
    drive(bar, Clock(), [(4, 9.0, True), (5, 1.0, False), (6, 1.0, False), (7, 1.0, False), (8, 1.0, False),
                         (9, 2.0, False)])  # fmt: skip
    first, second, third = capsys.readouterr().err.splitlines()
    assert first.startswith("epoch 1/3  val_loss 0.4000")
    assert "images/s" not in first
    assert "epoch 2/3  loss 0.5000  accuracy 0.7500" in second
    assert "  20 images/s" in second  # 40 images in two seconds: not the nine of the compiled step.
    assert "  15 images/s" in third


def test_a_narrow_terminal_keeps_what_matters():
    terminal = mock.Mock(wraps=io.StringIO(), isatty=lambda: True)  # No descriptor: 80 columns.
    bar = ProgressBar(Plan(total_steps=900, steps_per_epoch=300), show=True, stream=terminal)
    bar.on_start(Start(0, 900, {}))
    bar.on_step(Step(1, 0.1))
    bar.on_window(window(2, 1.0))
    shown = written(terminal)[-1]
    assert "left 7m29s, loss 0.5000, 20 images/s" in shown
    assert len(shown.strip("\r")) <= 80
    bar.on_validating(Validating(300, 0, 40))
    epoch_ends(bar, 300)
    (line,) = written(terminal)[-1].splitlines()
    assert line == "epoch 1/3  loss 0.5000  val_loss 0.4000  val_auc undefined  left 5m00s  (best)"
    bar.on_end(End(300, None))


def test_a_terminal_shows_the_place_in_a_series_and_the_time_left_for_all():
    terminal, file = mock.Mock(wraps=io.StringIO(), isatty=lambda: True), mock.Mock(wraps=io.StringIO())
    file.isatty = lambda: False
    for stream in (terminal, file):
        bar = ProgressBar(Plan(total_steps=900, steps_per_epoch=300), show=True, stream=stream,
                          series=Series("seed 4", 2, 3))  # fmt: skip
        bar.on_start(Start(0, 900, {}))
        bar.on_step(Step(1, 0.1))
        bar.on_window(window(2, 1.0))
        if stream is terminal:
            assert "left 14m59s for all" in written(terminal)[-1]
            assert "seed 4 (2/3), epoch 1/3:" in written(terminal)[-1]
        epoch_ends(bar, 300)
    assert written(terminal)[-1] == "seed 4 (2/3)  epoch 1/3  val_loss 0.4000  val_auc undefined  left 12m30s for all"
    assert written(file)[-1].startswith("epoch 1/3  loss 0.5000  accuracy 0.7500  val_loss 0.4000")
    assert "left 5m00s  (best" in written(file)[-1]


@pytest.mark.parametrize("columns", [20, 40, 60, 80, 100, 120, 160])
def test_the_line_of_an_epoch_fits_every_terminal(columns, monkeypatch):
    terminal = mock.Mock(wraps=io.StringIO(), isatty=lambda: True)
    monkeypatch.setattr(progress, "columns", lambda _: columns)
    bar = ProgressBar(Plan(total_steps=900, steps_per_epoch=300), show=True, stream=terminal)
    bar.on_start(Start(0, 900, {}))
    bar.on_window(window(2, 1.0))
    epoch_ends(bar, 300)
    (line,) = written(terminal)[-1].splitlines()
    assert len(line) <= columns
    assert line.startswith("epoch 1/3")
    assert ("data wait" in line) == (columns == 160)
    assert ("val_auc" in line) == (columns > 40)


def test_a_terminal_shows_that_the_step_is_compiled_until_it_ends():
    terminal = mock.Mock(wraps=io.StringIO(), isatty=lambda: True)
    bar = ProgressBar(Plan(total_steps=9, steps_per_epoch=9), show=True, stream=terminal)
    bar.on_start(Start(0, 9, {}))
    bar.on_compile(Compile(0))
    assert "compiling the step ..." in written(terminal)[-1]
    bar.on_step(Step(1, 0.1))
    assert terminal.write.call_args_list[-1].args[0].endswith("\r")  # Blank: the log may write.
    bar.on_step(Step(2, 0.1))
    bar.on_end(End(2, None))
    assert "2/9" in written(terminal)[-1] or "1/9" in written(terminal)[-1]
    assert "compiling" not in written(terminal)[-1]


def written(terminal):
    return [call.args[0] for call in terminal.write.call_args_list if call.args[0].strip()]


def test_other_processes_say_nothing_of_their_start(package_log):
    report = StartReport(StartClock(), Plan(total_steps=2, steps_per_epoch=1), show=False)
    report.on_compile(Compile(0))
    report.on_step(Step(1, 0.1))
    assert package_log.messages == []


@pytest.mark.slow
def test_a_stop_before_the_first_save_speaks_of_no_other(data, tmp_path, package_log):
    with sigterm_after(1), pytest.raises(StoppedEarly):
        run_without_report(data, tmp_path / "job", [])
    (line,) = (line for line in package_log.messages if "saving step" in line)
    assert line == "SIGTERM: saving step 1"
