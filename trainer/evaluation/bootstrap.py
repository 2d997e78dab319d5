"""Percentile bootstrap intervals of figures over images.

A resample is a vector of how often each image was drawn, so means are one matrix product and ranking
figures one cumulative sum over the images sorted once by score: 1000 resamples of 10000 images take a few
seconds.
Owns: resampling and the figures under such counts.  Does not own: the figures of the whole split
(``metrics.py``), which the same functions give for counts of one (a test compares them).
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Figures = Callable[[Floats], Mapping[str, Floats]]  # From counts [R, N] to values [R] by name; NaN where undefined.

FPR_LIMITS = (0.01, 0.001)
AT_FPR = {f"tpr_at_fpr.{limit:g}": limit for limit in FPR_LIMITS}
RANKED = ("auc", "average_precision", "eer", *AT_FPR)
_ELEMENTS_AT_ONCE = 2_000_000  # Bounds memory: resamples times images held at a time.


def intervals(
    figures: Figures, images: int, *, resamples: int, seed: int, sources: Ints | None = None
) -> dict[str, list[float] | None]:
    """Return the 95% percentile interval of each figure (Efron and Tibshirani 1993, chapter 13).

    Args:
        figures: what is measured of each resample.
        images: N, at least 1.
        resamples: how many are drawn, at least 1.
        seed: of the draws.
        sources: ``[N]``, which source (0 up to their number) each image is of; whole sources are drawn with
            replacement then, as the images of one video are not independent (Davison and Hinkley 1997,
            section 3.8).  None draws images.

    Returns:
        ``[low, high]`` for each name; resamples that do not define a figure (they hold one class only) say nothing
        about it and are left out; None if none is left.
    """
    drawn: dict[str, list[Floats]] = {}
    for counts in _resample(images if sources is None else int(sources.max()) + 1, images, resamples, seed):
        for name, values in figures(counts if sources is None else counts[:, sources]).items():
            drawn.setdefault(name, []).append(values)
    return {name: _percentiles(np.concatenate(parts)) for name, parts in drawn.items()}


def _resample(units: int, images: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield ``[R, U]`` counts of each unit in each resample, ``resamples`` rows in all."""
    generator = np.random.default_rng(seed)
    rows = max(1, _ELEMENTS_AT_ONCE // images)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = generator.integers(units, size=(size, units)) + np.arange(size)[:, None] * units
        yield np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)


def mean_figures(counts: Floats, per_image: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return the means ``[R]`` of values of each image ``[N]``, such as its log loss."""
    return {name: counts @ values / counts.sum(axis=1) for name, values in per_image.items()}


def balanced_accuracy(counts: Floats, labels: Ints, right: Floats, classes: int) -> Floats:
    """Return ``[R]``: the mean over the classes of the share of their images called right; NaN if one is missing."""
    of_class = np.eye(classes)[labels]
    with np.errstate(invalid="ignore", divide="ignore"):
        recalls = (counts @ (of_class * right[:, None])) / (counts @ of_class)
    return np.asarray(recalls.mean(axis=1), np.float64)


def ranking_figures(counts: Floats, is_positive: npt.NDArray[np.bool_], scores: Floats) -> Floats:
    """Return ``[R, len(RANKED)]``: the figures of ``RANKED`` with image i counted ``counts[r, i]`` times.

    NaN where a row counts one class only.  Equal scores are one threshold, as in scikit-learn.
    """
    order = np.argsort(-scores, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])  # of each run of equal scores
    ranked = counts[:, order]
    here = np.add.reduceat(ranked * is_positive[order], first, axis=1)
    false_here = np.add.reduceat(ranked, first, axis=1) - here
    hits, alarms = here.cumsum(axis=1), false_here.cumsum(axis=1)
    positives, negatives = hits[:, -1:], alarms[:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        # A negative is beaten by the positives above it and ties with half of those beside it (Mann-Whitney).
        auc = (false_here * (hits - here / 2)).sum(axis=1, keepdims=True) / (positives * negatives)
        precision = hits / np.maximum(hits + alarms, 1.0)
        average_precision = (here * precision).sum(axis=1, keepdims=True) / positives
        eer = _equal_error_rates(alarms / negatives, 1.0 - hits / positives)
        found = [_found_within(hits / positives, alarms / negatives, limit) for limit in FPR_LIMITS]
    figures = np.concatenate([auc, average_precision, eer, *found], axis=1)
    figures[((positives == 0) | (negatives == 0))[:, 0]] = np.nan
    return np.asarray(figures, np.float64)


def _equal_error_rates(false_positive: Floats, false_negative: Floats) -> Floats:
    """Return ``[R, 1]``: where two rates ``[R, K]`` cross, joined by lines; K thresholds, strictest first."""
    strictest = np.zeros([len(false_positive), 1])
    false_positive = np.concatenate([strictest, false_positive], axis=1)
    false_negative = np.concatenate([strictest + 1.0, false_negative], axis=1)
    gap = false_negative - false_positive  # Falls from 1 to -1.
    after = np.argmax(gap <= 0, axis=1)[:, None]
    gap_after, gap_before = np.take_along_axis(gap, after, 1), np.take_along_axis(gap, after - 1, 1)
    rate_after = np.take_along_axis(false_positive, after, 1)
    rate_before = np.take_along_axis(false_positive, after - 1, 1)
    share = gap_before / (gap_before - gap_after)
    return np.asarray(rate_before + share * (rate_after - rate_before), np.float64)


def _found_within(true_positive: Floats, false_positive: Floats, limit: float) -> Floats:
    """Return ``[R, 1]``: the largest rate ``[R, K]`` found with false alarms up to ``limit``; 0 with none."""
    allowed = (false_positive <= limit).sum(axis=1)[:, None]  # Both rates grow with K.
    return np.where(allowed > 0, np.take_along_axis(true_positive, np.maximum(allowed - 1, 0), 1), 0.0)


def _percentiles(values: Floats) -> list[float] | None:
    defined = values[np.isfinite(values)]
    if not len(defined):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return [float(low), float(high)]
