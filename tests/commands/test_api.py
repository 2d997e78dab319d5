"""The public face for Python: the example of its page, values in place of flags, and errors as exceptions."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.jobs import SMALL, float32_policy  # noqa: F401  (a fixture)
from tests.helpers.tiny_export import write_export, write_image
from trainer import api
from trainer.core.result import Result
from trainer.training.exports import exporter

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"


@pytest.mark.slow
def test_the_example_of_the_page_runs(image_set, tmp_path, monkeypatch, capsys):
    (example,) = [part.split("```")[0] for part in PAGE.read_text().split("```python\n")[1:]]
    (tmp_path / "data").symlink_to(image_set)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(exporter.training_report, "write_training_report", lambda *_, **__: None)  # It takes seconds.
    values: dict[str, object] = {}
    exec(compile(example, str(PAGE), "exec"), values)
    result, figures = values["result"], values["figures"]
    assert isinstance(result, Result)
    assert json.loads(Path("jobs/first/result.json").read_text())["weights_sha256"] == result.weights_sha256
    assert json.loads(Path("jobs/first/evaluation/metrics.json").read_text())["auc"] == figures["auc"]  # type: ignore[index]
    images = sum(len(names) for _, _, names in os.walk(Path(image_set) / "Test"))
    assert capsys.readouterr().out.count("\n") == 2 + images
    assert api.train("data", "jobs/first", epochs=2, image_size=64, batch_size=16) == result  # Done already.


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("model") / "1", ["Fake", "Real"])


def test_predict_takes_python_values(model, tmp_path):
    write_image(tmp_path / "images/a.png", (153, 0, 0))
    out = tmp_path / "rows.jsonl"
    (row,) = api.predict(Path(model), tmp_path / "images", threshold=np.float64(0.75), out=out, batch_size=1)
    assert (row["path"], row["label"], row["error"]) == (f"{tmp_path}/images/a.png", "Real", None)
    assert json.loads(out.read_text()) == row


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epoch": 3}, "expected a known setting, received 'epoch'; did you mean 'epochs'"),
        ({"epochs": "3"}, "--epochs: expected int, received '3'"),
        ({"export": ["best", "worst"]}, "--export: expected one of"),
        ({"seeds": 3}, "seeds: expected 1, received 3"),
        ({"config": "none.yaml"}, "--config"),
    ],
)
def test_wrong_settings_are_refused(image_set, tmp_path, settings, message):
    with pytest.raises(api.RequestError, match=message):
        api.train(image_set, tmp_path / "job", **{**SMALL, **settings})
    assert not (tmp_path / "job").exists()


def test_wrong_requests_of_the_others_are_refused(model, image_set, tmp_path):
    with pytest.raises(api.RequestError, match="a folder of numbered ones"):
        api.predict(tmp_path / "none", [tmp_path])
    with pytest.raises(api.RequestError, match="expected a PATH that names images"):
        api.predict(model, [tmp_path])
    with pytest.raises(api.RequestError, match="from 0 to 1"):
        api.predict(model, [tmp_path], threshold=2)
    with pytest.raises(api.RequestError, match="expected a known setting, received 'compare'"):
        api.evaluate(model, image_set, tmp_path / "out", compare="a,b")


@pytest.mark.slow
def test_a_job_below_its_required_auc_fails_and_keeps_its_files(image_set, tmp_path, monkeypatch):
    monkeypatch.setattr(exporter.training_report, "write_training_report", lambda *_, **__: None)
    with pytest.raises(api.JobFailed, match="auc"):
        api.train(
            image_set,
            tmp_path / "job",
            **{**SMALL, "epochs": 1, "require_auc": 1.0, "lr_schedule": "constant", "learning_rate": 1e-9},
        )
    assert (tmp_path / "job" / "result.json").exists()
