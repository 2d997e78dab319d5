"""The socket for a metric: its name and words, its value, and its value on bootstrap resamples.

Owns: what a metric declares, and sharing work between metrics.  Does not own: any metric, which ones there are
(``registry.py``).  Imports neither TensorFlow nor matplotlib.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from trainer.evaluation.predictions import Predictions

Floats = npt.NDArray[np.float64]
T = TypeVar("T")

SHARE = "share"  # The unit of a value in [0, 1] that is shown as a percentage.


@dataclasses.dataclass(frozen=True)
class Undefined:
    """The result of a metric that these images cannot define; ``reason`` completes "undefined, because ..."."""

    reason: str


class Resamples:
    """Bootstrap resamples of some predictions.

    Attributes:
        predictions: the ``N`` images.
        counts: ``[R, N]``, how often each image is in each resample.
    """

    def __init__(
        self, predictions: Predictions, counts: Floats, per_image: dict[Callable[..., Any], Any] | None = None
    ) -> None:
        """Wrap one block of resamples; ``per_image``, shared by all blocks, keeps what ``of_images`` has computed."""
        self.predictions = predictions
        self.counts = counts
        self._per_image = {} if per_image is None else per_image
        self._shared: dict[Callable[..., Any], Any] = {}

    def of_images(self, function: Callable[[Predictions], T]) -> T:
        """Return ``function(predictions)``, computed once for all blocks of resamples."""
        if function not in self._per_image:
            self._per_image[function] = function(self.predictions)
        value: T = self._per_image[function]
        return value

    def once(self, function: Callable[["Resamples"], T]) -> T:
        """Return ``function(self)``, computed once for all metrics that share it."""
        if function not in self._shared:
            self._shared[function] = function(self)
        value: T = self._shared[function]
        return value

    def mean(self, function: Callable[[Predictions], Floats]) -> Floats:
        """Return the mean ``[R]`` of a value of each image ``[N]``, such as its log loss."""
        return np.asarray(self.counts @ self.of_images(function) / self.counts.sum(axis=1), np.float64)


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number about a split: what it is, how it is computed and how it is shown.

    Attributes:
        name: its key in ``metrics.json``, ``ci95`` and ``compare.json``; ``a.b`` is key ``b`` of the object ``a``.
        value: of predictions (at least one image); ``Undefined`` where they do not define it.
        resampled: ``[R]`` values on resamples; NaN where a resample does not define it.  With counts of one it must
            equal ``value`` (a test checks all metrics).
        title: a few words for tables.
        meaning: a sentence or two for the report; ``{positive}`` and ``{rest}`` stand for the classes.
        unit: ``SHARE``, or a word such as nats; empty if it has none.
        lower_is_better: decides the verdict of a comparison.
        fewest_classes: the metric is left out for models with fewer classes.
        tile: whether it is among the large numbers at the top of the report.
        console: its name in the summary that the command prints; empty leaves it out.
    """

    name: str
    value: Callable[[Predictions], float | Undefined]
    resampled: Callable[[Resamples], Floats]
    title: str
    meaning: str
    unit: str = ""
    lower_is_better: bool = False
    fewest_classes: int = 2
    tile: bool = False
    console: str = ""

    @property
    def is_share(self) -> bool:
        """Whether it is shown as a percentage."""
        return self.unit == SHARE
