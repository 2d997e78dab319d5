"""Percentile bootstrap intervals of metrics over images, or over whole sources of images.

A resample is a vector of how often each image was drawn, so that a mean is one matrix product and a ranking metric one
cumulative sum over the images sorted once by score: 1000 resamples of 10000 images take a few seconds.
Owns: drawing resamples, and percentiles.  Does not own: the metrics under such counts (``metrics/``).
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Figures = Callable[[Floats], Mapping[str, Floats]]  # From counts [R, N] to values [R] by name; NaN where undefined.

_ELEMENTS_AT_ONCE = 2_000_000  # Bounds memory: resamples times images held at a time.


def intervals(
    figures: Figures, images: int, *, resamples: int, seed: int, sources: Ints | None = None
) -> dict[str, list[float] | None]:
    """Return the 95% percentile interval of each metric (Efron and Tibshirani 1993, chapter 13).

    Args:
        figures: measures resamples.
        images: N, at least 1.
        resamples: number of resamples, at least 1.
        seed: of the resamples.
        sources: ``[N]``, the number (from 0) of each image's source; whole sources are then drawn with replacement,
            because the images of one video are not independent (Davison and Hinkley 1997, section 3.8).  None draws
            single images.

    Returns:
        ``[low, high]`` by name.  Resamples that do not define a metric (they hold one class only) are left out; None
        if none is left.
    """
    blocks: dict[str, list[Floats]] = {}
    units = images if sources is None else int(sources.max()) + 1
    for counts in _resample(units, images, resamples, seed):
        for name, values in figures(counts if sources is None else counts[:, sources]).items():
            blocks.setdefault(name, []).append(values)
    return {name: _percentiles(np.concatenate(parts)) for name, parts in blocks.items()}


def _resample(units: int, images: int, resamples: int, seed: int) -> Iterator[Floats]:
    """Yield blocks ``[R, U]`` of how often each unit is in each resample, ``resamples`` rows in all."""
    generator = np.random.default_rng(seed)
    rows = max(1, _ELEMENTS_AT_ONCE // images)
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        # One bincount for all rows: row r counts in the range [r * units, (r + 1) * units).
        draws = generator.integers(units, size=(size, units)) + np.arange(size)[:, None] * units
        yield np.bincount(draws.ravel(), minlength=size * units).reshape(size, units).astype(np.float64)


def _percentiles(values: Floats) -> list[float] | None:
    defined = values[np.isfinite(values)]
    if not len(defined):
        return None
    low, high = np.percentile(defined, [2.5, 97.5])
    return [float(low), float(high)]
