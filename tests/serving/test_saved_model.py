"""Exports of a trained model are self-contained and answer as the live model does."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import rest
from tests.helpers.images import write_image_set
from tests.helpers.jobs import SMALL, finished_job, float32_policy, result_of, run_job  # noqa: F401  (a fixture)
from trainer.core.config import ExportConfig, ModelConfig
from trainer.core.errors import JobFailed
from trainer.data import decode, decode_batch
from trainer.data.input_rule import InputRule
from trainer.evaluation import calibration
from trainer.models import registry
from trainer.serving import saved_model, verify_saved_model
from trainer.training import evaluator
from trainer.training.checkpoints.checkpoint import CheckpointStore

pytestmark = pytest.mark.slow  # Two exports, each verified in a process of its own.
SIZE = SMALL["image_size"]
CLASSES = ("Authentic", "Fake")  # Not the default order: the positive class is the second one.


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return data_dir whose Validation has its classes swapped: training makes it worse, so best is not last."""
    data_dir = write_image_set(tmp_path_factory.mktemp("data"), train=30, validation=10, test=4, classes=CLASSES)
    validation = Path(data_dir, "Validation")
    (validation / "Fake").rename(validation / "x")
    (validation / "Authentic").rename(validation / "Fake")
    (validation / "x").rename(validation / "Authentic")
    return data_dir


@pytest.fixture(scope="module")
def job(data, tmp_path_factory):
    job_dir = tmp_path_factory.mktemp("jobs") / "job"
    changes = {"export": "all", "augment": "none", "epochs": 4, "learning_rate": 0.01, "keep_checkpoints": 1}
    return finished_job(data, job_dir, **changes)


@pytest.fixture(scope="module")
def exports(job):
    """Return the version folder of each kind."""
    return {kind: next((job / "export" / kind).iterdir()) for kind in ("best", "last")}


@pytest.fixture(scope="module")
def paths(data):
    """Return test images of both classes, in JPEG."""
    return sorted(str(path) for path in Path(data, "Test").rglob("*.jpg"))


@pytest.fixture(scope="module")
def loaded(exports):
    return {kind: tf.saved_model.load(str(path)) for kind, path in exports.items()}


def live_probabilities(job: Path, step: int, paths: list[str]) -> np.ndarray:
    """Return the probabilities of a checkpoint's network, without any part of an export."""
    arrays = CheckpointStore(str(job / "checkpoints"), 3).read(step).arrays
    model = saved_model.live_model(arrays, ModelConfig(), num_classes=2, image_size=SIZE)
    pixels = tf.stack([decode.resize(decode.decode(tf.io.read_file(path)), SIZE) for path in paths])
    return model(tf.cast(pixels, tf.float32) / 255.0, training=False).numpy()


def test_best_and_last_are_version_folders_named_by_step(job, exports):
    result = result_of(job)
    assert result["best_step"] < result["step"], "the data was made for this"
    assert {kind: path.name for kind, path in exports.items()} == {
        "best": str(result["best_step"]),
        "last": str(result["step"]),
    }
    assert result["exports"] == {kind: str(path) for kind, path in exports.items()}
    # Nothing else that a server could take for a version.
    assert [[path.name for path in (job / "export" / kind).iterdir()] for kind in exports] == [
        [path.name] for path in exports.values()
    ]


def test_the_signatures_are_as_documented(loaded):
    for model in loaded.values():
        assert set(model.signatures) == {"serving_default", "serve_images", "explain"}
        inputs = {name: signature.structured_input_signature[1] for name, signature in model.signatures.items()}
        (encoded,) = inputs["serving_default"].values()
        assert (list(inputs["serving_default"]), encoded.dtype, encoded.shape.as_list()) == (
            ["image_bytes"], tf.string, [None],
        )  # fmt: skip
        (images,) = inputs["serve_images"].values()
        assert images.dtype == tf.uint8
        assert tf.TensorShape([5, SIZE, SIZE, 3]).is_compatible_with(images.shape)
        assert inputs["explain"] == inputs["serving_default"]
        plain = {"probabilities": (tf.float32, 2), "label": (tf.string, 1), "p_fake": (tf.float32, 1)}
        for name, signature in model.signatures.items():
            outputs = {key: (spec.dtype, spec.shape.rank) for key, spec in signature.structured_outputs.items()}
            assert outputs == (plain | {"heatmap": (tf.float32, 3)} if name == "explain" else plain)


