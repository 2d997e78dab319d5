"""All metrics of predictions, as ``metrics.json`` has them, and the three that training watches.

Does not own: any metric (the other files), where predictions come from, pages.  Imports neither TensorFlow nor file
access.

Shapes: ``labels [N]`` integers that index ``class_names``; ``probabilities [N, C]`` in [0, 1], rows that sum
to 1; ``positive`` is the index of the class (Fake) that ranking metrics hold against all others.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.evaluation import bootstrap
from trainer.evaluation.metrics import by_class, ranking, registry
from trainer.evaluation.metrics.metric import Floats, Resamples, Undefined
from trainer.evaluation.metrics.probability_scores import cross_entropy
from trainer.evaluation.metrics.scikit import sk
from trainer.evaluation.predictions import Predictions

Ints = npt.NDArray[np.int64]


def validation_summary(
    labels: npt.NDArray[np.integer[Any]], probabilities: npt.NDArray[np.floating[Any]], positive: int
) -> dict[str, float | None]:
    """Return the three metrics that training watches, in float64.

    Args:
        labels: ``[N]``, N >= 1.
        probabilities: ``[N, C]`` softmax output.
        positive: index of the positive class.

    Returns:
        ``loss``: mean cross-entropy (natural logarithm, probabilities clipped to [1e-7, 1 - 1e-7] as
        Keras does), NaN if a probability is; ``accuracy``: share of images whose largest probability is
        their class's; ``auc``: area under the ROC curve of positive against rest, None where it is
        undefined.
    """
    scores = np.asarray(probabilities, np.float64)
    truth = np.asarray(labels, np.int64)
    is_positive = truth == positive
    undefined = ranking.why_no_ranking(is_positive, scores[:, positive])
    return {
        "loss": float(cross_entropy(truth, scores).mean()),
        "accuracy": float((scores.argmax(axis=1) == truth).mean()),
        "auc": None if undefined else float(sk().roc_auc_score(is_positive, scores[:, positive])),
    }


def measure(predictions: Predictions, *, resamples: int, seed: int, sources: Ints | None = None) -> dict[str, Any]:
    """Return all metrics of a split, ready for JSON: None where undefined, and why under ``undefined``.

    ``confusion_matrix[i][j]`` counts images of class i with answer j.  ``macro`` averages ``per_class`` with equal
    weight for each class.  What each registered metric means, its file says.

    Args:
        predictions: at least one image.
        resamples: bootstrap resamples for ``ci95``; 0 leaves the intervals out.
        seed: of the resamples.
        sources: ``[N]``, the source of each image if whole sources are to be resampled; see ``bootstrap.intervals``.
    """
    classes = len(predictions.class_names)
    values = {name: metric.value(predictions) for name, metric in registry.of_classes(classes).items()}
    undefined: dict[str, str] = {}
    figures: dict[str, Any] = {}
    _put(figures, values, (name for name in registry.ABOVE_CLASSES if name in values), undefined)
    figures["threshold"] = predictions.threshold
    matrix = sk().confusion_matrix(predictions.labels, predictions.predicted, labels=list(range(classes)))
    figures["confusion_matrix"] = matrix.tolist()
    figures["per_class"], figures["macro"] = by_class.measure(predictions, undefined)
    _put(figures, values, (name for name in values if name not in registry.ABOVE_CLASSES), undefined)
    figures["ci95"] = _intervals(predictions, undefined, resamples, seed, sources)
    figures["n"] = len(predictions.labels)
    figures["undefined"] = undefined
    return figures


def _put(
    figures: dict[str, Any],
    values: Mapping[str, float | Undefined],
    names: Iterable[str],
    undefined: dict[str, str],
) -> None:
    """Add named values to ``figures``, ``a.b`` to the object ``a``; reasons go to ``undefined``."""
    for name in names:
        value = values[name]
        if isinstance(value, Undefined):
            undefined[name] = value.reason
        group, _, inner = name.partition(".")
        place = figures.setdefault(group, {}) if inner else figures
        place[inner or group] = None if isinstance(value, Undefined) else value


def by_name(figures: Mapping[str, Any], name: str) -> float | None:
    """Return a metric's value by its name in ``ci95``, such as ``tpr_at_fpr.0.01``."""
    group, _, inner = name.partition(".")
    value: float | None = figures[group][inner] if inner else figures[name]
    return value


def resampled(predictions: Predictions) -> bootstrap.Figures:
    """Return what gives the metrics of ``ci95`` under counts ``[R, N]`` of how often each image was drawn."""
    metrics = registry.of_classes(len(predictions.class_names))
    names = registry.ordered(metrics, registry.IN_INTERVALS)
    per_image: dict[Callable[..., Any], Any] = {}

    def figures(counts: Floats) -> dict[str, Floats]:
        block = Resamples(predictions, counts, per_image)
        return {name: metrics[name].resampled(block) for name in names}

    return figures


def _intervals(
    predictions: Predictions, undefined: dict[str, str], resamples: int, seed: int, sources: Ints | None
) -> dict[str, list[float] | None]:
    """Return bootstrap intervals; None for undefined metrics, and for all with one image or no resamples."""
    images = len(predictions.labels)
    units = images if sources is None else len(np.unique(sources))
    names = registry.ordered(registry.of_classes(len(predictions.class_names)), registry.IN_INTERVALS)
    intervals: dict[str, list[float] | None] = dict.fromkeys(names)
    reason = "no resamples were asked for"
    if resamples and units > 1:
        reason = "no resample held every class"
        intervals = bootstrap.intervals(resampled(predictions), images, resamples=resamples, seed=seed, sources=sources)
    elif units == 1:
        reason = "there is one image only" if images == 1 else "all images are of one source"
    for name in names:
        if name in undefined:
            intervals[name] = None
        if intervals[name] is None:
            undefined[f"ci95.{name}"] = undefined.get(name, reason)
    return intervals
