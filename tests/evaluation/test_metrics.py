"""Figures against values worked out by hand, by brute force, and by scikit-learn where the formula is ours."""

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
from sklearn import metrics as sk

from trainer.evaluation import metrics
from trainer.evaluation.metrics import calibration_error, ranking
from trainer.evaluation.predictions import Predictions, decide

NAMES = ("Fake", "Real")


def two(p_fake, labels, threshold=0.5):
    p = np.asarray(p_fake, np.float32)
    return Predictions.of(np.asarray(labels), np.stack([p, 1 - p], axis=1), NAMES, 0, threshold)


def random_scored(n=400, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    logits = rng.normal(size=(n, classes)) + 1.2 * np.eye(classes)[labels]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    p = np.round(p, 2).astype(np.float32)  # Ties.
    p /= p.sum(1, keepdims=True)
    return Predictions.of(labels, p, ("Fake", "Real", "Drawn")[:classes], 0, 0.5)


def test_validation_summary_by_hand():
    p = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], np.float32)
    summary = metrics.validation_summary(np.array([0, 1, 1]), p, 0)
    assert summary["loss"] == pytest.approx(-(math.log(0.9) + math.log(0.8) + math.log(0.4)) / 3, rel=1e-6)
    assert summary["accuracy"] == pytest.approx(2 / 3)
    assert summary["auc"] == 1.0


def test_validation_summary_clips_and_says_none():
    p = np.array([[0.0, 1.0], [1.0, 0.0]], np.float32)
    summary = metrics.validation_summary(np.array([0, 0]), p, 0)
    assert summary["loss"] == pytest.approx((-math.log(1e-7) - math.log(1 - 1e-7)) / 2)
    assert summary["auc"] is None
    broken = metrics.validation_summary(np.array([0, 1]), np.full([2, 2], np.nan), 0)
    assert math.isnan(broken["loss"])
    assert broken["auc"] is None


def test_figures_by_hand():
    # Fakes 0.9 0.7 0.4, reals 0.6 0.2: of the six pairs only (0.4, 0.6) is in the wrong order.
    figures = metrics.measure(two([0.9, 0.7, 0.4, 0.6, 0.2], [0, 0, 0, 1, 1]), resamples=0, seed=0)
    assert figures["auc"] == pytest.approx(5 / 6)
    # Precision at each fake found: 1/1, 2/2, 3/4.
    assert figures["average_precision"] == pytest.approx((1 + 1 + 3 / 4) / 3)
    assert figures["accuracy"] == pytest.approx(3 / 5)
    assert figures["confusion_matrix"] == [[2, 1], [1, 1]]
    assert figures["per_class"]["Fake"] == {
        "precision": pytest.approx(2 / 3),
        "recall": pytest.approx(2 / 3),
        "f1": pytest.approx(2 / 3),
        "n": 3,
    }
    assert figures["brier"] == pytest.approx((0.01 + 0.09 + 0.36 + 0.36 + 0.04) / 5, rel=1e-5)
    # Misses fall from 1/3 to 1/3 while false alarms rise from 0 to 1/2: equal at 1/3.
    assert figures["eer"] == pytest.approx(1 / 3)
    # Confidence 0.9 0.7 0.6 0.6 0.8, right 1 1 0 0 1; 0.6 and 0.6 share a bin.
    assert figures["ece"] == pytest.approx((0.1 + 0.3 + 1.2 + 0.2) / 5, rel=1e-5)
    assert figures["n"] == 5
    assert figures["ci95"]["accuracy"] is None


def test_eer_interpolates():
    # From (FPR 0, FNR 1/2) to (1/2, 0) in one step of tied scores: the crossing lies at 1/4.
    scores = np.array([0.9, 0.5, 0.5, 0.1])
    assert ranking.equal_error_rate(np.array([True, True, False, False]), scores) == pytest.approx(1 / 4)


@pytest.mark.parametrize("classes", [2, 3])
def test_figures_by_brute_force(classes):
    scored = random_scored(classes=classes)
    figures = metrics.measure(scored, resamples=0, seed=0)
    fake, rest = scored.p_fake[scored.is_positive], scored.p_fake[~scored.is_positive]
    pairs = [(a > b) + 0.5 * (a == b) for a, b in itertools.product(fake, rest)]
    assert figures["auc"] == pytest.approx(np.mean(pairs))
    p, labels = scored.probabilities, scored.labels
    assert figures["log_loss"] == pytest.approx(sk.log_loss(labels, np.clip(p, 1e-7, 1 - 1e-7)), rel=1e-6)
    if classes == 2:
        assert figures["brier"] == pytest.approx(sk.brier_score_loss(scored.is_positive, scored.p_fake))
        predicted = np.where(scored.p_fake >= 0.5, 0, 1)
    else:
        assert figures["brier"] == pytest.approx(np.mean(((np.eye(3)[labels] - p) ** 2).sum(1)))
        predicted = p.argmax(1)
    matrix = [[int(((labels == a) & (predicted == b)).sum()) for b in range(classes)] for a in range(classes)]
    assert figures["confusion_matrix"] == matrix
    f1 = [figures["per_class"][name]["f1"] for name in scored.class_names]
    assert figures["macro"]["f1"] == pytest.approx(np.mean(f1))
    ece, stated = 0.0, p[np.arange(len(labels)), predicted]
    for low in np.arange(15) / 15:
        inside = (stated > low) & (stated <= low + 1 / 15)
        if inside.any():
            ece += inside.mean() * abs(stated[inside].mean() - (predicted == labels)[inside].mean())
    assert figures["ece"] == pytest.approx(ece, abs=2e-3)  # Scores on an edge of a bin may round either way.


