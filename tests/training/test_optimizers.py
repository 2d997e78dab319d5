"""Optimizers: the table, and that one entry adds one."""

import keras
import numpy as np
import pytest

from tests.helpers.docs import how_to_add
from tests.helpers.jobs import float32_policy, result_of, run_job  # noqa: F401
from trainer.core.config import OPTIMIZERS, OptimConfig, from_flat
from trainer.core.errors import RequestError
from trainer.sweep import space
from trainer.training import optimizers

CLASSES = {
    "adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "sgd": keras.optimizers.SGD,
    "rmsprop": keras.optimizers.RMSprop, "lion": keras.optimizers.Lion,
}  # fmt: skip


def test_every_optimizer_is_kerass_with_its_defaults_and_a_fixed_name():
    assert list(CLASSES) == list(OPTIMIZERS)[:5]  # Others may follow.
    for name, form in CLASSES.items():
        for _ in range(2):  # Keras would number the second.
            ours = optimizers.make_optimizer(OptimConfig(optimizer=name, learning_rate=0.5))
            assert type(ours) is form
            assert ours.name == name
            expected = form(0.5, name=name, **({"momentum": 0.9} if name == "sgd" else {}))
            assert ours.get_config() == expected.get_config()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"optimizer": "sgd", "momentum": 0.5, "weight_decay": 0.1}, {"momentum": 0.5, "weight_decay": 0.1}),
        ({"optimizer": "adam", "adam_beta_1": 0.5, "adam_beta_2": 0.6, "adam_epsilon": 0.1},
         {"beta_1": 0.5, "beta_2": 0.6, "epsilon": 0.1}),
        ({"optimizer": "adamw", "weight_decay": 0.0}, {"weight_decay": 0.0}),
        ({"optimizer": "lion", "weight_decay": 0.2}, {"weight_decay": 0.2}),
    ],
)  # fmt: skip
def test_constants_arrive(settings, expected):
    received = optimizers.make_optimizer(OptimConfig(**settings)).get_config()
    assert {name: received[name] for name in expected} == expected


def test_the_weight_decay_of_auto_is_a_jobs():
    assert optimizers.automatic_weight_decay(OptimConfig(optimizer="adamw")) == 0.004
    assert optimizers.automatic_weight_decay(OptimConfig(optimizer="sgd")) == 0.0


def test_a_weight_decay_that_would_do_nothing_is_refused():
    for name in ("adam", "rmsprop"):
        with pytest.raises(RequestError, match=rf"^--weight_decay: .*{name}.*; use --optimizer=adamw or sgd or lion$"):
            from_flat({"optimizer": name, "weight_decay": 0.1})
        assert from_flat({"optimizer": name, "weight_decay": 0.0})


@pytest.mark.parametrize("name", ["adamw", "sgd", "lion"])
@pytest.mark.parametrize("biases", [False, True])
def test_only_weights_of_several_dimensions_decay(name, biases):
    """A step with no gradient moves a variable only by its decay."""
    kernel, bias = keras.Variable([[2.0, 2.0]], name="kernel"), keras.Variable([2.0, 2.0], name="bias")
    config = OptimConfig(optimizer=name, weight_decay=0.5, learning_rate=0.1, decay_biases=biases)
    optimizer = optimizers.build(config, [kernel, bias])
    optimizer.apply_gradients([(keras.ops.zeros_like(one), one) for one in (kernel, bias)])
    np.testing.assert_allclose(kernel, [[1.9, 1.9]])
    np.testing.assert_allclose(bias, [1.9, 1.9] if biases else [2.0, 2.0])


@pytest.fixture
def adamax(monkeypatch):
    added = eval("{" + how_to_add("optimizer") + "}", {"Optimizer": optimizers.Optimizer})
    assert list(added) == ["adamax"]
    monkeypatch.setitem(optimizers.OPTIMIZERS, "adamax", added["adamax"])
    return "adamax"


@pytest.mark.slow
def test_the_documented_entry_adds_an_optimizer(image_set, tmp_path, adamax):
    assert from_flat({"optimizer": adamax}).optim.optimizer == adamax
    assert "adamax" in next(one.values for one in space.built_in() if one.name == "optimizer")
    assert run_job(image_set, tmp_path / "job", optimizer=adamax, epochs=1, augment="none") == 0
    assert result_of(tmp_path / "job")["step"] == 5
