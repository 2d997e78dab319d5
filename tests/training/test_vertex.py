"""Vertex AI's environment: where a job's state, model and events go, and that without it nothing changes."""

import json

import pytest

from tests.helpers.commands import answer, refusal
from tests.helpers.fake_gcs import objects
from tests.helpers.images import write_image_set
from tests.helpers.jobs import SMALL, float32_policy  # noqa: F401  (a fixture)
from trainer import train
from trainer.core import cli
from trainer.core.config import flags
from trainer.core.errors import StorageDown
from trainer.core.job_dir import JobPaths
from trainer.core.result import Result
from trainer.core.storage import files
from trainer.training.exports import exporter, live_report
from trainer.training.start import vertex

BASE = "gs://bucket/base"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    """Return a function that sets Vertex AI's variables to folders below a base."""
    for name in (vertex.CHECKPOINTS, vertex.MODEL, vertex.EVENTS):
        monkeypatch.delenv(name, raising=False)

    def put(base, **names):
        for name, folder in names.items():
            monkeypatch.setenv(getattr(vertex, name), f"{base}/{folder}/")

    return put


def job_dir_of(*words):
    return flags.train_config(["--data_dir=d", *words], vertex.defaults()).loop.job_dir


def test_job_dir_is_derived_unless_it_is_given(environment, tmp_path):
    assert vertex.defaults() == {}
    environment(BASE, MODEL="model")
    assert job_dir_of() == f"{BASE}/job"
    environment(BASE, CHECKPOINTS="checkpoints")
    assert job_dir_of() == f"{BASE}/checkpoints"
    assert job_dir_of("--job_dir=own") == "own"
    (tmp_path / "settings.json").write_text(json.dumps({"job_dir": "of-file"}))
    assert job_dir_of(f"--config={tmp_path}/settings.json") == "of-file"


def test_events_of_jobs_beside_each_other_have_folders_of_their_own(environment):
    assert vertex.tensorboard(JobPaths("j")) == "j/tensorboard"
    environment(BASE, CHECKPOINTS="checkpoints", EVENTS="logs")
    assert vertex.tensorboard(JobPaths(f"{BASE}/checkpoints")) == f"{BASE}/logs"
    assert vertex.tensorboard(JobPaths("sweep/trials/3")) == f"{BASE}/logs/3"


def test_folders_that_would_hide_others_and_other_paths_are_refused(environment, monkeypatch, capsys, tmp_path):
    words = [f"--data_dir={tmp_path}/d", f"--job_dir={tmp_path}/j"]
    environment(f"{tmp_path}/j", MODEL="model")
    assert "AIP_MODEL_DIR: expected a folder outside of job_dir" in refusal(capsys, train.main, *words)
    environment(f"{tmp_path}/d", MODEL="Train/model")
    assert "AIP_MODEL_DIR: expected a folder outside the images" in refusal(capsys, train.main, *words)
    monkeypatch.setenv(vertex.MODEL, "s4://x")
    assert refusal(capsys, train.main, *words).startswith("error: AIP_MODEL_DIR: ")


def test_logs_are_structured_there(monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("CLOUD_ML_JOB", "{}")
    assert isinstance(cli.formatter(), cli.JsonFormatter)


def outcome_of(folder, about):
    """Return the result of a job whose export says this."""
    contents = {"saved_model.pb": "graph", "variables/data": about, "assets.extra/deepdetect.json": about}
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    names = dict.fromkeys(Result.__dataclass_fields__)
    return Result(**{**names, "exports": {"best": str(folder), "last": "another"}})


def test_the_model_arrives_with_its_marker_last(environment, bucket, tmp_path, monkeypatch):
    environment(bucket, MODEL="model")
    outcome, written = outcome_of(tmp_path / "1", "first"), []
    write = files.write_bytes
    monkeypatch.setattr(files, "write_bytes", lambda path, content: (written.append(path), write(path, content)))
    assert vertex.deliver(outcome) == f"{bucket}/model"
    assert written[-1] == f"{bucket}/model/saved_model.pb"
    assert objects(f"{bucket}/model") == ["assets.extra/deepdetect.json", "saved_model.pb", "variables/data"]
    written.clear()
    vertex.deliver(outcome)
    assert not written  # It is there already.

    def fail(path, content):
        if path.endswith("variables/data"):
            raise StorageDown("away")
        write(path, content)

    monkeypatch.setattr(files, "write_bytes", fail)
    newer = outcome_of(tmp_path / "2", "second")
    with pytest.raises(StorageDown):
        vertex.deliver(newer)
    assert not files.exists(f"{bucket}/model/saved_model.pb")  # Half of a model is none.
    monkeypatch.setattr(files, "write_bytes", write)
    vertex.deliver(newer)
    assert files.read_text(f"{bucket}/model/variables/data") == "second"


@pytest.mark.slow
def test_a_job_without_job_dir_leaves_everything_where_vertex_ai_looks(
    environment, bucket, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(exporter.training_report, "write_training_report", lambda *_, **__: None)  # They take seconds.
    monkeypatch.setattr(live_report.LiveReport, "_make", lambda *_: 0.0)
    data = write_image_set(tmp_path / "data", train=10, validation=4, test=0)
    environment(f"{bucket}/base", CHECKPOINTS="checkpoints", MODEL="model", EVENTS="logs")
    settings = {**SMALL, "data_dir": data, "epochs": 1, "batch_size": 10, "export": "last"}
    words = [f"--{name}={value}" for name, value in settings.items()]
    code, out, err = answer(capsys, train.main, *words)
    assert code == 0, err
    base = f"{bucket}/base"
    assert f"from Vertex AI's environment: job_dir {base}/checkpoints, the export goes to {base}/model, Tensor" in err
    assert f"model for Vertex AI: {base}/model\n" in out
    assert {"result.json", "config.json"} <= set(objects(f"{base}/checkpoints"))
    (version,) = {name.split("/")[2] for name in objects(f"{base}/checkpoints") if name.startswith("export/last/")}
    exported = objects(f"{base}/checkpoints/export/last/{version}")
    assert objects(f"{base}/model") == exported
    source = f"{base}/checkpoints/export/last/{version}"
    assert all(files.read_bytes(f"{base}/model/{name}") == files.read_bytes(f"{source}/{name}") for name in exported)
    assert not [name for name in objects(f"{base}/checkpoints") if name.startswith("tensorboard/")]
    assert objects(f"{base}/logs")
    for name in objects(f"{base}/model"):
        files.remove(f"{base}/model/{name}")
    code, out, err = answer(capsys, train.main, *words)  # A job that is done brings its model once more.
    assert (code, objects(f"{base}/model")) == (0, exported)