def test_threshold_decides_two_classes_only():
    assert two([0.3, 0.2], [0, 1], threshold=0.3).predicted.tolist() == [0, 1]  # 0.3 is no float32.
    three = decide(np.array([[0.4, 0.35, 0.25], [0.1, 0.2, 0.7]]), 0, 0.9)
    assert three.tolist() == [0, 2]


DEGENERATE = {
    "one class only": ([0.1, 0.6, 0.9], [1, 1, 1], "other classes"),
    "positive class only": ([0.1, 0.6, 0.9], [0, 0, 0], "positive class"),
    "one image": ([0.7], [0], "one image"),
    "equal scores": ([0.7, 0.7, 0.7], [0, 1, 0], "same score"),
}


@pytest.mark.parametrize("case", DEGENERATE)
def test_undefined_is_null_with_a_reason(case):
    p, labels, reason = DEGENERATE[case]
    figures = metrics.measure(two(p, labels), resamples=20, seed=0)
    json.dumps(figures, allow_nan=False)
    for name in ("auc", "average_precision", "eer"):
        assert figures[name] is None
        assert reason in figures["undefined"][name]
        assert figures["ci95"][name] is None
    for name in ("accuracy", "log_loss", "brier", "ece"):
        assert isinstance(figures[name], float)
    missing = [name for name, values in figures["per_class"].items() if values["recall"] is None]
    assert [f"per_class.{name}.recall" in figures["undefined"] for name in missing] == [True] * len(missing)


def test_counts_of_one_give_the_figures_of_the_split():
    scored = random_scored()
    ones = ranking.resampled_ranking(np.ones([1, 400]), scored.is_positive, scored.p_fake)[0]
    figures = metrics.measure(scored, resamples=0, seed=0)
    assert dict(zip(ranking.RANKED[:4], ones, strict=False)) == pytest.approx({
        **{name: figures[name] for name in ranking.RANKED[:3]}, "tpr_at_fpr.0.01": figures["tpr_at_fpr"]["0.01"],
    })  # fmt: skip


def test_counts_are_repeated_images():
    scored = random_scored(60)
    counts = np.random.default_rng(1).integers(0, 4, size=60)
    weighted = ranking.resampled_ranking(counts[None].astype(float), scored.is_positive, scored.p_fake)[0]
    truth, p = np.repeat(scored.is_positive, counts), np.repeat(scored.p_fake, counts)
    expected = [
        sk.roc_auc_score(truth, p),
        sk.average_precision_score(truth, p),
        ranking.equal_error_rate(truth, p),
        *(ranking.detection_rate(truth, p, limit) for limit in ranking.FPR_LIMITS),
    ]
    assert weighted.tolist() == pytest.approx(expected)


def test_intervals_agree_with_theory_and_seed():
    scored = random_scored(2000)
    first = metrics.measure(scored, resamples=400, seed=1)
    assert first == metrics.measure(scored, resamples=400, seed=1)
    assert first["ci95"] != metrics.measure(scored, resamples=400, seed=2)["ci95"]
    low, high = first["ci95"]["accuracy"]
    accuracy = first["accuracy"]
    half = 1.96 * math.sqrt(accuracy * (1 - accuracy) / 2000)
    assert [low, high] == pytest.approx([accuracy - half, accuracy + half], abs=0.15 * half)
    for name in set(first["ci95"]) - set(ranking.AT_FPR):
        low, high = first["ci95"][name]
        assert low < first[name] < high


def test_rates_found_at_few_false_alarms():
    # 200 reals, two of them above every fake but the ten best; ties straddle the limit.
    fakes = np.r_[np.full(10, 0.9), np.full(5, 0.7), np.full(5, 0.1)]
    reals = np.r_[0.8, 0.8, 0.7, np.full(197, 0.05)]
    labels = np.r_[np.zeros(20, int), np.ones(200, int)]
    figures = metrics.measure(two(np.r_[fakes, reals], labels), resamples=0, seed=0)
    assert figures["tpr_at_fpr"] == {"0.01": 0.5, "0.001": None}  # Two of 200 is 1%; at 0.7 it would be three.
    assert "fewer than 1,000 images of the other classes (200)" in figures["undefined"]["tpr_at_fpr.0.001"]
    assert figures["balanced_accuracy"] == pytest.approx((15 / 20 + 197 / 200) / 2)


def test_importing_metrics_loads_neither_tensorflow_nor_matplotlib():
    code = (
        "import sys, trainer.evaluation.metrics; sys.exit('tensorflow' in sys.modules or 'matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_calibration_bins_count_what_the_error_weighs():
    # Confidences 1, 0.6 = 9/15 (the upper edge of its bin), 0.61 and 0.9; the second is wrong.
    p_fake = np.array([1.0, 0.6, 0.39, 0.9])
    labels = np.array([0, 1, 1, 0])
    probabilities = np.stack([p_fake, 1 - p_fake], axis=1)
    bins = calibration_error.bins_of(labels, np.array([0, 0, 1, 0]), probabilities)
    assert {int(bin): int(bins.counts[bin]) for bin in np.flatnonzero(bins.counts)} == {8: 1, 9: 1, 13: 1, 14: 1}
    assert bins.right[[8, 9, 13, 14]].tolist() == [0, 1, 1, 1]
    assert bins.confidence[[8, 9, 13, 14]].tolist() == pytest.approx([0.6, 0.61, 0.9, 1.0])
