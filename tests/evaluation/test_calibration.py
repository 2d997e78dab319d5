"""What Validation decides: threshold and temperature, against brute force and the SavedModel."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.helpers.jobs import float32_policy  # noqa: F401  (a fixture)
from trainer.core.config import ExportConfig
from trainer.data.input_rule import InputRule
from trainer.evaluation import calibration, metrics
from trainer.evaluation.predictions import Predictions, decide
from trainer.serving import saved_model, temperature


def settings(by="accuracy", fpr=0.01, calibrate=False):
    return ExportConfig(threshold_by=by, threshold_fpr=fpr, calibrate=calibrate)


def rows(p_fake):
    p = np.asarray(p_fake, np.float32)
    return np.stack([p, 1 - p], axis=1)


def sample(n=300, classes=2, seed=0, sharpness=1.0):
    """Return labels and probabilities of a model whose logits are ``sharpness`` times too large."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, classes)) * 1.5
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    labels = np.array([rng.choice(classes, p=row) for row in p])
    sharp = np.exp(logits * sharpness)
    return labels, (sharp / sharp.sum(1, keepdims=True)).astype(np.float32)


def choose(labels, p, **values):
    return calibration.decide(np.asarray(labels), p, positive=0, settings=settings(**values))


def rates(labels, p, threshold):
    called, fake = p[:, 0] >= np.float32(threshold), labels == 0
    tpr, fpr = called[fake].mean(), called[~fake].mean()
    return {"accuracy": (called == fake).mean(), "balanced_accuracy": (tpr + 1 - fpr) / 2, "tpr": tpr, "fpr": fpr}


