"""A model cut in two: both parts together are the model, with its own variables."""

import numpy as np
import pytest

from tests.helpers.jobs import float32_policy, precision_policy  # noqa: F401  (the fixture acts on every test here)
from trainer.core.config import ModelConfig
from trainer.models import layers, registry
from trainer.models import split as split_model


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ["cnn", "tests.helpers.networks:tiny", "tests.helpers.networks:plain"])
def test_the_parts_answer_as_the_whole(name, policy):
    with precision_policy(policy):
        model = registry.build(ModelConfig(model=name), num_classes=3, image_size=64, seed=1)
        parts = split_model.split(model)
        pixels = np.random.default_rng(0).random([4, 64, 64, 3], np.float32)
        features = np.asarray(parts.backbone(pixels, training=False), np.float32)  # As they are kept.
        expected = model(pixels, training=False).numpy()
        logits = registry.logits_of(model)(pixels, training=False).numpy()
    assert features.shape == (4, parts.backbone.output.shape[-1])
    np.testing.assert_array_equal(parts.head(features, training=False).numpy(), expected)
    np.testing.assert_array_equal(parts.head_logits(features, training=False).numpy(), logits)
    paths = [[variable.path for variable in part.variables] for part in (parts.backbone, parts.head, model)]
    assert sorted(paths[0] + paths[1]) == sorted(paths[2])
    assert paths[1] == ["logits/kernel", "logits/bias"]
    dropout = [isinstance(layer, layers.SlotDropout) for layer in parts.head.layers]
    assert any(dropout) == (not name.endswith("plain"))
