"""Optimizers: the table, and that one entry adds one."""

import keras
import pytest

from tests.helpers.docs import how_to_add
from tests.helpers.jobs import float32_policy, result_of, run_job  # noqa: F401
from trainer.core.config import OPTIMIZERS, OptimConfig, from_flat
from trainer.sweep import space
from trainer.training import optimizers

CLASSES = {
    "adam": keras.optimizers.Adam, "adamw": keras.optimizers.AdamW, "sgd": keras.optimizers.SGD,
    "rmsprop": keras.optimizers.RMSprop,
}  # fmt: skip


def test_every_optimizer_is_kerass_with_its_defaults_and_a_fixed_name():
    assert list(CLASSES) == list(OPTIMIZERS)[:4]  # Others may follow.
    for name, form in CLASSES.items():
        for _ in range(2):  # Keras would number the second.
            ours = optimizers.make_optimizer(OptimConfig(optimizer=name, learning_rate=0.5))
            assert type(ours) is form
            assert ours.name == name
            expected = form(0.5, name=name, **({"momentum": 0.9} if name == "sgd" else {}))
            assert ours.get_config() == expected.get_config()


@pytest.fixture
def lion(monkeypatch):
    added = eval("{" + how_to_add("optimizer") + "}", {"Optimizer": optimizers.Optimizer})
    assert list(added) == ["lion"]
    monkeypatch.setitem(optimizers.OPTIMIZERS, "lion", added["lion"])
    return "lion"


def test_the_documented_entry_adds_an_optimizer(image_set, tmp_path, lion):
    assert from_flat({"optimizer": lion}).optim.optimizer == lion
    assert "lion" in next(one.values for one in space.built_in() if one.name == "optimizer")
    assert run_job(image_set, tmp_path / "job", optimizer=lion, epochs=1, augment="none") == 0
    assert result_of(tmp_path / "job")["step"] == 5
