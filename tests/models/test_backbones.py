"""Networks of published architectures: as many parameters and the same outputs as the originals."""

import keras
import pytest

from tests.helpers.jobs import float32_policy  # noqa: F401  (the fixture acts on every test here)
from trainer.core.config import ModelConfig
from trainer.models import registry


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
