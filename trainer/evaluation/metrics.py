"""Every figure about predictions: what it means, when it is undefined; scikit-learn computes what it has.

Does not own: where predictions come from, intervals (``bootstrap.py``), pages.  Knows neither TensorFlow nor files.

Shapes: ``labels [N]`` integers that index ``class_names``; ``probabilities [N, C]`` in [0, 1], rows that sum
to 1; ``positive`` is the index of the class (Fake) that ranking figures hold against all others.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

from trainer.evaluation import bootstrap, calibration_error, ranking
from trainer.evaluation.predictions import Predictions

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

# Keras clips probabilities at its backend epsilon before the logarithm; with the same floor here,
# log_loss of a split and the loss seen in training are the same figure.
EPSILON = 1e-7


def validation_summary(
    labels: npt.NDArray[np.integer[Any]], probabilities: npt.NDArray[np.floating[Any]], positive: int
) -> dict[str, float | None]:
    """Return the three figures that training watches, in float64.

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
        "auc": None if undefined else float(sk.roc_auc_score(is_positive, scores[:, positive])),
    }


def measure(scored: Predictions, *, resamples: int, seed: int, sources: Ints | None = None) -> dict[str, Any]:
    """Return all figures of a split, ready for JSON: None where undefined, and why under ``undefined``.

    ``auc``, ``average_precision``, ``eer`` and ``tpr_at_fpr`` (``ranking.py``) are of the positive class against
    the rest; all others are over all classes.  ``log_loss`` equals scikit-learn's on probabilities clipped to
    [1e-7, 1 - 1e-7] (natural logarithm).  ``brier`` is the mean squared distance to the one-hot truth (Brier
    1950), halved for two classes so that it is the mean of (p_fake - is_fake)^2, as scikit-learn scales it.
    ``confusion_matrix[i][j]`` counts images of class i that were called j.  ``macro`` averages ``per_class`` with
    equal weight for each class (``balanced_accuracy`` is its recall), and with more than two classes the AUC of
    each class against the rest.

    Args:
        scored: at least one image.
        resamples: bootstrap resamples for ``ci95``; 0 leaves the intervals out.
        seed: of the resamples.
        sources: ``[N]``, the source of each image if whole sources are to be drawn; see ``bootstrap.intervals``.
    """
    undefined: dict[str, str] = {}
    figures: dict[str, Any] = {
        "accuracy": float((scored.predicted == scored.labels).mean()),
        "log_loss": float(cross_entropy(scored.labels, scored.probabilities).mean()),
        "brier": float(squared_distance(scored.labels, scored.probabilities).mean()),
    }
    ranked = ranking.measure(scored.is_positive, scored.p_fake, undefined)
    figures |= {name: value for name, value in ranked.items() if name not in bootstrap.AT_FPR}
    figures["tpr_at_fpr"] = {f"{limit:g}": ranked[name] for name, limit in bootstrap.AT_FPR.items()}
    figures["ece"] = calibration_error.error(scored.labels, scored.predicted, scored.probabilities)
    figures["threshold"] = scored.threshold
    matrix = sk.confusion_matrix(scored.labels, scored.predicted, labels=list(range(len(scored.class_names))))
    figures["confusion_matrix"] = matrix.tolist()
    figures["per_class"], figures["macro"] = _by_class(scored, undefined)
    figures["balanced_accuracy"] = figures["macro"]["recall"]
    if figures["balanced_accuracy"] is None:
        undefined["balanced_accuracy"] = _missing(scored)
    if len(scored.class_names) > 2:
        figures["macro"]["auc"] = _macro_auc(scored, undefined)
    figures["ci95"] = _intervals(scored, undefined, resamples, seed, sources)
    figures["n"] = len(scored.labels)
    figures["undefined"] = undefined
    return figures


def by_name(figures: Mapping[str, Any], name: str) -> float | None:
    """Return a figure by its name in ``ci95``, such as ``tpr_at_fpr.0.01``."""
    group, _, inner = name.partition(".")
    value: float | None = figures[group][inner] if inner else figures[name]
    return value


def cross_entropy(labels: Ints, probabilities: Floats) -> Floats:
    """Return ``[N]`` in nats: minus the logarithm of the true class's probability, clipped as Keras does."""
    chosen = probabilities[np.arange(len(labels)), labels]
    return np.asarray(-np.log(np.clip(chosen, EPSILON, 1.0 - EPSILON)), np.float64)


def squared_distance(labels: Ints, probabilities: Floats) -> Floats:
    """Return ``[N]``: squared distance to the one-hot truth, halved for two classes (Brier 1950)."""
    truth = np.eye(probabilities.shape[1])[labels]
    halves = 2.0 if probabilities.shape[1] == 2 else 1.0
    return np.asarray(((probabilities - truth) ** 2).sum(axis=1) / halves, np.float64)