def test_the_signatures_share_one_decoder(exports):
    operations = [node.op for node in graph_nodes(exports["best"])]
    assert operations.count("DecodeImage") == 1


def test_the_metadata_says_what_a_reader_needs(job, exports):
    result = result_of(job)
    for kind, path in exports.items():
        metadata = json.loads((path / "assets.extra" / "deepdetect.json").read_text())
        assert metadata["class_names"] == list(CLASSES)
        assert metadata["positive_class"] == "Fake"
        assert metadata["threshold"] == result["thresholds"][kind]
        assert metadata["temperature"] == 1.0
        assert metadata["threshold_choice"]["images"] == 20
        assert metadata["image_size"] == SIZE
        assert metadata["step"] == int(path.name)
        assert metadata["config"]["learning_rate"] == 0.01
        assert metadata["explain"] == {"method": "Grad-CAM", "layer": "conv4", "of": "label"}
        assert metadata["validation"] == result["validation" if kind == "best" else "last_validation"]


def test_each_export_has_its_card(job, exports, data):
    """Its figures are recomputed from the checkpoint; ``test_model_card.py`` has the other parts."""
    result = result_of(job)
    for kind, path in exports.items():
        card = (path / "assets.extra" / "model_card.md").read_text()
        files = sorted(str(file) for file in Path(data, "Validation").rglob("*.jpg"))
        p_fake = live_probabilities(job, int(path.name), files)[:, 1]
        is_fake = np.array([Path(file).parent.name == "Fake" for file in files])
        accuracy = ((p_fake >= np.float32(result["thresholds"][kind])) == is_fake).mean()
        assert f"| Accuracy | {accuracy:.1%} | " in card
        assert "| Train | Fake | 30 | 50.0% |\n" in card
        assert "| Validation | Authentic | 10 | 50.0% |\n" in card
        assert f"The threshold is {result['thresholds'][kind]:.4g}, chosen on 20 Validation images" in card
        assert "| Starts of the job | 1 |" in card
        assert f"| Step | {path.name} |" in card
        assert (result["weights_sha256"] in card) == (kind == "last")


def test_three_classes_have_their_figures_in_the_card_and_equal_steps_are_scored_once(tmp_path):
    classes = ("Drawn", "Fake", "Real")
    data = write_image_set(tmp_path / "data", train=8, validation=4, test=0, classes=classes)
    with mock.patch.object(evaluator, "score_split", wraps=evaluator.score_split) as scored:
        assert run_job(data, tmp_path / "job", export="all", epochs=1, batch_size=12) == 0
    assert scored.call_count == 1
    exported = [next((tmp_path / "job" / "export" / kind).iterdir()) for kind in ("best", "last")]
    images = sorted(Path(data, "Validation").rglob("*.jpg"))
    model = tf.saved_model.load(str(exported[0]))
    answers = model.signatures["serving_default"](image_bytes=tf.constant([path.read_bytes() for path in images]))
    labels = [label.decode() for label in answers["label"].numpy()]
    accuracy = np.mean([label == path.parent.name for label, path in zip(labels, images, strict=True)])
    for version in exported:
        card = (version / "assets.extra" / "model_card.md").read_text()
        assert f"| Accuracy | {accuracy:.1%} | " in card
        assert "12 images, scored with exactly the exported weights" in card
        assert "With more than two classes the likeliest class is the answer." in card


