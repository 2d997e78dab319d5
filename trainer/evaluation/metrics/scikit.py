"""scikit-learn's metrics, loaded with the first figure: that takes seconds, for which no first step should wait."""

import functools
from typing import Any


@functools.cache
def sk() -> Any:
    """Return ``sklearn.metrics``."""
    from sklearn import metrics

    return metrics
