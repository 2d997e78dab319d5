"""Heat maps are Grad-CAM, mark what decided the answer, and come from the export alone."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.jobs import float32_policy  # noqa: F401  (a fixture)
from trainer.core.config import NETWORKS, ModelConfig
from trainer.data.input_rule import InputRule
from trainer.models import registry
from trainer.serving import grad_cam, heatmap, saved_model

SIZE, NAMES = 64, ["Fake", "Real"]


def save(model: keras.Model, folder: Path, threshold: float = 0.5) -> saved_model.ServingModel:
    serving = saved_model.ServingModel(model, NAMES, 0, threshold, InputRule(SIZE))
    tf.saved_model.save(serving, str(folder), signatures=serving.signatures)
    return serving


def answers_of(folder: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    encoded = tf.stack([tf.io.encode_png(image) for image in images])
    outputs = tf.saved_model.load(str(folder)).signatures["explain"](image_bytes=encoded)
    return {name: value.numpy() for name, value in outputs.items()}


def planted(corner: int, colour: int) -> np.ndarray:
    """Return grey noise with a patch of one colour in one of the four corners."""
    image = np.random.default_rng(corner).integers(90, 110, [SIZE, SIZE, 1], np.uint8).repeat(3, axis=2)
    top, left = 48 * (corner // 2), 48 * (corner % 2)
    image[top : top + 16, left : left + 16] = 0
    image[top : top + 16, left : left + 16, colour] = 250
    return image


def colour_detector() -> keras.Model:
    """Return a model with fixed weights: red counts for the first class, blue for the second."""
    inputs = keras.Input([SIZE, SIZE, 3])
    nested_inputs = keras.Input([SIZE, SIZE, 3])
    convolution = keras.layers.Conv2D(2, 4, strides=4, activation="relu", name="colours")
    nested = keras.Model(nested_inputs, keras.layers.MaxPooling2D(2)(convolution(nested_inputs)))
    features = keras.layers.GlobalAveragePooling2D()(nested(inputs))
    logits = keras.layers.Dense(2, name="logits")(features)
    model = keras.Model(inputs, keras.layers.Activation("softmax")(logits))
    kernel = np.zeros([4, 4, 3, 2], np.float32)
    kernel[:, :, :, 0], kernel[:, :, :, 1] = (1, -1, 0), (0, -1, 1)  # Grey gives 0.
    convolution.set_weights([kernel / 16, np.zeros(2, np.float32)])
    model.get_layer("logits").set_weights([8 * np.eye(2, dtype=np.float32), np.zeros(2, np.float32)])
    return model


@pytest.mark.slow
def test_a_heat_map_marks_what_decided_the_answer(tmp_path):
    model = colour_detector()
    assert grad_cam.feature_layer(model).name == "colours"  # Inside of a nested model, before its pooling.
    save(model, tmp_path / "1")
    cases = [(0, 0, b"Fake"), (1, 0, b"Fake"), (2, 2, b"Real"), (3, 2, b"Real")]
    answers = answers_of(tmp_path / "1", np.stack([planted(corner, colour) for corner, colour, _ in cases]))
    assert answers["heatmap"].dtype == np.float32
    assert answers["heatmap"].shape == (4, SIZE, SIZE)
    for (corner, _, label), heat, answer in zip(cases, answers["heatmap"], answers["label"], strict=True):
        assert answer == label
        quarters = [heat[:32, :32], heat[:32, 32:], heat[32:, :32], heat[32:, 32:]]
        assert heat.max() == pytest.approx(1.0)
        assert quarters[corner].sum() / heat.sum() > 0.99


@pytest.mark.slow
def test_a_heat_map_without_evidence_is_zero_not_nan(tmp_path):
    save(colour_detector(), tmp_path / "1", threshold=0.0)  # All are called Fake, blue or not.
    answers = answers_of(tmp_path / "1", planted(2, 2)[np.newaxis])
    assert answers["label"] == [b"Fake"]
    assert not answers["heatmap"].any()


def numpy_grad_cam(model: keras.Model, image: np.ndarray, of: int) -> np.ndarray:
    """Return Grad-CAM of the notebook's network by its definition: NumPy, float64, finite differences."""
    before = keras.Model(model.input, model.get_layer("conv4").output)
    features = before(image[np.newaxis].astype(np.float32) / 255.0).numpy()[0].astype(np.float64)
    hidden, logits = (
        [w.astype(np.float64) for w in model.get_layer(name).get_weights()] for name in ("hidden", "logits")
    )
    height, width, channels = features.shape

    def log_odds(feature_map: np.ndarray) -> float:
        blocks = feature_map[: height // 2 * 2, : width // 2 * 2].reshape(height // 2, 2, width // 2, 2, channels)
        units = np.maximum(blocks.max(axis=(1, 3)).reshape(-1) @ hidden[0] + hidden[1], 0)
        both = units @ logits[0] + logits[1]
        return float(both[of] - both[1 - of])

    heat, step = np.zeros([height, width]), 1e-6
    for channel in range(channels):
        change = np.zeros_like(features)
        change[:, :, channel] = step
        slope = (log_odds(features + change) - log_odds(features - change)) / (2 * step)
        heat += slope / (height * width) * features[:, :, channel]
    heat = tf.image.resize(np.maximum(heat, 0)[..., np.newaxis].astype(np.float32), [SIZE, SIZE]).numpy()[..., 0]
    return heat / heat.max()


@pytest.mark.slow
def test_an_export_alone_gives_the_maps_of_the_definition(tmp_path):
    model = registry.build(ModelConfig(), num_classes=2, image_size=SIZE, seed=3)
    serving = save(model, tmp_path / "1")
    assert serving.explains == {"method": "Grad-CAM", "layer": "conv4", "of": "label"}
    images = np.random.default_rng(0).integers(0, 256, [3, SIZE, SIZE, 3], np.uint8)
    images[1, :, :32], images[2, 20:40] = 0, 255
    answers = answers_of(tmp_path / "1", images)
    plain = serving.serve_images(images)
    for name in ("probabilities", "label", "p_fake"):
        np.testing.assert_array_equal(answers[name], plain[name].numpy())
    for image, label, heat in zip(images, answers["label"], answers["heatmap"], strict=True):
        expected = numpy_grad_cam(model, image, NAMES.index(label.decode()))
        np.testing.assert_allclose(heat, expected, atol=1e-3)
    assert np.ptp(answers["heatmap"], axis=(1, 2)).min() > 0.05, "a flat map would prove nothing"


LARGE = ("efficientnet", "convnext", "xception", "resnet", "mobilenet")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=getattr(pytest.mark, "slow" if name == "efficientnet_lite0" else "thorough"))
        if name.startswith(LARGE)
        else name
        for name in NETWORKS
    ],
)
def test_three_classes_and_every_network_have_maps(name):
    size = max(SIZE, NETWORKS.entries()[name].facts["MINIMUM_IMAGE_SIZE"])
    model = registry.build(ModelConfig(model=name), num_classes=3, image_size=size, seed=0)
    pixels = tf.random.stateless_uniform([3, size, size, 3], [1, 2])
    maps = grad_cam.grad_cam(model, grad_cam.feature_layer(model), pixels, tf.constant([0, 1, 2]), size).numpy()
    assert maps.shape == (3, size, size)
    assert maps.min() >= 0
    assert maps.max() <= 1
    assert maps.max(axis=(1, 2)).any()


