"""A score equal to the threshold is called positive, wherever scores are compared with it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.core.config import ExportConfig
from trainer.data.input_rule import InputRule
from trainer.evaluation import calibration
from trainer.evaluation.predictions import decide
from trainer.serving.exported_model import ExportedModel
from trainer.serving.saved_model import ServingModel

NAMES = ("Fake", "Real")
EDGES = [(0.5, [0.5, 0.5]), (0.3, [0.3, 0.7])]  # 0.3 is no float32: all compare in float32.


@pytest.mark.parametrize(("threshold", "scores"), EDGES)
@pytest.mark.parametrize("positive", [0, 1])
def test_python_calls_it_positive(threshold, scores, positive):
    probabilities = np.array([scores if positive == 0 else scores[::-1]], np.float32)
    export = ExportedModel("", NAMES, NAMES[positive], threshold, {})
    assert export.decide(probabilities[0]) == NAMES[positive]
    assert export.decide(probabilities[0], threshold) == NAMES[positive]
    assert decide(probabilities, positive, threshold).tolist() == [positive]
    below = np.nextafter(probabilities, np.float32(0))
    assert export.decide(below[0]) == NAMES[1 - positive]
    assert decide(below, positive, threshold).tolist() == [1 - positive]


@pytest.mark.parametrize("positive", [0, 1])
def test_the_exported_graph_calls_it_positive(positive):
    inputs = keras.Input([4, 4, 3])
    features = keras.layers.GlobalAveragePooling2D()(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax", kernel_initializer="zeros")(features))
    images = tf.zeros([1, 4, 4, 3], tf.uint8)
    for threshold, label in ((0.5, positive), (0.50001, 1 - positive)):
        answer = ServingModel(model, NAMES, positive, threshold, InputRule(4))._score(images)
        assert answer["p_fake"].numpy().tolist() == [0.5]
        assert answer["label"].numpy().tolist() == [NAMES[label].encode()]


def test_the_rates_of_a_choice_count_it_as_positive():
    labels = np.array([0] * 20 + [1] * 20)
    scores = np.array([0.75] * 20 + [0.25] * 20)  # All Fake score alike, and the threshold is one of the scores or
    probabilities = np.stack([scores, 1 - scores], axis=1)  # lies between.
    settings = ExportConfig(threshold_by="none")
    choice = calibration.decide(labels, probabilities, positive=0, settings=settings).threshold_choice
    assert (choice["tpr"], choice["fpr"]) == (1.0, 0.0)
    probabilities[:20] = 0.5  # The threshold that nobody chose.
    choice = calibration.decide(labels, probabilities, positive=0, settings=settings).threshold_choice
    assert (choice["tpr"], choice["fpr"]) == (1.0, 0.0)
