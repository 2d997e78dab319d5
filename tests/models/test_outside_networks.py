"""Networks outside the package: found by ``module:function``, and refused by name where they break an invariant."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.commands import answer, refusal
from tests.helpers.docs import how_to_add
from tests.helpers.jobs import argv, float32_policy, result_of, run_job, sigterm_after  # noqa: F401
from trainer import evaluate, predict, train
from trainer.core.config import NETWORKS, ModelConfig, from_flat
from trainer.core.errors import RequestError
from trainer.models import layers, networks, registry

L = keras.layers

NETS = '''
"""A laboratory's own networks."""
import keras
from trainer.models.layers import ShardBatchNorm, SlotDropout

INPUT_RANGE = (-1.0, 1.0)


def block(filters, kernel, number):
    """Return a nested model with normalisation inside."""
    inputs = keras.Input([None, None, 3 if number == 1 else 8])
    x = keras.layers.Conv2D(filters, 3, strides=4, kernel_initializer=kernel(), name=f"conv{number}")(inputs)
    return keras.Model(inputs, keras.activations.relu(ShardBatchNorm(name=f"norm{number}")(x)))


def build(inputs, config, kernel):
    """Return 8 features of two nested blocks."""
    x = block(8, kernel, 2)(block(8, kernel, 1)(inputs))
    return SlotDropout(config.dropout, salt=7, name="noise")(keras.layers.GlobalAveragePooling2D()(x))


CONSTANT = 3


def flat(inputs, config, kernel):
    return inputs


def nothing(inputs, config, kernel):
    return None


def keras_norm(inputs, config, kernel):
    inner = keras.Sequential([keras.layers.Flatten(), keras.layers.BatchNormalization(name="bn")], name="inner")
    return inner(inputs)
