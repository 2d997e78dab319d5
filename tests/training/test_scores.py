"""Dead units and constant answers are found in the weights that are exported."""

import numpy as np
import pytest

from tests.helpers.jobs import float32_policy  # noqa: F401
from trainer.core.config import DataConfig, ModelConfig
from trainer.data.manifest import read_train_and_validation
from trainer.evaluation import chance
from trainer.models import registry
from trainer.training import evaluator
from trainer.training.exports import scores

DATA = DataConfig(image_size=64)


@pytest.fixture(scope="module")
def split(image_set):
    return read_train_and_validation(image_set, 0.1, 0)[1]


def network(name, biases):
    """Return a network whose hidden units have these biases."""
    model = registry.build(ModelConfig(model=name), num_classes=2, image_size=64, seed=0)
    (bias,) = [variable for variable in model.variables if variable.path.endswith("hidden/bias")]
    bias.assign(biases)
    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn", "cnn_bn"])
def test_units_that_never_fire_are_counted(split, name):
    biases = np.full(256, 9.0, np.float32)  # A ReLU that always fires is alive.
    biases[:192] = -1e3
    model = network(name, biases)
    found = scores.of_split(model, split, DATA)
    assert found.dead == 0.75
    assert found.spread > 0
    positions, probabilities = evaluator.score_split(model, split, DATA)
    np.testing.assert_array_equal(found.positions, positions)
    np.testing.assert_array_equal(found.probabilities, probabilities)  # To watch changes nothing.


def test_a_dead_network_answers_a_constant(split):
    found = scores.of_split(network("cnn", np.full(256, -1e3, np.float32)), split, DATA)
    assert found.dead == 1.0
    assert found.spread <= np.finfo(np.float32).eps  # Some CPUs round a softmax by its place in the batch.
    assessment = chance.assess(chance.measured(None, 15, 15, spread=found.spread, dead=found.dead), "Validation")
    assert not assessment.learned
    assert "answers a constant" in assessment.because
    assert "100% of the last hidden layer's units are dead" in assessment.because


def test_of_no_image_nothing_is_known():
    assert scores.none(3).spread is None
    assert scores.none(3).dead is None
    assert scores.none(3).probabilities.shape == (0, 3)
