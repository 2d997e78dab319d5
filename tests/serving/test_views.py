"""Jobs on crops: weights alike on any devices and after a stop, and views averaged wherever an image is scored."""

import contextlib
import csv
import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tests.helpers.images import write_image_set
from tests.helpers.jobs import finished_job, float32_policy, result_of, run_job, sigterm_after, values_of  # noqa: F401
from trainer import evaluate, export, predict
from trainer.core import cli
from trainer.core.config import DataConfig, ModelConfig, RuntimeConfig
from trainer.data import augment, decode_batch, input_rule, manifest
from trainer.data.bad_images import BadImages
from trainer.data.image_source import ImageSource
from trainer.data.input_rule import InputRule
from trainer.distributed import strategy
from trainer.distributed.process_group import SingleProcess
from trainer.models import registry
from trainer.serving import exported_model, saved_model
from trainer.training.checkpoints.checkpoint import CheckpointStore
from trainer.training.distributed_input import DistributedInput

pytestmark = pytest.mark.slow  # Jobs, and an export that is verified in a process of its own.
SIZE = 64
JOB = {"input": "crop", "test_views": 5, "augment": "none", "learning_rate": 0.01}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return images larger than the crops, and one that is smaller."""
    root = tmp_path_factory.mktemp("data")
    write_image_set(root, train=25, validation=8, test=4, size=88)
    Image.fromarray(np.full([20, 100, 3], 90, np.uint8)).save(root / "Validation/Fake/00003.png")
    (root / "Validation/Fake/00003.jpg").unlink()
    return root


@pytest.fixture(scope="module")
def job(data, tmp_path_factory):
    return finished_job(data, tmp_path_factory.mktemp("jobs") / "job", **JOB, export="best")


@pytest.fixture(scope="module")
def version(job):
    return next((job / "export/best").iterdir())


@pytest.fixture(scope="module")
def live(job, version):
    """Return a function from images ``[N, S, S, 3]`` to the network's own probabilities."""
    arrays = CheckpointStore(str(job / "checkpoints"), 3).read(int(version.name)).arrays
    model = saved_model.live_model(arrays, ModelConfig(), num_classes=2, image_size=SIZE)
    return lambda images: model(tf.cast(images, tf.float32) / 255.0, training=False).numpy()


def averaged(live, contents, views=5):
    """Return the mean probabilities of each image's views."""
    rule = InputRule(SIZE, "crop", views)
    images = [rule.views_of(decode_batch.decode_image(one)).reshape(views, SIZE, SIZE, 3) for one in contents]
    return np.stack([live(each).mean(axis=0) for each in images])


def contents_of(data, split):
    listed = manifest.read_split(str(data), split)
    return [Path(listed.path(number)).read_bytes() for number in range(len(listed))], listed


def test_a_stop_and_other_devices_give_the_same_weights(job, data, tmp_path):
    with sigterm_after(3):
        assert run_job(data, tmp_path / "job", **JOB) == 75
    assert run_job(data, tmp_path / "job", **JOB, num_devices=2, resume="required") == 0
    assert result_of(tmp_path / "job")["weights_sha256"] == result_of(job)["weights_sha256"]
    assert values_of(tmp_path / "job") == values_of(job)


def test_a_job_trains_on_random_windows_and_validates_on_the_views(data):
    config = DataConfig(image_size=SIZE, batch_size=8, input="crop", test_views=10, augment="none")
    train, validation = (manifest.read_split(str(data), name) for name in ("Train", "Validation"))
    runtime = strategy.setup(RuntimeConfig(precision="float32"), config)
    inputs = DistributedInput(
        runtime,
        config,
        3,
        BadImages("", 0.0, write=False),
        SingleProcess(),
        train=train,
        validation=validation,
        augmentation=augment.Settings(),
    )
    with contextlib.closing(inputs.training(9, 10)) as batches:  # Of pass 1.
        batch = next(batches)
    index = batch["index"].numpy()
    draws = input_rule.draw(3, 1, index)
    windows = ImageSource(train, config, training=True).load(index, draws).images
    assert np.array_equal(batch["image"].numpy(), windows)
    with contextlib.closing(inputs.validation()) as batches:
        seen = next(batches)["image"].numpy()
    assert np.array_equal(seen, ImageSource(validation, config).load(np.arange(8)).images)
    assert seen.shape == (8, 10, SIZE, SIZE, 3)


def test_in_half_precision_too(data, tmp_path):
    changes = {**JOB, "test_views": 10, "precision": "mixed_float16", "epochs": 1, "num_devices": 2}
    assert run_job(data, tmp_path / "half", **changes) == 0
    assert 0 < result_of(tmp_path / "half")["validation"]["loss"] < 2