'''


@pytest.fixture
def mylab(tmp_path, monkeypatch):
    """Put the module mylab.nets where a user's would be: in a folder of PYTHONPATH."""
    (tmp_path / "mylab").mkdir()
    (tmp_path / "mylab" / "nets.py").write_text(NETS)
    (tmp_path / "mylab" / "broken.py").write_text("import nowhere_to_be_found")
    monkeypatch.syspath_prepend(tmp_path)


def build(model, image_size=32, **changes):
    return registry.build(ModelConfig(model=model, **changes), num_classes=2, image_size=image_size, seed=0)


def test_the_flag_takes_a_choice_or_a_dotted_name_and_nothing_else():
    assert from_flat({"model": "mylab.nets:build"}).model.model == "mylab.nets:build"
    for name in ("cnm", "mylab.nets", "mylab:", ":build", "my lab:build", "mylab.nets:build:again"):
        with pytest.raises(
            RequestError, match=r"--model: expected one of cnn, cnn_bn, .*, or module:function; received"
        ):
            from_flat({"model": name})
    with pytest.raises(RequestError, match="--optimizer: expected one of adam"):
        from_flat({"optimizer": "keras.optimizers:Lion"})


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("mylab.absent:build", "a module that can be imported, received ModuleNotFoundError"),
        ("mylab.broken:build", "received ModuleNotFoundError(\"No module named 'nowhere_to_be_found'\")"),
        ("mylab.nets:buidl", r"expected a function build(inputs, config, kernel) in mylab.nets, received none of"),
        ("mylab.nets:CONSTANT", "received int"),
        ("mylab.nets:flat", "expected features of shape (None, F), received the shape (None, 64, 64, 3)"),
        ("mylab.nets:nothing", "expected features of shape (None, F), received NoneType"),
        ("mylab.nets:keras_norm", "received BatchNormalization 'bn'; use trainer.models.layers.ShardBatchNorm"),
    ],
)
def test_a_network_that_does_not_work_is_one_line_and_exit_code_2(mylab, image_set, tmp_path, capsys, name, problem):
    capsys.readouterr()
    code, _, err = answer(capsys, train.main, *argv(image_set, tmp_path / "job", model=name))
    assert code == 2, err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert f"--model={name}: expected" in errors[0]
    assert problem in errors[0]
    assert "Traceback" not in err


def test_a_network_is_found_in_the_working_directory_as_console_scripts_do_not_look_there(tmp_path, monkeypatch):
    (tmp_path / "here_only.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [path for path in __import__("sys").path if path])
    assert registry.network("here_only:build").input_range == (-1.0, 1.0)


# --- what a network may not contain ---------------------------------------------------------------------------------


class Composite(L.Layer):
    """A layer that holds others in a list and a dictionary."""

    def __init__(self, *inner, **kwargs):
        super().__init__(**kwargs)
        self.steps = {"all": list(inner)}

    def call(self, inputs, training=False):
        for step in self.steps["all"]:
            inputs = step(inputs, training=training)
        return inputs


def plain(layer):
    return layer


def in_sequential(layer):
    return keras.Sequential([L.Flatten(), keras.Sequential([layer], name="deeper")], name="nested")


def in_functional(layer):
    inputs = keras.Input([12])
    return keras.Model(inputs, layer(inputs))


def in_composite(layer):
    return Composite(layer, name="composite")


REFUSED = {
    "ShardBatchNorm": [lambda: L.BatchNormalization(name="bn")],
    "SlotDropout": [
        lambda: L.Dropout(0.1), lambda: L.AlphaDropout(0.1), lambda: L.GaussianDropout(0.1),
        lambda: L.GaussianNoise(0.1),
    ],
    "kernel_initializer=kernel()": [lambda: L.Dense(4, name="dense_of_mine")],
    "give the layer name=": [lambda: L.Dense(4, kernel_initializer=keras.initializers.GlorotUniform(1))],
}  # fmt: skip


@pytest.mark.parametrize("place", [plain, in_sequential, in_functional, in_composite])
@pytest.mark.parametrize(("remedy", "make"), [(remedy, make) for remedy, all_of in REFUSED.items() for make in all_of])
def test_what_breaks_an_invariant_is_refused_at_any_depth(monkeypatch, place, remedy, make):
    monkeypatch.setattr(registry, "network", lambda _: registry.Network(
        lambda inputs, config, kernel: place(make())(L.Flatten()(inputs))))  # fmt: skip
    with pytest.raises(RequestError) as caught:
        build("mylab:net", image_size=2)
    assert remedy in str(caught.value)


def test_random_preprocessing_and_spatial_dropout_are_refused(monkeypatch):
    for layer in (L.RandomFlip(), L.RandomRotation(0.1), L.SpatialDropout2D(0.1)):
        monkeypatch.setattr(registry, "network", lambda _, layer=layer: registry.Network(
            lambda inputs, config, kernel: L.Flatten()(layer(inputs))))  # fmt: skip
        with pytest.raises(RequestError, match=f"received {type(layer).__name__} .*SlotDropout"):
            build("mylab:net", image_size=4)


def test_equal_salts_and_equal_names_are_refused(monkeypatch):
    def two(make):
        def network(inputs, config, kernel):
            x = L.Flatten()(inputs)
            first, second = in_functional(make(0)), in_functional(make(1))
            return second(first(x))

        return lambda _: registry.Network(network)

    monkeypatch.setattr(registry, "network", two(lambda i: layers.SlotDropout(0.1, salt=3, name=f"noise{i}")))
    with pytest.raises(RequestError, match="salt=3 for noise0, noise1"):
        build("mylab:net", image_size=2)
    monkeypatch.setattr(registry, "network", two(lambda i: layers.ShardBatchNorm(name="norm")))
    with pytest.raises(RequestError, match="expected a name of its own for each variable, received 'norm/gamma' 2"):
        build("mylab:net", image_size=2)


def test_every_network_of_the_package_refuses_images_below_its_smallest():
    for name, entry in NETWORKS.entries().items():
        smallest = entry.facts["MINIMUM_IMAGE_SIZE"]
        with pytest.raises(RequestError, match=f"--image_size: .* at least {smallest} for --model={name}; received"):
            build(name, image_size=smallest - 1)
        with pytest.raises(RequestError, match=f"--image_size: .* at least {smallest} for --model={name}; received"):
            from_flat({"model": name, "image_size": smallest - 1})


# The others take seconds to build: test_backbones.py.
@pytest.mark.parametrize("name", NETWORKS.searched)
def test_every_small_network_keeps_the_invariants_at_its_smallest_image_and_ends_with_dropout(name):
    model = build(name, image_size=NETWORKS.entries()[name].facts["MINIMUM_IMAGE_SIZE"])
    assert model.output_shape == (None, 2)
    assert [layer.name for layer in model.layers[-3:]] == ["dropout", "logits", "probabilities"]


def test_an_input_range_is_part_of_the_model(mylab):
    model = build("mylab.nets:build")
    assert [layer.name for layer in model.layers][:2] == ["pixels", "input_range"]
    view = keras.Model(model.input, model.get_layer("input_range").output)
    np.testing.assert_allclose(view(np.full([1, 32, 32, 3], 0.25, np.float32)), -0.5)


# --- used by flag ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_network_outside_trains_resumes_exports_and_evaluates(mylab, image_set, tmp_path, capsys):
    settings = {
        "model": "mylab.nets:build",
        "export": "best",
        "epochs": 2,
        "augment": "none",
        "image_size": 32,
        "steps_per_epoch": 4,
    }
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert run_job(image_set, whole, **{**settings, "export": "none"}) == 0
    with sigterm_after(5):
        assert run_job(image_set, cut, **settings) == 75
    assert run_job(image_set, cut, **settings) == 0
    assert result_of(cut)["weights_sha256"] == result_of(whole)["weights_sha256"]
    assert json.loads((cut / "config.json").read_text())["model"] == "mylab.nets:build"
    assert "mylab.nets:build (was" not in refusal_of_another(image_set, cut, settings, capsys)
    export = result_of(cut)["exports"]["best"]
    assert answer(capsys, evaluate.main, f"--model_dir={export}", f"--data_dir={image_set}",
                  f"--out={tmp_path / 'out'}", "--bootstrap=0")[0] == 0  # fmt: skip
    assert answer(capsys, predict.main, f"--model_dir={export}", f"{image_set}/Test/Fake/00000.jpg")[0] == 0
    norms = moving_averages(cut)
    assert sorted(norms) == ["norm1", "norm2"]
    assert all((values[0] != 0).any() and (values[1] != 1).any() for values in norms.values())


def refusal_of_another(data, job, settings, capsys):
    """Return how a job refuses to continue with another network."""
    capsys.readouterr()
    return refusal(capsys, train.main, *argv(data, job, **{**settings, "model": "cnn", "image_size": 64}))


def moving_averages(job):
    """Return the statistics of the newest checkpoint by layer."""
    newest = max((job / "checkpoints").iterdir(), key=lambda folder: int(folder.name))
    (file,) = newest.glob("*.npz")
    with np.load(file) as arrays:
        return {name.split("/")[1]: arrays[name] for name in arrays.files if name.endswith("/moving")}


@pytest.mark.slow
def test_the_documented_file_adds_a_network(image_set, tmp_path, monkeypatch):
    (tmp_path / "two_convolutions.py").write_text(how_to_add("network"))
    monkeypatch.setattr(networks, "__path__", [*networks.__path__, str(tmp_path)])
    assert list(NETWORKS)[-1] == "two_convolutions"
    assert "two_convolutions: two convolutions and global pooling." in NETWORKS.help
    assert run_job(image_set, tmp_path / "job", model="two_convolutions", image_size=16, epochs=1) == 0


def test_statistics_of_a_norm_inside_a_nested_model_are_those_of_a_flat_one(mylab):
    model = build("mylab.nets:build")
    assert [layer.key for layer in layers.batch_norms(model)] == ["norm1/moving", "norm2/moving"]
    shard = layers.Shard(tf.constant([0, 0], tf.int64), tf.constant(0), 4, tf.ones([4]))
    pixels = np.random.default_rng(0).random([4, 32, 32, 3], np.float32)
    with layers.training_on(shard):
        model(pixels, training=True)
    first = model.get_layer("input_range")(pixels)
    convolved = next(layer for layer in layers.all_layers(model) if layer.name == "conv1")(first).numpy()
    np.testing.assert_allclose(shard.statistics["norm1/moving"][0], convolved.mean((0, 1, 2)), rtol=1e-4, atol=1e-6)


def test_a_norm_that_is_called_twice_is_noticed():
    norm = layers.ShardBatchNorm(name="norm")
    norm(np.zeros([2, 3], np.float32))
    shard = layers.Shard(tf.constant([0, 0], tf.int64), tf.constant(0), 2, tf.ones([2]))
    with layers.training_on(shard), pytest.raises(AssertionError, match="called twice"):
        norm(norm(np.ones([2, 3], np.float32), training=True), training=True)