@pytest.mark.parametrize(("images", "seed"), [(200, 0), (200, 1), (200, 2), (30, 3), (30, 4), (30, 5)])
@pytest.mark.parametrize("by", ["accuracy", "balanced_accuracy", "eer", "fpr"])
def test_no_threshold_does_better(by, images, seed):
    labels, p = sample(images, seed=seed)
    labels[: images // 5] = 1  # Unequal classes.
    order = p[:, 0].argsort()
    labels[order[-10:]], labels[order[:2]] = 0, seed % 2  # The lowest scores may be of either class.
    decision = choose(labels, p, by=by, fpr=0.1)
    found = rates(labels, p, decision.threshold)
    others = [
        rates(labels, p, t) for t in np.r_[np.linspace(0, 1, 4001), p[:, 0], np.nextafter(p[:, 0], np.float32(1))]
    ]
    if by == "eer":
        assert abs(1 - found["tpr"] - found["fpr"]) <= min(abs(1 - o["tpr"] - o["fpr"]) for o in others) + 1e-12
    elif by == "fpr":
        assert found["fpr"] <= 0.1
        assert found["tpr"] == max(o["tpr"] for o in others if o["fpr"] <= 0.1)
    else:
        assert found[by] >= max(o[by] for o in others) - 1e-12
    choice = decision.threshold_choice
    assert {name: choice[name] for name in found} == pytest.approx(found)
    assert (choice["by"], choice["why"], choice["images"]) == (by, "", images)
    assert choice.get("fpr_limit") == (0.1 if by == "fpr" else None)
    assert 0 <= decision.threshold <= 1


def test_the_middle_of_the_widest_run():
    # Called right: all, for thresholds in (0.1, 0.7]; the same with one more pair in the wrong order beside it.
    reals, fakes = np.full(10, 0.1), np.full(10, 0.7)
    assert choose([0] * 10 + [1] * 10, rows(np.r_[fakes, reals])).threshold == pytest.approx(0.4)
    # Runs (0.1, 0.2], and (0.7, 1]: one mistake each, the second is wider.
    p = rows(np.r_[np.full(10, 0.2), np.full(10, 0.1)])
    assert choose([0] * 10 + [1] * 10, p).threshold == pytest.approx(0.15)
    worth = np.r_[np.full(10, 0.9), 0.3, np.full(10, 0.2), 0.6]
    labels = [0] * 11 + [1] * 11  # 0.3 is a fake below the real 0.6: one of them is called wrong.
    assert choose(labels, rows(worth)).threshold == pytest.approx(0.75)  # (0.2, 0.3] or (0.6, 0.9].
    mirrored = np.r_[np.full(10, 0.8), 0.4, np.full(10, 0.2), 0.6]
    assert choose(labels, rows(mirrored)).threshold in (0.3, 0.7)  # Equally wide, equally far from 0.5.


def test_neighbouring_scores_are_told_apart():
    low = np.float32(0.7)
    high = np.nextafter(low, np.float32(1))
    p = rows(np.r_[np.full(10, high), np.full(10, low)])
    decision = choose([0] * 10 + [1] * 10, p)
    assert decision.threshold_choice["accuracy"] == 1.0
    assert decide(p.astype(np.float64), 0, decision.threshold).tolist() == [0] * 10 + [1] * 10


@pytest.mark.parametrize(
    ("labels", "p", "values", "why"),
    [
        ([0] * 30, np.linspace(0, 1, 30), {}, "holds 0 images of one class, expected at least 10"),
        ([0] * 30 + [1] * 9, np.linspace(0, 1, 39), {}, "holds 9 images of one class"),
        ([0] * 20 + [1] * 20, np.full(40, 0.3), {}, "the same score"),
        (
            [0] * 20 + [1] * 99,
            np.linspace(0, 1, 119),
            {"by": "fpr"},
            "99 images of the other class, expected at least 100",
        ),
        ([0] * 20 + [1] * 20, np.linspace(0, 1, 40), {"by": "none"}, "--threshold_by=none"),
        ([], np.zeros(0), {"by": "none"}, "--threshold_by=none"),
    ],
)
def test_where_validation_cannot_decide_it_is_a_half_and_says_why(labels, p, values, why):
    decision = choose(np.array(labels, int), rows(p), **values)
    assert (decision.threshold, decision.temperature, decision.calibration) == (0.5, 1.0, None)
    assert why in decision.threshold_choice["why"]
    json.dumps(decision.metadata(), allow_nan=False)


def test_as_many_images_as_the_rate_needs_are_enough():
    p = rows(np.r_[np.linspace(0.5, 1, 20), np.linspace(0, 0.6, 100)])
    assert choose([0] * 20 + [1] * 100, p, by="fpr").threshold_choice["why"] == ""


def test_more_than_two_classes_keep_the_likeliest():
    labels, p = sample(classes=3)
    assert calibration.needs_scores(settings(by="none", calibrate=True))
    assert calibration.needs_scores(settings())
    assert not calibration.needs_scores(settings(by="none"))
    decision = choose(labels, p, calibrate=True)
    assert decision.threshold == 0.5
    assert "likeliest" in decision.threshold_choice["why"]
    assert decision.temperature != 1.0


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("sharpness", [0.5, 1.0, 4.0])
def test_the_temperature_undoes_what_sharpened_the_logits(classes, sharpness):
    labels, p = sample(4000, classes, sharpness=sharpness)
    decision = choose(labels, p, calibrate=True)
    assert decision.temperature == pytest.approx(sharpness, rel=0.12)
    said = decision.calibration
    scores = p.astype(np.float64)

    def loss(t):
        return metrics.cross_entropy(labels, temperature.temper(scores, t)).mean()

    assert said["log_loss_before"] == loss(1.0)
    assert said["log_loss_after"] == loss(decision.temperature)
    assert said["log_loss_after"] <= min(loss(t) for t in np.geomspace(0.1, 10, 200)) + 1e-9
    np.testing.assert_allclose(temperature.temper(temperature.temper(scores, 3.0), 1 / 3.0), scores, atol=1e-9)


def test_a_temperature_without_a_minimum_is_one():
    labels = [0] * 20 + [1] * 20
    decision = choose(labels, rows(np.r_[np.full(20, 0.8), np.full(20, 0.3)]), calibrate=True)  # All right.
    assert decision.temperature == 1.0
    assert "no minimum" in decision.calibration["why"]
    few = choose([0] * 20 + [1] * 2, rows(np.linspace(0, 1, 22)), calibrate=True)
    assert (few.temperature, few.threshold) == (1.0, 0.5)
    assert "holds 2 images" in few.calibration["why"]


def test_the_threshold_is_chosen_after_the_temperature():
    labels, p = sample(400, sharpness=3.0)
    cold, warm = choose(labels, p), choose(labels, p, calibrate=True)
    tempered = temperature.temper(p.astype(np.float64), warm.temperature)
    assert warm.threshold_choice["accuracy"] == cold.threshold_choice["accuracy"]
    assert rates(labels, tempered, warm.threshold)["accuracy"] == warm.threshold_choice["accuracy"]
    assert abs(warm.threshold - 0.5) < abs(cold.threshold - 0.5) + 0.2


def test_the_effect_is_recovered_from_tempered_scores():
    labels, p = sample(500, sharpness=3.0)
    tempered = temperature.temper(p.astype(np.float64), 3.0).astype(np.float32)
    scored = Predictions.of(labels, tempered, ("Fake", "Real"), 0, 0.5)
    effect = calibration.effect(scored, 3.0)
    before = metrics.measure(Predictions.of(labels, p, ("Fake", "Real"), 0, 0.5), resamples=0, seed=0)
    after = metrics.measure(scored, resamples=0, seed=0)
    for name in ("log_loss", "ece"):
        assert effect["before"][name] == pytest.approx(before[name], rel=1e-3)
        assert effect["after"][name] == after[name]
    assert effect["after"]["ece"] < effect["before"]["ece"]


def serving(temperature, classes=2):
    size = 8
    inputs = keras.Input([size, size, 3])
    dense = keras.layers.Dense(
        classes, activation="softmax", kernel_initializer=keras.initializers.RandomNormal(seed=1)
    )
    model = keras.Model(inputs, dense(keras.layers.GlobalAveragePooling2D()(inputs)))
    return saved_model.ServingModel(
        model, ["Fake", "Real", "Drawn"][:classes], 0, 0.5, InputRule(size), temperature
    ), model


@pytest.mark.parametrize("classes", [2, 3])
def test_the_saved_model_applies_the_temperature(classes):
    images = np.random.default_rng(0).integers(0, 255, [9, 8, 8, 3], dtype=np.uint8)
    hot, model = serving(2.5, classes)
    raw = model(images / np.float32(255)).numpy()
    answers = {name: value.numpy() for name, value in hot.serve_images(tf.constant(images)).items()}
    expected = temperature.temper(raw.astype(np.float64), 2.5)
    np.testing.assert_allclose(answers["probabilities"], expected, rtol=1e-5)
    np.testing.assert_array_equal(answers["p_fake"], answers["probabilities"][:, 0])
    assert np.abs(raw - expected).max() > 0.01


def test_a_temperature_of_one_leaves_the_graph_alone():
    images = tf.zeros([2, 8, 8, 3], tf.uint8)
    one, model = serving(1.0)
    np.testing.assert_array_equal(
        one.serve_images(images)["probabilities"].numpy(), model(tf.zeros([2, 8, 8, 3])).numpy()
    )
    nodes = {node.op for node in one.serve_images.get_concrete_function().graph.as_graph_def().node}
    assert "Log" not in nodes
