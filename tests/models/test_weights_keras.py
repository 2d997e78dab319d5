"""Files of Keras are read by name: today's two formats and the one of ``keras.applications``."""

import io
import zipfile

import h5py
import keras
import numpy as np
import pytest

from tests.helpers.jobs import float32_policy  # noqa: F401  (a fixture)
from trainer.core.errors import RequestError
from trainer.models.weights import keras_file, source

LEAVES = {
    "stem_conv": {"kernel"}, "stem_bn": {"gamma", "beta", "moving_mean", "moving_variance"},
    "no_scale": {"beta", "moving_mean", "moving_variance"}, "depthwise": {"kernel", "bias"},
    "separable": {"depthwise_kernel", "pointwise_kernel"}, "inner_conv": {"kernel", "bias"},
    "inner_norm": {"gamma", "beta"}, "logits": {"kernel", "bias"},
}  # fmt: skip


@pytest.fixture(scope="module")
def model():
    """Return a network with a layer of each kind, one of them in a nested model, and no two equal numbers."""
    layers = keras.layers
    inputs = keras.Input([16, 16, 3])
    x = layers.Conv2D(4, 3, use_bias=False, name="stem_conv")(inputs)
    x = layers.BatchNormalization(name="stem_bn")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.SeparableConv2D(4, 3, use_bias=False, name="separable")(x)
    x = layers.BatchNormalization(scale=False, name="no_scale")(x)
    inner = [layers.Conv2D(4, 3, name="inner_conv"), layers.LayerNormalization(name="inner_norm")]
    x = keras.Sequential(inner, name="inner")(x)
    x = layers.Dense(2, name="logits")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    random = np.random.default_rng(0)
    for variable in model.variables:
        variable.assign(random.standard_normal(variable.shape))
    return model


@pytest.fixture(scope="module")
def saved(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    for name in ("model.keras", "model.h5"):
        model.save(folder / name)
    model.save_weights(folder / "model.weights.h5")
    return folder


def expected(model):
    return {"/".join(variable.path.split("/")[-2:]): np.array(variable) for variable in model.variables}


@pytest.mark.parametrize("name", ["model.keras", "model.h5", "model.weights.h5"])
def test_every_variable_is_found_by_layer_and_name(model, saved, name):
    read = source.read_file(str(saved / name))
    assert (read.kind, len(read.sha256)) == ("keras file", 64)
    arrays = expected(model)
    assert {key.split("/")[0] for key in arrays} == LEAVES.keys()
    if name == "model.weights.h5":  # Which variable the one without scale lacks, only a config could tell.
        for leaf in LEAVES["no_scale"]:
            del arrays[f"no_scale/{leaf}"]
        assert {key for key in read.arrays if key not in arrays} == {f"no_scale/{number}" for number in range(3)}
    else:
        assert read.arrays.keys() == arrays.keys()
    for key, array in arrays.items():
        np.testing.assert_array_equal(read.arrays[key], array, err_msg=key)


def hdf5(write):
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        write(file)
    return stream.getvalue()


def legacy(layers):
    """Return a file of Keras 2: weights by layer, as ``{layer: {weight name: array}}``."""

    def write(file):
        file.attrs["layer_names"] = [layer.encode() for layer in layers]
        for layer, weights in layers.items():
            group = file.create_group(layer)
            group.attrs["weight_names"] = [name.encode() for name in weights]
            for name, array in weights.items():
                group[name] = array

    return hdf5(write)


def test_names_of_keras_applications_are_taken_from_the_layer_and_inside_nested_models_from_the_weight():
    one = np.ones(2, "float32")
    content = legacy({
        "Conv/BatchNorm": {"Conv/BatchNorm/gamma:0": one},
        "block1_conv1": {"block1_conv1_3/kernel:0": one, "block1_conv1_3/bias:0": one},
        "stem": {"stem_conv/kernel:0": one, "stem_conv/bias:0": one, "stem_norm/gamma:0": one},
        "without": {},
    })  # fmt: skip
    assert set(keras_file.read(content)) == {
        "Conv_BatchNorm/gamma", "block1_conv1/kernel", "block1_conv1/bias", "stem_conv/kernel", "stem_conv/bias",
        "stem_norm/gamma",
    }  # fmt: skip


def refused(content):
    with pytest.raises(RequestError) as caught:
        keras_file.read(content)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_link_to_another_file_is_refused(tmp_path):
    other = tmp_path / "secret.h5"
    other.write_bytes(legacy({"a": {"a/kernel:0": np.ones(2)}}))

    def link(file):
        file["layers"] = h5py.ExternalLink(str(other), "a")

    def outside(file):
        file.create_dataset("layers/dense/vars/0", (8,), "u1", external=[(str(other), 0, 8)])

    assert "received a link named 'layers'" in refused(hdf5(link))
    assert "to be stored plainly" in refused(hdf5(outside))


def test_an_array_larger_than_the_file_is_refused():
    def huge(file):  # A gigabyte that only a reader would write out.
        file.create_dataset("layers/dense/vars/0", (2**28,), "f4", chunks=(2**20,))

    assert "to be stored plainly" in refused(hdf5(huge))


def test_damaged_and_empty_files_are_one_line(saved):
    for name in ("model.keras", "model.h5"):
        content = (saved / name).read_bytes()
        assert "damaged" in refused(content[: len(content) // 2])
    assert "without any" in refused(hdf5(lambda file: file.create_group("layers")))


def test_nothing_in_a_keras_file_is_run(saved, tmp_path):
    """Keras would make the layers of the config; here they are only looked up by name."""
    path = tmp_path / "evil.keras"
    with zipfile.ZipFile(saved / "model.keras") as good, zipfile.ZipFile(path, "w") as evil:
        config = good.read("config.json").replace(b'"class_name": "Conv2D"', b'"class_name": "Lambda"')
        evil.writestr("config.json", config.replace(b"keras.layers", b"antigravity"))
        evil.writestr("model.weights.h5", good.read("model.weights.h5"))
    assert b"antigravity" in config.replace(b"keras.layers", b"antigravity")
    assert source.read_file(str(path)).arrays.keys() == source.read_file(str(saved / "model.keras")).arrays.keys()