def test_validation_and_threshold_are_of_the_mean_over_the_views(job, data, version, live):
    contents, split = contents_of(data, "Validation")
    expected = averaged(live, contents)
    truth = expected[np.arange(len(split)), split.labels]
    assert result_of(job)["validation"]["loss"] == pytest.approx(-np.log(truth).mean(), abs=1e-5)
    centre = averaged(live, contents, 1)[np.arange(len(split)), split.labels]
    assert abs(np.log(centre).mean() - np.log(truth).mean()) > 1e-4, "the data was made for this"
    choice = json.loads((version / "assets.extra/deepdetect.json").read_text())["threshold_choice"]
    hits = (expected[:, 0] >= result_of(job)["thresholds"]["best"]) == (split.labels == 0)
    assert choice["accuracy"] == pytest.approx(hits.mean())


def test_the_export_answers_as_the_live_model_does(data, version, live):
    contents, _ = contents_of(data, "Validation")
    loaded = tf.saved_model.load(str(version)).signatures
    expected = averaged(live, contents)
    assert loaded["serving_default"].structured_outputs["probabilities"].shape.as_list() == [None, 2]
    of_files = loaded["serving_default"](image_bytes=tf.constant(contents))["probabilities"].numpy()
    np.testing.assert_allclose(of_files, expected, atol=1e-5)
    for content, row in zip(contents[:4], expected, strict=False):
        pixels = decode_batch.decode_image(content)[np.newaxis]
        answer = loaded["serve_images"](images=tf.constant(pixels))["probabilities"].numpy()
        np.testing.assert_allclose(answer, row[np.newaxis], atol=1e-5)
    explained = loaded["explain"](image_bytes=tf.constant(contents[:2]))
    np.testing.assert_allclose(explained["probabilities"].numpy(), expected[:2], atol=1e-5)
    assert explained["heatmap"].shape == (2, SIZE, SIZE)


def test_the_metadata_and_the_card_name_the_input(version):
    found = exported_model.find_export(str(version))
    assert found.details["input"] == {"mode": "crop", "views": 5, "interpolation": "nearest"}
    assert found.input_rule == InputRule(SIZE, "crop", 5, "nearest")
    card = (version / "assets.extra/model_card.md").read_text()
    assert "- Input: 64 px crops at native resolution, 5 views.\n" in card


def test_evaluate_and_predict_average_too(data, version, live, tmp_path):
    contents, split = contents_of(data, "Test")
    expected = averaged(live, contents)[:, 0]
    words = [f"--model_dir={version}", f"--data_dir={data}", "--split=Test", f"--out={tmp_path}/out", "--bootstrap=20"]
    assert cli.run_command(evaluate.main, [*words, "--robustness", "--robustness_images=6"]) == 0
    with open(tmp_path / "out/predictions.csv", newline="") as file:
        np.testing.assert_allclose([float(row["p_fake"]) for row in csv.DictReader(file)], expected, atol=1e-5)
    found = json.loads((tmp_path / "out/metrics.json").read_text())["robustness"]
    assert found["images"] == 6
    hits = (expected >= exported_model.find_export(str(version)).threshold) == (split.labels == 0)
    assert found["unchanged"]["accuracy"] == pytest.approx(hits[[0, 1, 3, 4, 5, 7]].mean(), abs=0.2)
    folder = f"{data}/Test/Fake"
    words = [folder, f"--model_dir={version}", f"--out={tmp_path}/scores.jsonl", f"--explain={tmp_path}/maps"]
    assert cli.run_command(predict.main, words) == 0
    rows = [json.loads(line) for line in (tmp_path / "scores.jsonl").read_text().splitlines()]
    np.testing.assert_allclose([row["p_fake"] for row in rows], expected[:4], atol=1e-5)
    for row, content in zip(rows, contents, strict=False):
        picture, image = np.asarray(Image.open(row["heatmap"])), decode_batch.decode_image(content)
        assert picture.shape == image.shape
        assert np.array_equal(picture[:12], image[:12])  # Outside the centre nothing is drawn.


def test_other_forms_take_one_view(job, tmp_path):
    assert cli.run_command(export.main, [f"--job_dir={job}", f"--out={tmp_path}", "--formats=tflite"]) == 0
    forms = json.loads((tmp_path / "comparison.json").read_text())["forms"]
    assert forms["tflite"]["largest_difference"] < 1e-4


def test_an_export_with_padding_pads_files_and_pixels(data):
    model = registry.build(ModelConfig(), num_classes=2, image_size=SIZE, seed=0)
    serving = saved_model.ServingModel(model, ("Fake", "Real"), 0, 0.5, InputRule(SIZE, "pad"))
    contents, _ = contents_of(data, "Validation")
    images = decode_batch.load_batch(contents, InputRule(SIZE, "pad")).images
    expected = model(images.astype(np.float32) / 255.0, training=False).numpy()
    answers = serving.serve_bytes(tf.constant(contents))["probabilities"].numpy()
    np.testing.assert_allclose(answers, expected, atol=1e-6)
    pixels = decode_batch.decode_image(contents[3])[np.newaxis]
    np.testing.assert_allclose(serving.serve_images(pixels)["probabilities"].numpy(), expected[3:4], atol=1e-6)
