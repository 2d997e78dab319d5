"""The notebook's network, and what a model is around it."""

import random
import threading

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.jobs import float32_policy, precision_policy  # noqa: F401  (the fixture acts on every test here)
from trainer.core.config import ModelConfig
from trainer.core.errors import RequestError
from trainer.models import layers, registry

# Of the notebook at 224 x 224: layer, output without the batch, parameters, activation.
NOTEBOOK = [
    ("InputLayer", (224, 224, 3), 0, None),
    ("Conv2D", (222, 222, 32), 896, "relu"),
    ("MaxPooling2D", (111, 111, 32), 0, None),
    ("Conv2D", (109, 109, 32), 9_248, "relu"),
    ("MaxPooling2D", (54, 54, 32), 0, None),
    ("Conv2D", (52, 52, 64), 18_496, "relu"),
    ("MaxPooling2D", (26, 26, 64), 0, None),
    ("Conv2D", (24, 24, 128), 73_856, "relu"),
    ("MaxPooling2D", (12, 12, 128), 0, None),
    ("Flatten", (18_432,), 0, None),
    ("Dense", (256,), 4_718_848, "relu"),
    ("SlotDropout", (256,), 0, None),
    ("Dense", (2,), 514, "linear"),
    ("Activation", (2,), 0, "softmax"),
]


def build(image_size: int = 64, seed: int = 0, num_classes: int = 2, **changes) -> keras.Model:
    return registry.build(ModelConfig(**changes), num_classes=num_classes, image_size=image_size, seed=seed)


def test_cnn_is_the_notebooks_layer_by_layer():
    model = build(image_size=224)
    found = [
        (
            type(layer).__name__,
            tuple(layer.output.shape[1:]),
            layer.count_params(),
            layer.activation.__name__ if hasattr(layer, "activation") else None,
        )
        for layer in model.layers
    ]
    assert found == NOTEBOOK
    assert model.count_params() == 4_821_858
    assert all(variable.trainable for variable in model.variables)
    assert next(layer.rate for layer in model.layers if isinstance(layer, layers.SlotDropout)) == 0.2


@pytest.mark.slow
def test_weights_depend_on_the_seed_alone_whatever_other_threads_draw():
    # Retries, uploads and temporary names draw from Python's global generator.
    expected, ending = build().get_weights(), threading.Event()
    noise = threading.Thread(target=lambda: [random.random() for _ in iter(ending.is_set, True)])
    noise.start()
    try:
        drawn = [build().get_weights() for _ in range(3)]
    finally:
        ending.set()
        noise.join()
    assert all((mine == before).all() for each in drawn for mine, before in zip(each, expected, strict=True))
    assert not (build(seed=1).get_weights()[0] == expected[0]).any()


def test_the_number_of_classes_is_the_width_of_the_output():
    pixels = np.random.default_rng(0).random([2, 64, 64, 3], np.float32)
    probabilities = build(num_classes=3)(pixels).numpy()
    assert probabilities.shape == (2, 3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-6)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_computes_in_16_bits_and_ends_in_float32(policy):
    with precision_policy(policy):
        model = build()
    pixels = np.random.default_rng(0).random([3, 64, 64, 3], np.float32)
    assert model.get_layer("conv1").compute_dtype == policy.removeprefix("mixed_")
    assert {variable.dtype for variable in model.variables} == {"float32"}
    logits, probabilities = registry.logits_of(model)(pixels), model(pixels)
    assert logits.dtype == probabilities.dtype == tf.float32
    # Float16 probabilities would miss a sum of 1 by 1e-4 or more.
    np.testing.assert_allclose(probabilities.numpy().sum(axis=1), 1.0, rtol=1e-6)


def test_logits_are_those_of_the_model_and_follow_its_weights():
    model = build()
    pixels = np.random.default_rng(0).random([3, 64, 64, 3], np.float32)
    logits = registry.logits_of(model)
    for _ in range(2):
        np.testing.assert_allclose(tf.nn.softmax(logits(pixels)).numpy(), model(pixels).numpy(), rtol=1e-6)
        model.get_layer("logits").bias.assign([1.0, -1.0])


def test_initial_weights_depend_on_the_seed_alone():
    first = build(seed=7).get_weights()
    tf.random.normal([3])  # Whatever else the process has drawn.
    np.random.rand(3)
    again, other = build(seed=7).get_weights(), build(seed=8).get_weights()
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    kernels = [(one, two) for one, two in zip(first, other, strict=True) if one.ndim > 1]
    assert all((one != two).any() for one, two in kernels)


def test_the_smallest_image_builds_and_a_smaller_one_is_refused():
    assert build(image_size=46).output_shape == (None, 2)
    with pytest.raises(RequestError, match=r"--image_size: .* at least 46 for --model=cnn; received 45"):
        build(image_size=45)
