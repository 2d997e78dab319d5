"""Intervals of an AUC from the AUC and the counts alone, and what is said of a model that learned nothing."""

import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from trainer.evaluation import bootstrap, chance
from trainer.evaluation.metrics import ranking


def test_the_published_standard_error():
    # Hanley and McNeil 1982: 51 abnormal and 58 normal images, AUC 0.893, standard error 0.032.
    assert chance.standard_error(0.893, 51, 58) == pytest.approx(0.032, abs=0.0006)


def test_the_standard_error_by_hand():
    # Q1 = .8 / 1.2 = 2/3, Q2 = 2 * .64 / 1.8 = .7111; (.16 + 1 * .02667 + 2 * .07111) / (2 * 3) = .05481.
    assert chance.standard_error(0.8, 2, 3) ** 2 == pytest.approx(0.0548148, abs=1e-6)


@pytest.mark.parametrize(("positives", "negatives"), [(3, 3), (15, 15), (40, 200)])
def test_at_chance_it_is_the_mann_whitney_test(positives, negatives):
    deviation = math.sqrt((positives + negatives + 1) / (12 * positives * negatives))
    assert chance.standard_error(0.5, positives, negatives) == pytest.approx(deviation)
    for factor, learned in ((0.99, False), (1.01, True)):
        low, high = chance.interval(0.5 + factor * chance.Z * deviation, positives, negatives)
        assert (low > 0.5) == learned
        low, high = chance.interval(0.5 - factor * chance.Z * deviation, positives, negatives)
        assert (high < 0.5) == learned


@pytest.mark.parametrize("auc", [0.0, 0.3, 0.5, 0.71, 0.95, 1.0])
def test_bounds_are_the_values_that_just_explain_the_auc(auc):
    low, high = chance.interval(auc, 20, 35)
    assert 0.0 <= low <= auc <= high <= 1.0
    for bound in (low, high):
        if 0.0 < bound < 1.0:
            assert abs(auc - bound) == pytest.approx(chance.Z * chance.standard_error(bound, 20, 35), abs=1e-6)
    assert high - low > 0.05  # Also where every image is ranked right.
    # With the classes swapped it is the mirror image.
    assert chance.interval(1 - auc, 35, 20) == pytest.approx((1 - high, 1 - low), abs=1e-6)


@pytest.mark.parametrize("distance", [0.0, 0.5, 1.2])
def test_the_interval_is_near_that_of_the_bootstrap(distance):
    random = np.random.default_rng(3)
    truth = np.arange(260) < 100
    scores = random.normal(size=260) + distance * truth
    low, high = chance.interval(roc_auc_score(truth, scores), 100, 160)
    drawn = bootstrap.intervals(
        lambda counts: {"auc": ranking.resampled_ranking(counts, truth, scores)[:, 0]}, 260, resamples=500, seed=0
    )["auc"]
    assert (low, high) == pytest.approx(drawn, abs=0.02)


def test_no_interval_where_the_auc_is_undefined():
    assert chance.interval(None, 5, 5) is None
    assert chance.interval(0.5, 0, 5) is None
    assert chance.interval(0.5, 5, 0) is None


@pytest.mark.parametrize(
    ("evidence", "learned", "title", "said"),
    [
        (chance.measured(0.8, 50, 50, spread=0.4, dead=0.2), True, "", []),
        (chance.measured(0.8, 50, 50), True, "", []),  # Nothing else is known.
        (chance.measured(0.55, 50, 50), False, "Learned nothing", ["is 0.550", "holds 0.5", "--epochs"]),
        (chance.measured(0.45, 50, 50), False, "Learned nothing", ["holds 0.5"]),
        (chance.measured(0.2, 50, 50), False, "Learned the opposite", ["is below 0.5", "are swapped"]),
        (chance.measured(None, 50, 0), False, "Nothing shows that it learned", ["of one class", "images of both"]),
        (chance.measured(None, 50, 50), False, "Learned nothing", ["the same score"]),
        (chance.measured(None, 50, 50, spread=0.0), False, "Learned nothing", ["answers a constant", "by 0 at most"]),
        (chance.measured(0.9, 50, 50, spread=9e-4), False, "Learned nothing", ["answers a constant", "0.0009"]),
        (chance.measured(0.9, 50, 50, spread=0.1, dead=0.71), True, "Learned with a part of", ["71%", "warmup"]),
        (chance.measured(0.5, 50, 50, spread=0.1, dead=0.71), False, "Learned nothing", ["71%", "holds 0.5"]),
    ],
)
def test_what_is_said(evidence, learned, title, said):
    assessment = chance.assess(evidence, "Validation")
    assert assessment.learned == learned
    assert bool(assessment.because) == (not learned)
    assert assessment.warning.startswith(title)
    assert bool(assessment.warning) == bool(said)
    assert "\n" not in assessment.warning
    for words in said:
        assert words in assessment.warning
    assert learned or assessment.because in assessment.warning


@pytest.mark.parametrize(
    ("auc", "positives", "negatives", "expected"),
    [
        (0.5, 50, 50, True),
        (0.551, 250, 250, False),  # Its interval is .501 to .601.
        (0.549, 250, 250, True),
        (0.449, 250, 250, False),  # It has learned something, if the wrong way round.
        (0.6, 10, 10, True),
        (0.6, 1000, 1000, False),
        (1.0, 1, 1, True),  # Two images prove nothing.
        (None, 0, 8, False),
    ],
)
def test_an_auc_whose_interval_holds_one_half_is_chance(auc, positives, negatives, expected):
    assert chance.is_at_chance(auc, positives, negatives) is expected
