"""Losses of single examples against Keras's and the definition, and weights of classes."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from trainer.core.config import LossConfig, from_flat
from trainer.core.errors import RequestError
from trainer.training.step.loss import Loss, cross_entropy

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-3.0, 4.0, 1.0]], np.float32)
LABELS = np.array([0, 2, 2], np.int32)
SOFT = np.array([[0.7, 0.3, 0.0], [0.0, 0.5, 0.5], [0.2, 0.2, 0.6]], np.float32)
ONE_HOT = np.eye(3, dtype=np.float32)[LABELS]


def minimised(labels, **settings):
    return Loss(LossConfig(**settings)).minimised(tf.constant(labels), tf.constant(LOGITS)).numpy()


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["classes", "shares"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_and_smoothing_are_kerass(labels, smoothing):
    targets = ONE_HOT if labels is LABELS else labels
    expected = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=smoothing, reduction=None)
    np.testing.assert_allclose(minimised(labels, label_smoothing=smoothing), expected(targets, LOGITS), rtol=1e-5)


@pytest.mark.parametrize("labels", [LABELS, SOFT], ids=["classes", "shares"])
@pytest.mark.parametrize(("gamma", "smoothing"), [(0.0, 0.0), (2.0, 0.0), (0.5, 0.1)])
def test_the_focal_loss_is_kerass(labels, gamma, smoothing):
    expected = keras.losses.CategoricalFocalCrossentropy(
        alpha=1.0, gamma=gamma, from_logits=True, label_smoothing=smoothing, reduction=None
    )
    settings = {"loss": "focal", "focal_gamma": gamma, "label_smoothing": smoothing}
    np.testing.assert_allclose(minimised(labels, **settings), expected(ONE_HOT if labels is LABELS else labels, LOGITS),
                               rtol=1e-5)  # fmt: skip


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_focal_loss_has_a_finite_gradient_where_nothing_is_in_doubt(gamma):
    logits = tf.constant([[200.0, -200.0], [-200.0, 200.0]])
    with tf.GradientTape() as tape:
        tape.watch(logits)
        losses = Loss(LossConfig(loss="focal", focal_gamma=gamma)).minimised(tf.constant([0, 0]), logits)
    np.testing.assert_allclose(losses, [0.0, 400.0])
    np.testing.assert_allclose(tape.gradient(losses, logits), [[0, 0], [-1, 1]], atol=1e-6)


def test_what_is_reported_is_cross_entropy_in_both_forms():
    np.testing.assert_allclose(cross_entropy(tf.constant(ONE_HOT), LOGITS), cross_entropy(LABELS_TENSOR, LOGITS))


LABELS_TENSOR = tf.constant(LABELS)


def test_how_much_examples_count():
    loss = Loss(LossConfig(), (1.0, 2.0, 4.0))
    np.testing.assert_allclose(loss.importance(LABELS_TENSOR), [1, 4, 4])
    np.testing.assert_allclose(loss.importance(tf.constant(SOFT)), [1.3, 3.0, 3.0])
    assert Loss(LossConfig()).importance(LABELS_TENSOR) is None


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("none", None),
        ("balanced", (100 / 60, 100 / 240, 1.0)),
        ("Fake=2", (2.0, 1.0, 1.0)),
        ("Real=0.5, Fake=3", (3.0, 0.5, 1.0)),
    ],
)
def test_class_weights(text, weights):
    counts = {"Fake": 20, "Real": 80, "a=b": 0}
    expected = weights and pytest.approx(weights[:2] if text != "balanced" else (100 / 40, 100 / 160))
    received = LossConfig(class_weights=text).weights_of({"Fake": 20, "Real": 80})
    assert (received is None) if weights is None else received == expected
    assert LossConfig(class_weights="a=b=2").weights_of(counts) == (1.0, 1.0, 2.0)
    assert weights is None or LossConfig(class_weights=text).weights_of(counts) == pytest.approx(weights)


@pytest.mark.parametrize("text", ["", "heavy", "Fake", "Fake=", "Fake=0", "Fake=-1", "=2", "Fake=nan", "Fake=2,Fake=3"])
def test_malformed_class_weights_are_refused_before_images_are_read(text):
    with pytest.raises(RequestError, match=r"^--class_weights: expected none, balanced, or class=number"):
        from_flat({"class_weights": text})


def test_another_class_is_refused_with_the_nearest_one():
    with pytest.raises(RequestError, match=r"among Fake, Real, received 'Fakes'; did you mean 'Fake'\?"):
        LossConfig(class_weights="Fakes=2").weights_of({"Fake": 1, "Real": 1})