@pytest.mark.parametrize("kind", ["best", "last"])
def test_an_export_answers_as_the_live_model_does(job, exports, loaded, paths, kind):
    threshold = result_of(job)["thresholds"][kind]
    expected = live_probabilities(job, int(exports[kind].name), paths)
    encoded = tf.constant([Path(path).read_bytes() for path in paths])
    pixels = tf.stack([tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE") for data in encoded])
    from_bytes = loaded[kind].signatures["serving_default"](image_bytes=encoded)
    from_pixels = loaded[kind].signatures["serve_images"](images=pixels)
    for answers in (from_bytes, from_pixels):
        np.testing.assert_allclose(answers["probabilities"].numpy(), expected, atol=1e-5)
        np.testing.assert_allclose(answers["p_fake"].numpy(), expected[:, 1], atol=1e-5)
        labels = [CLASSES[1] if p >= np.float32(threshold) else CLASSES[0] for p in answers["p_fake"].numpy()]
        assert [label.decode() for label in answers["label"].numpy()] == labels
    assert np.ptp(expected[:, 1]) > 1e-3, "a constant answer would prove nothing"


@pytest.mark.parametrize("kind", ["best", "last"])
def test_the_threshold_is_what_the_export_does_on_validation(job, exports, loaded, data, kind):
    """Every image of Validation through the export's own signature gives the rates that the export states."""
    metadata = json.loads((exports[kind] / "assets.extra" / "deepdetect.json").read_text())
    files = sorted(Path(data, "Validation").rglob("*.jpg"))
    answers = loaded[kind].signatures["serving_default"](image_bytes=tf.constant([f.read_bytes() for f in files]))
    is_fake = np.array([file.parent.name == "Fake" for file in files])
    is_called_fake = np.array([label == b"Fake" for label in answers["label"].numpy()])
    choice = metadata["threshold_choice"]
    assert (choice["by"], choice["why"], choice["images"]) == ("accuracy", "", len(files))
    assert choice["accuracy"] == pytest.approx((is_called_fake == is_fake).mean())
    assert choice["tpr"] == pytest.approx(is_called_fake[is_fake].mean())
    assert choice["fpr"] == pytest.approx(is_called_fake[~is_fake].mean())
    labels, p = np.where(is_fake, 1, 0), answers["probabilities"].numpy()
    decision = calibration.decide(labels, p, positive=1, settings=ExportConfig())
    assert decision.threshold == pytest.approx(metadata["threshold"], abs=0.01)


def test_best_and_last_answer_differently(loaded, paths):
    encoded = tf.constant([Path(path).read_bytes() for path in paths])
    best, last = (loaded[kind].signatures["serving_default"](image_bytes=encoded)["p_fake"] for kind in loaded)
    assert np.abs(best.numpy() - last.numpy()).max() > 1e-3


def test_a_rest_body_as_tensorflow_serving_takes_it(loaded, paths):
    """Rows and columns of real photographs; ``test_rest.py`` has all forms of a body."""
    signature = loaded["best"].signatures["serving_default"]
    expected = signature(image_bytes=tf.constant([Path(path).read_bytes() for path in paths[:3]]))
    images = [{"b64": base64.b64encode(Path(path).read_bytes()).decode()} for path in paths[:3]]
    columns = rest.predict(loaded["best"], json.dumps({"inputs": {"image_bytes": images}}))["outputs"]
    assert columns["label"] == [label.decode() for label in expected["label"].numpy()]
    np.testing.assert_allclose(columns["p_fake"], expected["p_fake"].numpy(), atol=1e-6)
    (alone,) = rest.predict(loaded["best"], rest.documented_body(Path(paths[0])))["predictions"]
    assert alone["label"] in CLASSES
    np.testing.assert_allclose(alone["probabilities"], columns["probabilities"][0], atol=1e-6)
    request = json.dumps({"signature_name": "explain", "instances": images[:1]})
    (explained,) = rest.predict(loaded["best"], request)["predictions"]
    assert np.shape(explained["heatmap"]) == (SIZE, SIZE)


def test_one_image_of_another_size_and_format_is_answered(loaded):
    picture = np.random.default_rng(0).integers(0, 256, [150, 90, 3], dtype=np.uint8)
    encoded = tf.io.encode_png(picture)
    from_bytes = loaded["last"].signatures["serving_default"](image_bytes=tf.stack([encoded]))
    from_pixels = loaded["last"].signatures["serve_images"](images=picture[None])
    np.testing.assert_allclose(from_bytes["probabilities"].numpy(), from_pixels["probabilities"].numpy(), atol=1e-6)


def test_the_threshold_decides_the_label(paths):
    """With two classes, p_fake from the threshold on means the positive class, in whichever column it is."""
    model = registry.build(ModelConfig(), num_classes=2, image_size=SIZE, seed=0)
    images = tf.stack([decode.resize(decode.decode(tf.io.read_file(path)), SIZE) for path in paths])
    for positive in (0, 1):
        p_fake = model(tf.cast(images, tf.float32) / 255.0)[:, positive].numpy()
        threshold = float(np.median(p_fake))
        serving = saved_model.ServingModel(model, CLASSES, positive, threshold, InputRule(SIZE))
        answers = serving.serve_images(images)
        flagged = [label == CLASSES[positive].encode() for label in answers["label"].numpy()]
        assert flagged == (answers["p_fake"].numpy() >= np.float32(threshold)).tolist()
        assert 0 < sum(flagged) < len(flagged)


# The check before an export is announced.


@pytest.fixture(scope="module")
def samples(job, exports, paths, tmp_path_factory):
    """Return a function that writes a checkpoint's samples in the form that the check of an export reads."""
    folder = tmp_path_factory.mktemp("samples")

    def write(kind: str) -> str:
        path = folder / f"{kind}.npz"
        contents = [Path(name).read_bytes() for name in paths]
        encoded = saved_model._rows(contents)
        images = decode_batch.load_batch(contents, InputRule(SIZE)).images
        probabilities = live_probabilities(job, int(exports[kind].name), paths)
        np.savez(path, encoded=encoded, images=images, probabilities=probabilities, of_images=probabilities)
        return str(path)

    return write


def test_the_check_passes_the_right_model_and_fails_another_one(exports, samples, capsys):
    assert verify_saved_model.main(str(exports["best"]), samples("best")) == 0
    assert float(capsys.readouterr().out) < 1e-5
    assert verify_saved_model.main(str(exports["best"]), samples("last")) == 1
    assert "serving_default differs from the live model" in capsys.readouterr().out


@pytest.mark.slow
def test_the_check_runs_without_this_package_and_says_1(exports, samples, tmp_path):
    done = subprocess.run(
        [sys.executable, "-P", verify_saved_model.__file__, str(exports["best"]), samples("last")],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_the_check_finds_packages_that_come_by_pythonpath_alone(exports, samples, monkeypatch):
    """As modules of a cluster provide them: an interpreter without any package of its own."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(packages))
    monkeypatch.setattr(saved_model.sys, "executable", sys._base_executable)
    check = object.__new__(saved_model._Check)
    check._samples = samples("best")
    check(str(exports["best"]))
    assert check.difference < 1e-5


def test_the_check_cannot_import_this_package():
    """Wherever it is installed, and although PYTHONPATH may name the checkout: no TensorFlow is needed to show that."""
    code = f"""if True:
        import runpy, sys, types
        for name in ("numpy", "tensorflow"):
            sys.modules[name] = types.ModuleType(name)
        sys.modules["numpy"].ndarray = None
        try:
            runpy.run_path({verify_saved_model.__file__!r}, run_name="__main__")
        except TypeError:
            pass  # Without arguments.
        import trainer"""
    environment = {**os.environ, "PYTHONPATH": str(Path(verify_saved_model.__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "import of trainer halted" in done.stderr, done.stderr


@pytest.mark.slow
def test_an_export_is_checked_where_it_lies_and_a_failed_one_leaves_nothing(job, exports, paths, tmp_path):
    """Only its last name differs: the folder in which it lies decides whether TensorFlow can load it."""
    metadata = json.loads((exports["best"] / "assets.extra" / "deepdetect.json").read_text())
    arrays = CheckpointStore(str(job / "checkpoints"), 3).read(int(exports["best"].name)).arrays
    target = tmp_path / "run[1]" / "120"
    with pytest.raises(JobFailed, match="failed its check"):
        saved_model.write(str(target), arrays, metadata, [Path(paths[0]).read_bytes()], config=ModelConfig(),
                          image_size=SIZE)  # fmt: skip
    assert list(target.parent.iterdir()) == []


@pytest.mark.slow
def test_a_model_that_fails_its_check_is_not_published(job, exports, paths, tmp_path):
    """The weights change between the checkpoint and the file."""
    real = tf.saved_model.save

    def tampered(serving, *arguments, **options):
        bias = serving.model.get_layer("logits").bias
        before = bias.numpy()
        bias.assign(before + np.float32([0.1, -0.1]))
        real(serving, *arguments, **options)
        bias.assign(before)

    metadata = json.loads((exports["best"] / "assets.extra" / "deepdetect.json").read_text())
    arrays = CheckpointStore(str(job / "checkpoints"), 3).read(int(exports["best"].name)).arrays
    target = tmp_path / "export" / "best" / exports["best"].name
    contents = [Path(path).read_bytes() for path in paths]
    with mock.patch.object(tf.saved_model, "save", tampered), pytest.raises(JobFailed, match="differs from the live"):
        saved_model.write(str(target), arrays, metadata, contents, config=ModelConfig(), image_size=SIZE)
    assert list(target.parent.iterdir()) == []


@pytest.mark.slow
def test_a_mirrored_float16_job_exports_in_float32(data, paths, tmp_path):
    settings = {"precision": "mixed_float16", "num_devices": 2, "augment": "none", "epochs": 1}
    assert run_job(data, tmp_path / "job", export="last", **settings) == 0
    (version,) = (tmp_path / "job" / "export" / "last").iterdir()
    assert not (tmp_path / "job" / "export" / "best").exists()
    model = tf.saved_model.load(str(version))
    encoded = tf.constant([Path(path).read_bytes() for path in paths])
    answers = model.signatures["serving_default"](image_bytes=encoded)
    assert answers["probabilities"].dtype == tf.float32
    expected = live_probabilities(tmp_path / "job", int(version.name), paths)
    np.testing.assert_allclose(answers["probabilities"].numpy(), expected, atol=1e-5)
    assert {node.op for node in graph_nodes(version)}.isdisjoint({"CollectiveReduceV2", "NcclAllReduce"})


def graph_nodes(version: Path):
    """Yield every node of a SavedModel, those of its functions too."""
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel.FromString((version / "saved_model.pb").read_bytes())
    for graph in saved.meta_graphs:
        yield from graph.graph_def.node
        for function in graph.graph_def.library.function:
            yield from function.node_def


@pytest.mark.slow
def test_a_finished_job_can_export_later(data, tmp_path):
    settings = {"augment": "none", "epochs": 1}
    assert run_job(data, tmp_path / "job", export="none", **settings) == 0
    before = result_of(tmp_path / "job")
    assert before["exports"] == {}
    assert run_job(data, tmp_path / "job", export="best", **settings) == 0
    after = result_of(tmp_path / "job")
    model = Path(after["exports"]["best"], "saved_model.pb")
    written = model.stat().st_mtime_ns
    assert run_job(data, tmp_path / "job", export="best", **settings) == 0
    assert model.stat().st_mtime_ns == written  # Already done.
    assert run_job(data, tmp_path / "job", export="best", threshold_by="none", calibrate=True, **settings) == 0
    third = result_of(tmp_path / "job")
    assert model.stat().st_mtime_ns > written  # Another decision is another export of the same weights.
    assert third["thresholds"] == {"best": 0.5}
    for name in ("step", "weights_sha256", "validation"):
        assert after[name] == third[name] == before[name], name
    metadata = json.loads((model.parent / "assets.extra" / "deepdetect.json").read_text())
    assert metadata["calibration"]["images"] == 20
    card = (model.parent / "assets.extra" / "model_card.md").read_text()
    assert "The threshold was not chosen on Validation" in card
    assert f"Temperature: {metadata['temperature']:.4g}" in card
