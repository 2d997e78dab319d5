"""Networks of published architectures: as many parameters and the same outputs as the originals."""

import re

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.jobs import float32_policy, result_of, run_job  # noqa: F401  (the fixture acts on every test here)
from trainer.core.config import ModelConfig
from trainer.models import layers, registry


def build(name: str, image_size: int = 64, seed: int = 0) -> keras.Model:
    return registry.build(ModelConfig(model=name), num_classes=2, image_size=image_size, seed=seed)


def parameters(variables) -> int:
    return sum(variable.shape.num_elements() for variable in variables)


# Published as 4.65, 5.42 and 6.09 million, with a classifier of 1,281,000.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "published"),
    [
        (0, 4_652_008),
        pytest.param(1, 5_416_680, marks=pytest.mark.thorough),
        pytest.param(2, 6_092_072, marks=pytest.mark.thorough),
    ],
)
def test_efficientnet_lite_has_the_published_parameters(number, published):
    model = build(f"efficientnet_lite{number}")
    backbone = keras.Model(model.input, model.get_layer("dropout").input)
    assert parameters(backbone.trainable_variables) == published - 1_281_000
    names = [variable.path for variable in backbone.trainable_variables]
    assert names[0] == "stem_conv/kernel"
    assert "block1_expand_bn/gamma" in names
    assert {"block0_depthwise_conv/kernel", "block0_project_conv/kernel", "head_conv/kernel"} <= set(names)


# --- against keras.applications -------------------------------------------------------------------------------------

APPLICATIONS = {
    "efficientnetv2b0": ("EfficientNetV2B0", 1), "efficientnetv2b1": ("EfficientNetV2B1", 1),
    "efficientnetv2b2": ("EfficientNetV2B2", 1), "efficientnetv2b3": ("EfficientNetV2B3", 1),
    "efficientnetv2s": ("EfficientNetV2S", 1), "convnext_tiny": ("ConvNeXtTiny", 1), "xception": ("Xception", 127.5),
    "resnet50v2": ("ResNet50V2", 127.5), "mobilenetv3large": ("MobileNetV3Large", 1),
}  # fmt: skip
SIDE = 72  # Pixels: Xception takes no fewer than 71.
QUICK = ("mobilenetv3large", "efficientnetv2b0", "xception")


def theirs_as_ours(theirs: keras.Model, ours: keras.Model) -> None:
    """Give our layers the weights of Keras's by name, with averages that are not the initial ones."""
    random, unnamed = np.random.default_rng(0), {}
    inside = {layer.name: layer for layer in layers.all_layers(ours)}
    for layer in [each for each in layers.all_layers(theirs) if each.weights and not hasattr(each, "layers")]:
        kind = re.sub(r"_\d+$", "", layer.name)
        if layer.name not in inside:  # Keras numbered it; the steady names count in the same order.
            unnamed[kind] = unnamed.get(kind, -1) + 1
        its = inside.get(layer.name) or inside[f"unnamed_{kind}_{unnamed[kind]}"]
        for weight in layer.weights:
            low = 0.5 if "variance" in weight.path or "gamma" in weight.path else -0.3
            if weight.shape and len(weight.shape) == 1:
                weight.assign(random.uniform(low, low + 0.6, weight.shape))
        values = layer.get_weights()
        if isinstance(its, layers.ShardBatchNorm):
            values = [*values[:2], np.stack(values[2:])]
        its.set_weights([value.reshape(own.shape) for value, own in zip(values, its.weights, strict=True)])


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name in QUICK else pytest.mark.thorough) for name in APPLICATIONS],
)
def test_an_application_has_kerass_parameters_and_outputs(name):
    application, scale = APPLICATIONS[name]
    theirs = getattr(keras.applications, application)(
        include_top=False, weights=None, pooling="avg", input_shape=(SIDE, SIDE, 3)
    )
    ours = build(name, SIDE)
    backbone = keras.Model(ours.input, ours.get_layer("dropout").input)
    assert parameters(backbone.variables) == parameters(theirs.weights)  # Its variables hold states of dropout, too.
    assert parameters(backbone.trainable_variables) == parameters(theirs.trainable_variables)
    theirs_as_ours(theirs, backbone)
    levels = np.random.default_rng(1).integers(0, 256, [2, SIDE, SIDE, 3]).astype(np.float32)
    expected = theirs(levels / scale - (scale != 1), training=False).numpy()
    assert expected.std() > 1e-3
    np.testing.assert_allclose(backbone(levels / 255).numpy(), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_stochastic_depth_drops_all_units_of_an_example_or_none():
    layer = layers.SlotDropout(0.5, salt=1, whole=True)
    with layers.training_on(layers.Shard(tf.constant([0, 3], tf.int64), tf.constant(0), 64, tf.ones([64]))):
        out = layer(tf.ones([64, 3, 3, 5]), training=True).numpy()
    by_example = out.reshape(64, -1)
    assert (by_example == by_example[:, :1]).all()
    assert set(by_example[:, 0]) == {0.0, 2.0}


@pytest.mark.thorough
def test_a_backbone_trains_alike_on_one_and_two_devices_from_the_seed_alone(image_set, tmp_path):
    for devices in (1, 2):
        settings = {"num_devices": devices, "batch_size": 16, "steps_per_epoch": 1, "epochs": 1, "image_size": 32}
        assert run_job(image_set, tmp_path / str(devices), model=QUICK[0], augment="none", **settings) == 0
    assert result_of(tmp_path / "2")["weights_sha256"] == result_of(tmp_path / "1")["weights_sha256"]