def _by_class(
    scored: Predictions, undefined: dict[str, str]
) -> tuple[dict[str, dict[str, Any]], dict[str, float | None]]:
    """Return precision, recall, F1 and images of each class, and their plain averages over the classes."""
    names = scored.class_names
    columns = sk.precision_recall_fscore_support(
        scored.labels, scored.predicted, labels=list(range(len(names))), zero_division=np.nan
    )
    reasons = {
        "precision": "no image was called {}",
        "recall": "there is no image of {}",
        "f1": "there is no image of {}, and none was called so",
    }
    per_class: dict[str, dict[str, Any]] = {name: {} for name in names}
    macro: dict[str, float | None] = {}
    for figure, values in zip(reasons, columns, strict=False):
        for name, value in zip(names, values, strict=True):
            per_class[name][figure] = _number(value)
            if np.isnan(value):
                undefined[f"per_class.{name}.{figure}"] = reasons[figure].format(name)
        macro[figure] = _number(np.mean(values))
        if macro[figure] is None:
            undefined[f"macro.{figure}"] = f"{figure} of a class is undefined"
    for name, count in zip(names, columns[3], strict=True):
        per_class[name]["n"] = int(count)
    return per_class, macro


def _number(value: Any) -> float | None:
    return None if np.isnan(value) else float(value)


def _missing(scored: Predictions) -> str:
    """Return which classes have no image, as a reason; empty if all have some."""
    counts = np.bincount(scored.labels, minlength=len(scored.class_names))
    missing = [name for name, count in zip(scored.class_names, counts, strict=True) if not count]
    return f"there is no image of {' and '.join(missing)}" if missing else ""


def _macro_auc(scored: Predictions, undefined: dict[str, str]) -> float | None:
    """Return the mean over the classes of the AUC of each against the rest (Provost and Domingos 2000)."""
    for label, name in enumerate(scored.class_names):
        reason = _missing(scored) or ranking.why_no_ranking(scored.labels == label, scored.probabilities[:, label])
        if reason:
            undefined["macro.auc"] = f"the AUC of {name} is: {reason}"
            return None
    truth = np.eye(len(scored.class_names))[scored.labels]
    return float(sk.roc_auc_score(truth, scored.probabilities, average="macro"))


def resampled(scored: Predictions) -> bootstrap.Figures:
    """Return what gives the figures of ``ci95`` under counts ``[R, N]`` of how often each image was drawn."""
    right = (scored.predicted == scored.labels).astype(np.float64)
    per_image = {
        "accuracy": right,
        "log_loss": cross_entropy(scored.labels, scored.probabilities),
        "brier": squared_distance(scored.labels, scored.probabilities),
    }
    gaps = calibration_error.gaps(scored.labels, scored.predicted, scored.probabilities)
    classes = len(scored.class_names)

    def figures(counts: Floats) -> dict[str, Floats]:
        values = bootstrap.mean_figures(counts, per_image)
        values["ece"] = calibration_error.errors(counts, gaps)
        values["balanced_accuracy"] = bootstrap.balanced_accuracy(counts, scored.labels, right, classes)
        ranked = bootstrap.ranking_figures(counts, scored.is_positive, scored.p_fake)
        values |= dict(zip(bootstrap.RANKED, ranked.T, strict=True))
        if classes > 2:
            aucs = [
                bootstrap.ranking_figures(counts, scored.labels == label, scored.probabilities[:, label])[:, 0]
                for label in range(classes)
            ]
            values["macro.auc"] = np.mean(aucs, axis=0)
        return values

    return figures


def _intervals(
    scored: Predictions, undefined: dict[str, str], resamples: int, seed: int, sources: Ints | None
) -> dict[str, list[float] | None]:
    """Return bootstrap intervals; None for undefined figures, and for all with one image or no resamples."""
    figures, images = resampled(scored), len(scored.labels)
    drawable = images if sources is None else len(np.unique(sources))
    names = list(figures(np.ones([1, images])))
    found: dict[str, list[float] | None] = dict.fromkeys(names)
    reason = "no resamples were asked for"
    if resamples and drawable > 1:
        reason = "no resample held every class"
        found = bootstrap.intervals(figures, images, resamples=resamples, seed=seed, sources=sources)
    elif drawable == 1:
        reason = "there is one image only" if images == 1 else "all images are of one source"
    for name in names:
        if name in undefined:
            found[name] = None
        if found[name] is None:
            undefined[f"ci95.{name}"] = undefined.get(name, reason)
    return found
