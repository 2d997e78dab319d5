"""The importance of each varied setting, with an interval.

A random forest predicts the score from the settings; the importance of a setting is the growth of the forest's error
when its column is shuffled (Breiman 2001), measured on trials that the forest has not seen, over bootstraps of trials.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import RandomForestRegressor

from trainer.sweep.records import Record
from trainer.sweep.space import Parameter, Space

FEWEST_TRIALS = 8
_BOOTSTRAPS = 20
_TREES = 40
_SHUFFLES = 5

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Importance:
    """A setting's importance: growth of the squared error in units of the scores' variance.

    Attributes:
        name: of the setting.
        median: over bootstraps.
        low: 5th percentile.
        high: 95th percentile.
    """

    name: str
    median: float
    low: float
    high: float


def importances(space: Space, records: Sequence[Record], seed: int = 0) -> list[Importance]:
    """Return the importances, largest first; none for fewer than eight scored trials or scores that are all equal."""
    scored = [record for record in records if record.score is not None]
    scores = np.array([record.score for record in scored], np.float64)
    if len(scored) < FEWEST_TRIALS or scores.std() == 0.0:
        return []
    columns = np.array([[encode(one, record) for one in space] for record in scored], np.float64)
    growths = np.array(list(_growths(columns, scores / scores.std(), seed)))
    low, median, high = np.percentile(growths, [5, 50, 95], axis=0)
    rows = [Importance(one.name, *map(float, values)) for one, *values in zip(space, median, low, high, strict=True)]
    return sorted(rows, key=lambda one: -one.median)


def encode(one: Parameter, record: Record) -> float:
    """Return a setting's value as a number: position in a choice, logarithm if searched by it; -1 if unused."""
    value = record.settings.get(one.name)
    if value is None:
        return -1.0
    if one.values:
        return float(one.values.index(value)) if value in one.values else -1.0
    return math.log10(float(value)) if one.log else float(value)


def _growths(columns: Floats, scores: Floats, seed: int) -> "list[Floats]":
    """Return for each bootstrap how much the error grows when each column is shuffled."""
    generator = np.random.default_rng(seed)
    growths: list[Floats] = []
    while len(growths) < _BOOTSTRAPS:
        sample = generator.integers(len(scores), size=len(scores))
        unseen = np.setdiff1d(np.arange(len(scores)), sample)
        if len(unseen) < 2:
            continue
        forest = RandomForestRegressor(_TREES, random_state=int(generator.integers(2**31)))
        forest.fit(columns[sample], scores[sample])
        before = np.square(forest.predict(columns[unseen]) - scores[unseen]).mean()
        after = [
            _shuffled(forest, columns[unseen], scores[unseen], index, generator) for index in range(columns.shape[1])
        ]
        growths.append(np.array(after) - before)
    return growths


def _shuffled(
    forest: RandomForestRegressor, columns: Floats, scores: Floats, index: int, generator: np.random.Generator
) -> float:
    errors = []
    for _ in range(_SHUFFLES):
        mixed = columns.copy()
        mixed[:, index] = generator.permutation(mixed[:, index])
        errors.append(np.square(forest.predict(mixed) - scores).mean())
    return float(np.mean(errors))
