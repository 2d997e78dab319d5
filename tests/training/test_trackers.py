"""Experiment trackers with their real packages, offline: one run over kills, no step twice, and no harm to the job."""

import json
import logging
import struct
import threading
import time
from collections import Counter
from unittest import mock

import pytest

from tests.helpers.commands import refusal
from tests.helpers.jobs import argv, float32_policy, lines_of, run_job, sigterm_after  # noqa: F401
from trainer import train
from trainer.core.config import from_flat
from trainer.core.errors import JobFailed, StoppedEarly
from trainer.core.job_dir import JobPaths
from trainer.training import trackers
from trainer.training.observers import Start, TrainLine, Validation, Window
from trainer.training.trackers import delivery
from trainer.training.trackers.backend import Point, Run


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """Return a client of an empty file store, which the jobs of the test use."""
    from mlflow import MlflowClient  # Here, as below: each process collects these tests, and the import takes a second.

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    return MlflowClient()


@pytest.fixture
def wandb(tmp_path, monkeypatch):
    """Return the folder of offline runs."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    return tmp_path / "wandb"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(delivery, "_EVERY_SECONDS", 0.05)


def runs_of(client):
    experiment = client.get_experiment_by_name("deepdetect")
    return client.search_runs([experiment.experiment_id]) if experiment else []


def steps_of(client, run, name):
    return [metric.step for metric in client.get_metric_history(run.info.run_id, name)]


def window(*steps, loss=0.5):
    return Window(steps[-1], 0.1, loss, 0.5, 4.0, 1.0, 0.0, tuple(TrainLine(step, {"loss": loss}) for step in steps))


def validation(step, **values):
    return Validation(step, values, None, None)  # type: ignore[arg-type]


def observed(job_dir, events, *, names="mlflow", error=None, start=0):
    """Make the trackers of a job hear events; return whether they are whole."""
    config = from_flat({"data_dir": "d", "job_dir": str(job_dir), "trackers": names})
    job_dir.mkdir(parents=True, exist_ok=True)
    observer = trackers.make(config, JobPaths(str(job_dir)), write=True)
    with observer.ending():
        observer.on_start(Start(start, 10, {"precision": "float32"}))
        for event in events:
            (observer.on_window if isinstance(event, Window) else observer.on_validation)(event)
        if error:
            raise error


@pytest.mark.slow
def test_a_job_is_one_run_over_kills_and_no_step_is_there_twice(image_set, tmp_path, mlflow):
    job_dir = tmp_path / "job"
    with sigterm_after(3):
        assert run_job(image_set, job_dir, trackers="mlflow") == 75
    (run,) = runs_of(mlflow)
    assert (run.info.status, run.info.run_name) == ("KILLED", "job")
    assert max(steps_of(mlflow, run, "train/loss")) == 3
    assert run_job(image_set, job_dir, trackers="mlflow", early_stopping_patience=10) == 0
    (run,) = runs_of(mlflow)
    assert run.info.status == "FINISHED"
    for kind, name in (("train", "train/loss"), ("validation", "validation/loss")):
        assert steps_of(mlflow, run, name) == [line["step"] for line in lines_of(job_dir, kind)]
    values = [metric.value for metric in mlflow.get_metric_history(run.info.run_id, "train/loss")]
    assert values == [line["loss"] for line in lines_of(job_dir, "train")]
    assert run.data.params["batch_size"] == "20"
    assert run.data.tags["report"] == f"{job_dir}/report/index.html"


def test_results_are_linked(tmp_path, mlflow):
    job_dir = tmp_path / "job"
    config = from_flat({"data_dir": "d", "job_dir": str(job_dir), "trackers": "mlflow"})
    observer = trackers.make(config, JobPaths(str(job_dir)), write=True)
    outcome = mock.Mock(exports={"best": f"{job_dir}/export/best/4"}, stopped_by="epochs", best_epoch=2, learned=True)
    job_dir.mkdir()
    with observer.ending():
        observer.on_start(Start(0, 10, {"precision": "float32"}))
        observer.tell(outcome)
    (run,) = runs_of(mlflow)
    tags = {"export.best": f"{job_dir}/export/best/4", "report": f"{job_dir}/report/index.html", "learned": "True"}
    assert tags.items() <= run.data.tags.items()


def test_steps_that_are_done_again_are_skipped_and_changed_settings_are_tags(tmp_path, mlflow):
    job_dir = tmp_path / "job"
    with pytest.raises(StoppedEarly):
        observed(job_dir, [window(1, 2, 3), validation(3, val_loss=0.5)], error=StoppedEarly("a signal"))
    observed(job_dir, [window(2, 3, 4, loss=0.4), validation(3, val_loss=0.4), validation(4, val_auc=0.9)], start=1)
    (run,) = runs_of(mlflow)
    assert steps_of(mlflow, run, "train/loss") == [1, 2, 3, 4]
    assert [metric.value for metric in mlflow.get_metric_history(run.info.run_id, "train/loss")][1:] == [0.5, 0.5, 0.4]
    assert steps_of(mlflow, run, "validation/loss") == [3]
    assert steps_of(mlflow, run, "validation/auc") == [4]
    with pytest.raises(JobFailed):
        observed(job_dir, [], error=JobFailed("diverged"))
    (run,) = runs_of(mlflow)
    assert run.info.status == "FAILED"


def test_a_restart_with_another_setting_keeps_the_parameter_and_adds_a_tag(mlflow):
    first = Run("job", "/job", "", {"epochs": 5}, {})
    from trainer.training.trackers import mlflow_backend

    backend = mlflow_backend.MlflowBackend()
    run_id = backend.open(first, "")
    assert mlflow_backend.MlflowBackend().open(Run("job", "/job", "", {"epochs": 9, "seed": 0}, {}), run_id) == run_id
    (run,) = runs_of(mlflow)
    assert run.data.params == {"epochs": "5", "seed": "0"}
    assert run.data.tags["setting.epochs"] == "9"


def test_trials_of_a_sweep_have_one_parent(mlflow):
    from trainer.training.trackers import mlflow_backend

    for number in range(2):
        mlflow_backend.MlflowBackend().open(Run(f"0{number}", f"/sweep/trials/0{number}", "/it's/a sweep", {}, {}), "")
    runs = {run.info.run_name: run for run in runs_of(mlflow)}
    assert sorted(runs) == ["00", "01", "a sweep"]
    parents = {runs[name].data.tags["mlflow.parentRunId"] for name in ("00", "01")}
    assert parents == {runs["a sweep"].info.run_id}


def test_a_job_knows_the_sweep_or_the_seeds_that_it_is_part_of(tmp_path):
    (tmp_path / "sweep/trials/00").mkdir(parents=True)
    (tmp_path / "seeds/seed-1").mkdir(parents=True)
    (tmp_path / "sweep/sweep.json").touch()
    (tmp_path / "seeds/seeds.json").touch()
    assert trackers._parent(str(tmp_path / "sweep/trials/00")) == str(tmp_path / "sweep")
    assert trackers._parent(str(tmp_path / "seeds/seed-1")) == str(tmp_path / "seeds")
    assert trackers._parent(str(tmp_path / "sweep")) == ""


@pytest.mark.slow
def test_wandb_offline_continues_its_run_and_has_every_step_once(tmp_path, wandb):
    job_dir = tmp_path / "job"
    with pytest.raises(StoppedEarly):
        observed(job_dir, [window(1, 2), validation(2, val_loss=0.5)], names="wandb", error=StoppedEarly("a signal"))
    run_id = json.loads((job_dir / "tracker-wandb.json").read_text())["run"]
    observed(job_dir, [window(2, 3), validation(3, val_loss=0.4)], names="wandb", start=1)
    starts = sorted(wandb.glob(f"offline-run-*-{run_id}"))
    assert len(starts) == len(list(wandb.glob("offline-run-*"))) == 2
    assert json.loads((job_dir / "tracker-wandb.json").read_text()) == {"run": run_id, "train": 3, "validation": 3}
    end = time.monotonic() + 30
    while len(rows := [row for folder in starts for row in history_of(folder)]) < 3 and time.monotonic() < end:
        time.sleep(0.1)  # W&B's own process writes the file.
    assert [row["_step"] for row in rows] == [1, 2, 3]
    assert [row.get("validation/loss") for row in rows] == [None, 0.5, 0.4]


def history_of(folder):
    """Return the rows in the file of an offline run, which is a log of LevelDB's form."""
    from wandb.proto import wandb_internal_pb2

    content, place, part, rows = next(folder.glob("*.wandb")).read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        if 2**15 - place % 2**15 < 7:  # The rest of a block is empty.
            place += 2**15 - place % 2**15
        length, kind = struct.unpack_from("<HB", content, place + 4)
        part += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # Whole, or the last part of one.
            record, part = wandb_internal_pb2.Record.FromString(part), b""
            if record.HasField("history"):
                items = record.history.item
                rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items})
    return rows


