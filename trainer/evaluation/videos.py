"""Metrics of whole videos: the mean score of the images of each, as the field reports them besides single frames.

Does not own: which images are of one video (``sources.py``, the layouts), metrics (``metrics/``).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.data.layouts.sources import number
from trainer.data.layouts.split import METHOD, VIDEO, Split
from trainer.evaluation import groups, metrics
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.sources import NONE, Columns, Sources

FIGURES = (*groups.FIGURES, "average_precision")

Ints = npt.NDArray[np.int64]


def numbers(split: Split, sources: Sources) -> Ints | None:
    """Return the video of each image, from 0; None if it is not known of any.

    A source can hold several: the images of one identity, of one class and one method, count as one video then.
    """
    if VIDEO in split.columns:
        keys = [value or f"\0{place}" for place, value in enumerate(split.columns[VIDEO])]
    elif sources.numbers is not None:
        keys = [str(value) for value in sources.numbers.tolist()]
    else:
        return None
    methods = split.columns.get(METHOD, [""] * len(split))
    rows = zip(keys, split.labels.tolist(), methods, strict=True)
    return number([f"{key}\0{label}\0{method}" for key, label, method in rows])


def measure(
    predictions: Predictions, videos: Ints, columns: Columns, sources: Sources, *, resamples: int, seed: int
) -> dict[str, Any]:
    """Return ``n`` videos, the ``FIGURES`` with their ``ci95`` and ``undefined`` reasons, and ``groups`` by column.

    Args:
        predictions: of the images.
        videos: ``[N]``, video of each image, from 0.
        columns: groups, as of ``groups.measure``; a video has the value of its first image.
        sources: the unit of resampling.
        resamples: bootstrap resamples; 0: no intervals.
        seed: of the resamples.
    """
    _, first, count = np.unique(videos, return_index=True, return_counts=True)
    sums = np.zeros((len(first), predictions.probabilities.shape[1]))
    np.add.at(sums, videos, predictions.probabilities)
    whole = Predictions(
        predictions.class_names, predictions.positive, predictions.threshold, predictions.labels[first],
        sums / count[:, None],
    )  # fmt: skip
    units = sources.select(first)
    figures = metrics.measure(whole, resamples=resamples, seed=seed, sources=units.numbers)
    by_video = {name: _at(values, first) for name, values in columns.items()}
    result = {"n": len(first), **groups.subset(figures, FIGURES)}
    if by_video:
        result["groups"] = groups.measure(whole, by_video, units, resamples=resamples, seed=seed)
    return result


def _at(values: Sequence[str], places: Ints) -> list[str]:
    return [values[place] or NONE for place in places.tolist()]
