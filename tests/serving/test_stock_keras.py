"""Networks rebuilt from Keras's own layers: the same answers, without this package, and they learn on."""

import io
import subprocess
import sys
import zipfile

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.core.config import ModelConfig
from trainer.core.errors import JobFailed, RequestError
from trainer.models import front_ends, keras_settings, preprocess, registry
from trainer.serving import stock_keras, verify_keras

SIZE = 64
LIGHT = np.array([16, 256, 64, 128])[:, None, None, None]  # Of each image, so that they look different.
IMAGES = np.random.default_rng(0).integers(0, LIGHT, [4, SIZE, SIZE, 3]).astype(np.uint8)
IN_TESTS = "tests.helpers.networks"
FAMILIES = ["cnn", "cnn_bn", "forensic/rgb", "forensic/srm", "forensic/dct", f"{IN_TESTS}:small_lite",
            f"{IN_TESTS}:small_convnext"]  # fmt: skip
WHOLE = ["efficientnet_lite0", "mobilenetv3large", "convnext_tiny", "xception", "resnet50v2", "efficientnetv2b0"]


def built(name):
    """Return a network all of whose variables are away from their initial values, and its answers."""
    network, _, front_end = name.partition("/")
    size = 72 if network == "xception" else SIZE
    config = ModelConfig(model=network, dropout=0.2, **({"front_end": front_end} if front_end else {}))
    with keras_settings.pinned():
        model = registry.build(config, num_classes=2, image_size=size, seed=1)
    numbers = np.random.default_rng(1)
    for variable in model.variables:
        noise = numbers.uniform(0, 0.1, variable.shape) * max(np.abs(variable.numpy()).mean(), 0.1)
        variable.assign(variable.numpy() + noise.astype(np.float32))
    images = IMAGES if size == SIZE else np.pad(IMAGES, [(0, 0), (0, 8), (0, 8), (0, 0)])
    head = model.get_layer("logits")
    largest = np.abs(registry.logits_of(model)(preprocess.to_unit_range(images))).max()
    head.set_weights([weight / largest for weight in head.get_weights()])  # Probabilities away from 0 and 1.
    return model, images, preprocess.probabilities(model, tf.constant(images)).numpy()


def rebuilt(model, temperature=1.0):
    with keras_settings.pinned():
        return stock_keras.rebuild(model, temperature)


def save(folder, name, model, images, expected):
    """Write a file and its samples; return their paths."""
    content = stock_keras.to_bytes(rebuilt(model))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert b"trainer" not in archive.read("config.json")
    file, samples = folder / f"{name}.keras", folder / f"{name}.npz"
    file.write_bytes(content)
    np.savez(samples, images=images, probabilities=expected)
    return [str(file), str(samples)]


def verify(paths):
    return subprocess.run([sys.executable, "-P", verify_keras.__file__, *paths], capture_output=True, text=True)


@pytest.mark.slow
def test_every_family_answers_the_same_without_this_package(tmp_path):
    paths = []
    for number, family in enumerate(FAMILIES):
        model, images, expected = built(family)
        assert np.ptp(expected[:, 0]) > 1e-6  # The images differ, so wrong pixels would show.
        paths += save(tmp_path, str(number), model, images, expected)
    done = verify(paths)
    assert done.returncode == 0, done.stdout + done.stderr
    assert float(done.stdout.split()[-1]) < 1e-5


@pytest.mark.thorough
@pytest.mark.parametrize("name", WHOLE)
def test_whole_networks_answer_the_same(name, tmp_path):
    done = verify(save(tmp_path, name, *built(name)))
    assert done.returncode == 0, done.stdout + done.stderr


def test_other_answers_fail_the_check(tmp_path, capsys):
    model, images, expected = built("cnn")
    assert verify_keras.main(save(tmp_path, "same", model, images, expected)) == 0
    assert verify_keras.main(save(tmp_path, "other", model, images, expected[::-1])) == 1
    assert "other.keras differs from the live model by" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.thorough
def test_a_file_that_needs_this_package_fails_the_check():
    model, images, expected = built("cnn")
    with pytest.raises(JobFailed, match=r"the \.keras file failed its check"):
        stock_keras.verify(stock_keras.to_bytes(model), images, expected)


@pytest.mark.slow
@pytest.mark.parametrize(
    "family", ["cnn", "forensic/srm", pytest.param(f"{IN_TESTS}:small_convnext", marks=pytest.mark.thorough)]
)
def test_it_learns_on(family, tmp_path):
    model, images, _ = built(family)
    (tmp_path / "model.keras").write_bytes(stock_keras.to_bytes(rebuilt(model)))
    loaded = keras.models.load_model(tmp_path / "model.keras")
    before = [variable.numpy() for variable in loaded.trainable_variables]
    loaded.compile("adam", "sparse_categorical_crossentropy", run_eagerly=True)
    history = loaded.fit(images.astype(np.float32), np.array([0, 1, 0, 1]), batch_size=2, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    moved = [(new.numpy() != old).any() for new, old in zip(loaded.trainable_variables, before, strict=True)]
    assert np.mean(moved) > 0.9  # The rest is behind units that gave nothing.
    for filters in [variable for variable in loaded.variables if variable.path.endswith("filters/kernel")]:
        np.testing.assert_array_equal(filters, front_ends.residual_filters())


def test_the_temperature_is_the_exports():
    model, images, expected = built("cnn")
    softer = rebuilt(model, temperature=2.0).predict_on_batch(images)
    roots = np.sqrt(expected)
    np.testing.assert_allclose(softer, roots / roots.sum(1, keepdims=True), atol=1e-6)


def test_a_network_with_layers_of_its_own_is_refused_by_name():
    model, _, _ = built(f"{IN_TESTS}:through_text")
    with pytest.raises(RequestError, match=r"received --model=.*through_text with _ThroughText; take other formats"):
        rebuilt(model)
