"""All metrics, found in the modules of this package: a new file with a tuple ``METRICS`` is all that one takes.

Owns: which metrics there are, and their order in files and tables.  Does not own: the metrics.
"""

import functools
import importlib
import pkgutil
from collections.abc import Iterable, Mapping

from trainer.evaluation.metrics.metric import Metric

_PACKAGE = __name__.rpartition(".")[0]
_HELPERS = frozenset({"by_class", "metric", "registry", "scikit", "summary"})  # Modules that define no metric.

# The orders of the first metrics, which files and pages keep.  Metrics that an order does not name follow by name.
IN_TABLES = (
    "accuracy", "auc", "average_precision", "eer", "balanced_accuracy", "macro.auc",
    "tpr_at_fpr.0.01", "tpr_at_fpr.0.001", "log_loss", "brier", "ece",
)  # fmt: skip
ABOVE_CLASSES = (  # In metrics.json, above confusion_matrix and per_class; all others stand below.
    "accuracy", "log_loss", "brier", "auc", "average_precision", "eer", "tpr_at_fpr.0.01", "tpr_at_fpr.0.001", "ece",
)  # fmt: skip
IN_INTERVALS = (
    "accuracy", "log_loss", "brier", "ece", "balanced_accuracy", "auc", "average_precision", "eer",
    "tpr_at_fpr.0.01", "tpr_at_fpr.0.001", "macro.auc",
)  # fmt: skip


@functools.cache
def all_metrics() -> Mapping[str, Metric]:
    """Return all metrics by name, in the order of tables.

    Raises:
        ValueError: if a module of the package has no ``METRICS``, or two metrics have one name.
    """
    by_name: dict[str, Metric] = {}
    for module in pkgutil.iter_modules(importlib.import_module(_PACKAGE).__path__):
        if module.name not in _HELPERS:
            for metric in _metrics_of(f"{_PACKAGE}.{module.name}"):
                if metric.name in by_name:
                    raise ValueError(f"{module.name}: expected a new name of a metric, received {metric.name!r} again")
                by_name[metric.name] = metric
    return {name: by_name[name] for name in ordered(by_name, IN_TABLES)}


def _metrics_of(module: str) -> tuple[Metric, ...]:
    declared = getattr(importlib.import_module(module), "METRICS", None)
    if not isinstance(declared, tuple) or not all(isinstance(metric, Metric) for metric in declared):
        raise ValueError(f"{module}: expected METRICS, a tuple of Metric, received {declared!r}")
    return declared


def ordered(names: Iterable[str], first: tuple[str, ...]) -> list[str]:
    """Return the names that ``first`` holds in its order, then the others by name."""
    places = {name: place for place, name in enumerate(first)}
    return sorted(names, key=lambda name: (places.get(name, len(first)), name))


def of_classes(count: int) -> dict[str, Metric]:
    """Return the metrics of a model with ``count`` classes by name, in the order of tables."""
    return {name: metric for name, metric in all_metrics().items() if metric.fewest_classes <= count}
