"""A checkpoint exported again, through the command: forms that answer alike, and clear refusals."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import fake_hub
from tests.helpers.commands import answer
from tests.helpers.images import write_image_set
from tests.helpers.jobs import SMALL, finished_job, float32_policy  # noqa: F401  (a fixture)
from trainer import export
from trainer.serving import convert, stock_keras

pytestmark = pytest.mark.slow  # A training, and an export that is checked in a process of its own.
HAS_HUB = importlib.util.find_spec("huggingface_hub") is not None
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("tf2onnx", "onnxruntime"))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_image_set(tmp_path_factory.mktemp("data"), train=20, validation=5, test=2)


@pytest.fixture(scope="module")
def job(data, tmp_path_factory):
    return finished_job(data, tmp_path_factory.mktemp("jobs") / "job", augment="none", epochs=1)


def run(capsys, *words):
    return answer(capsys, export.main, *words)


@pytest.fixture
def hub(monkeypatch):
    """Return a server that plays the Hub, for the command's client."""
    with fake_hub.serve(monkeypatch) as running:
        yield running


def test_forms_answer_alike_and_are_compared(job, data, tmp_path, capfd, hub):
    forms = ["savedmodel", "keras", "tflite"] + (["onnx"] if HAS_ONNX else [])
    words = [f"--job_dir={job}", f"--out={tmp_path}", f"--formats={','.join(forms)}"]
    code, out, err = run(capfd, *words, *(["--push_to_hub=team/faces"] if HAS_HUB else []))
    assert code == 0, err
    assert "INFO" not in err  # TFLite's, which C++ writes.
    if HAS_HUB:
        uploaded = hub.repositories["team/faces"]["files"]
        assert uploaded["model.keras"] == (tmp_path / "model.keras").read_bytes()
        assert out.splitlines()[-2] == f"uploaded: {hub.url}/team/faces"
        out = out.replace(f"uploaded: {hub.url}/team/faces\n", "")
    if HAS_ONNX:
        (line,) = [line for line in out.splitlines() if line.startswith("TensorRT")]
        assert line == "TensorRT 10.1 takes model.onnx, by its list of operators of 2024-06-17; it was not run"
        out = out.replace(f"{line}\n", "")
    compared = json.loads((tmp_path / "comparison.json").read_text())
    assert list(compared["forms"]) == forms
    assert compared["images"] == 10
    assert [line.split()[0] for line in out.splitlines()[1:-2]] == forms
    assert out.splitlines()[-1] == f"exported: {tmp_path}"
    (version,) = (tmp_path / "savedmodel").iterdir()
    assert int(version.name) == compared["step"]
    metadata = json.loads((tmp_path / "deepdetect.json").read_text())
    assert (metadata["class_names"], metadata["positive_class"]) == (["Fake", "Real"], "Fake")
    cards = [tmp_path / "model_card.md", *tmp_path.glob("savedmodel/*/assets.extra/model_card.md")]
    assert len(cards) == 2
    assert cards[0].read_text() == cards[1].read_text()
    assert "| Train | Fake | 20 | 50.0% |\n" in cards[0].read_text()  # From result.json: the job exported nothing.
    paths = sorted(Path(data, "Test").rglob("*.jpg"))
    size = SMALL["image_size"]
    images = np.stack([tf.io.decode_jpeg(path.read_bytes(), dct_method="INTEGER_ACCURATE") for path in paths])
    assert images.shape[1:] == (size, size, 3)
    expected = tf.saved_model.load(str(version)).signatures["serve_images"](images=images)["probabilities"].numpy()
    runs = {"keras": stock_keras.run, "tflite": convert.run_tflite, "onnx": convert.run_onnx}
    for form in forms[1:]:
        answers = runs[form]((tmp_path / f"model.{form}").read_bytes())(images)
        np.testing.assert_allclose(answers, expected, atol=1e-5)
        figures = compared["forms"][form]
        assert figures["largest_difference"] < 1e-5
        assert figures["labels_changed"] == 0
        assert figures["images_per_second"] > 0


@pytest.mark.thorough  # Two more exports.
def test_a_smaller_form_on_other_images_keeps_what_the_jobs_export_says(job, data, tmp_path, capsys):
    own = tmp_path / "job"
    shutil.copytree(job, own)
    words = [f"--job_dir={own}", "--step=last", f"--samples={data}/Test"]
    assert run(capsys, *words, f"--out={tmp_path / 'a'}")[0] == 0
    (version,) = (tmp_path / "a" / "savedmodel").iterdir()
    shutil.copytree(version, own / "export" / "last" / version.name)
    file = own / "export" / "last" / version.name / "assets.extra" / "deepdetect.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "threshold": 0.25}))
    (file.parent / "model_card.md").write_text("# Its own card\n")
    code, out, _ = run(capsys, *words, f"--out={tmp_path / 'b'}", "--formats=tflite", "--quantize=float16")
    assert code == 0
    assert "tflite float16" in out
    assert not (tmp_path / "b" / "savedmodel").exists()
    assert json.loads((tmp_path / "b" / "deepdetect.json").read_text())["threshold"] == 0.25
    assert (tmp_path / "b" / "model_card.md").read_text() == "# Its own card\n"
    compared = json.loads((tmp_path / "b" / "comparison.json").read_text())["forms"]["tflite"]
    assert compared["largest_difference"] < 0.01
    assert compared["bytes"] < 0.6 * sum(path.stat().st_size for path in version.rglob("variables.data*"))


def test_wrong_requests_are_one_error(job, data, tmp_path, capsys, monkeypatch):
    damaged, empty = tmp_path / "damaged", tmp_path / "empty"
    shutil.copytree(job, damaged)
    (arrays,) = damaged.glob("checkpoints/*/arrays.npz")
    arrays.write_bytes(arrays.read_bytes()[:-100])
    empty.mkdir()
    shutil.copy(job / "config.json", empty)
    monkeypatch.setattr(convert.importlib.util, "find_spec", lambda name: None)
    for words, said in (
        ([f"--job_dir={tmp_path}"], "without config.json"),
        ([f"--job_dir={empty}"], "with a checkpoint"),
        ([f"--job_dir={damaged}", "--step=last"], "a damaged one"),
        ([f"--job_dir={damaged}"], "damaged"),
        ([f"--job_dir={job}", "--step=999"], "--step"),
        ([f"--job_dir={job}", "--formats=savedmodel,tensorrt"], "--formats"),
        ([f"--job_dir={job}", "--formats=onnx"], "pip install -e '.[onnx]'"),
        ([f"--job_dir={job}", f"--samples={data}/nothing"], "expected a PATH"),
    ):
        code, out, err = run(capsys, f"--out={tmp_path / 'out'}", *words)
        *warnings, line = err.splitlines()
        assert (code, out, line[:7]) == (2, "", "error: "), (words, err)
        assert all("is damaged" in warning for warning in warnings)  # Of the checkpoint that is skipped.
        assert said in line
    assert not (tmp_path / "out").exists()