def test_a_network_without_a_feature_map_has_no_signature():
    inputs = keras.Input([SIZE, SIZE, 3])
    logits = keras.layers.Dense(2, name="logits")(keras.layers.Flatten()(inputs))
    serving = saved_model.ServingModel(
        keras.Model(inputs, keras.layers.Softmax()(logits)), NAMES, 0, 0.5, InputRule(SIZE)
    )
    assert set(serving.signatures) == {"serving_default", "serve_images"}
    assert json.loads(json.dumps(serving.explains)) == {
        "method": None, "because": "the model has no convolutional feature map",
    }  # fmt: skip


def test_an_overlay_is_lighter_where_the_map_is_high_and_the_image_elsewhere():
    image = np.full([40, 80, 3], 60, np.uint8)
    heat = np.zeros([SIZE, SIZE], np.float32)
    heat[:, : SIZE // 2] = 1.0
    picture = heatmap.overlay(image, heat)
    assert picture.shape == image.shape
    assert picture[:, 45:].tolist() == image[:, 45:].tolist()
    assert (picture[:, :35].mean(axis=2) > 100).all()
    assert (picture[:, 36:44] == 255).all(axis=2).any(axis=1).all()  # The line, in every row.
    np.testing.assert_array_equal(tf.io.decode_png(heatmap.to_png(picture)).numpy(), picture)
    assert heatmap.overlay(np.zeros([2100, 1000, 3], np.uint8), heat).shape == (1024, 488, 3)


def test_names_of_heat_maps_are_safe_and_each_its_own():
    paths = ["a/x.png", "b/x.png", "a/x.jpg", "gs://b/x.png", "weird name;$(rm).png", "ünïcode.jpg", "..", "\udcff.png",
             "x" * 300 + ".png", "-rf.png"]  # fmt: skip
    names = [heatmap.file_name(path) for path in paths]
    assert len(set(names)) == len(paths)
    for name in names:
        assert name.endswith(".png")
        assert len(name) < 100
        assert all(sign.isascii() and (sign.isalnum() or sign in "-.") for sign in name)
        assert name[0].isalnum()