class _Broken:
    """A service that fails or hangs."""

    def __init__(self, hangs=None):
        self.hangs = hangs

    def open(self, run, run_id):
        if self.hangs:
            self.hangs.wait()
        raise ConnectionError("no route\nto host")

    log = tag = close = None


def sent_to(backend, path, caplog):
    one = delivery.Delivery("mlflow", lambda: backend, Run("job", "/job", "", {}, {}), str(path))
    one.start()
    for step in range(1, 4):
        one.add("train", [Point(step, {"train/loss": 0.5}, 0.0)])
    one.close("FINISHED")
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_service_that_fails_is_one_warning(tmp_path, caplog):
    (line,) = sent_to(_Broken(), tmp_path / "tracker.json", caplog)
    assert line == (
        "--trackers=mlflow: ConnectionError: no route to host; nothing is tracked from now on, training is not affected"
    )


def test_a_service_that_does_not_answer_is_not_waited_for(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(delivery, "_END_SECONDS", 0.01)
    hangs = threading.Event()
    (line,) = sent_to(_Broken(hangs), tmp_path / "tracker.json", caplog)
    assert "it did not answer within 0.01 s" in line
    hangs.set()


@pytest.mark.slow
def test_a_job_does_not_fail_with_its_tracker(image_set, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "no-such-scheme://host")
    assert run_job(image_set, tmp_path / "job", trackers="mlflow", epochs=1) == 0
    assert capsys.readouterr().err.count("--trackers=mlflow: ") == 1


def test_wandb_without_a_key_is_an_error_and_not_a_question(monkeypatch, tmp_path):
    from trainer.training.trackers import wandb_backend

    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    with pytest.raises(Exception, match="WANDB_API_KEY"):
        wandb_backend.WandbBackend().open(Run("job", "/job", "", {}, {}), "")


def test_a_missing_package_is_a_wrong_request(image_set, tmp_path, capsys, monkeypatch):
    real = trackers.importlib.util.find_spec
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None if name == "wandb" else real(name))
    line = refusal(capsys, train.main, *argv(image_set, tmp_path / "job", trackers="mlflow,wandb"))
    assert "--trackers: expected the package of wandb, received none; pip install -e '.[wandb]'" in line


def test_points_of_a_step_are_one(tmp_path):
    points = [Point(1, {"a": 1.0}, 5.0), Point(2, {"a": 2.0}, 6.0), Point(2, {"b": 3.0}, 7.0)]
    merged = delivery._merged(points)
    assert Counter(point.step for point in merged) == {1: 1, 2: 1}
    assert merged[1].values == {"a": 2.0, "b": 3.0}
