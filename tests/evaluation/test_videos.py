"""Figures of each method of forging against all real images, and of whole videos."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from trainer.data.layouts.split import Split
from trainer.evaluation import groups, sources, videos
from trainer.evaluation.predictions import Predictions

METHODS = ["", "", "", "", "swap", "swap", "gan", "gan"]
SCORES = np.array([0.1, 0.3, 0.6, 0.2, 0.9, 0.7, 0.25, 0.55])
SOURCES = ["a", "a", "b", "b", "a", "a", "b", "b"]


def split(**columns):
    labels = np.array([0 if method == "" else 1 for method in METHODS], np.int32)
    names = [f"{number}.png" for number in range(8)]
    return Split("Test", "", ("Real", "Fake"), names, labels, columns=columns)


def predictions():
    probabilities = np.stack([1 - SCORES, SCORES], axis=1)
    return Predictions.of(split().labels, probabilities, ("Real", "Fake"), 1, 0.5)


def auc(fakes, reals):
    return roc_auc_score([1] * len(fakes) + [0] * len(reals), [*fakes, *reals])


def test_each_method_is_measured_against_all_real_images():
    one = split(method=METHODS)
    columns = sources.columns_of(one)
    unit = sources.sources_of("none", one, columns)
    found = {
        group["value"]: group for group in groups.measure(predictions(), columns, unit, resamples=0, seed=0)["method"]
    }
    assert found["swap"]["auc"] is None
    assert found["swap"]["against_rest"]["auc"] == pytest.approx(auc(SCORES[4:6], SCORES[:4]))
    assert found["gan"]["against_rest"]["auc"] == pytest.approx(auc(SCORES[6:], SCORES[:4]))
    assert found["gan"]["against_rest"]["n"] == 4
    assert "against_rest" not in found["(none)"]


def test_videos_are_the_means_of_their_images():
    one = split(source=SOURCES, method=METHODS)
    columns = sources.columns_of(one)
    unit = sources.sources_of("auto", one, columns)
    assert unit.describe(8) == {"unit": "sources", "count": 2, "rule": "column source of the data"}
    numbers = videos.numbers(one, unit)
    assert numbers.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]  # An identity's real and forged images are other videos.
    found = videos.measure(predictions(), numbers, columns, unit, resamples=20, seed=0)
    means = SCORES.reshape(4, 2).mean(axis=1)
    assert found["n"] == 4
    assert found["auc"] == pytest.approx(auc(means[2:], means[:2]))
    by_method = {group["value"]: group for group in found["groups"]["method"]}
    assert by_method["gan"]["against_rest"]["auc"] == pytest.approx(auc(means[3:], means[:2]))
    assert videos.numbers(split(video=["v"] * 8), unit).tolist() == [0] * 4 + [1] * 4
    assert videos.numbers(split(), sources.sources_of("none", split(), {})) is None


def test_a_column_of_the_data_is_the_unit_unless_a_table_says_otherwise():
    one = split(source=SOURCES)
    assert sources.sources_of("source", one, {}).numbers.tolist() == [0, 0, 1, 1, 0, 0, 1, 1]
    table = {"video": ["x"] * 8}
    assert sources.sources_of("auto", one, table).rule == "column video of the groups table"
    assert sources.sources_of("none", one, {}).numbers is None
