"""Metrics of the order of the scores alone: AUC, average precision, equal error rate, detection at few false alarms.

All hold the positive class against the rest, but the last: the mean over the classes of the AUC of each.
Owns: their values, when they are undefined, and the same on resamples (a test compares both).
"""

import functools
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from trainer.evaluation.metrics import by_class
from trainer.evaluation.metrics.metric import SHARE, Floats, Metric, Resamples, Undefined
from trainer.evaluation.metrics.scikit import sk
from trainer.evaluation.predictions import Predictions

Bools = npt.NDArray[np.bool_]

FPR_LIMITS = (0.01, 0.001)
AT_FPR = {f"tpr_at_fpr.{limit:g}": limit for limit in FPR_LIMITS}
RANKED = ("auc", "average_precision", "eer", *AT_FPR)  # The columns of ``resampled_ranking``.


def why_no_ranking(is_positive: Bools, scores: Floats) -> str:
    """Return why ROC and precision-recall metrics are undefined here; empty if they are defined."""
    if len(scores) == 1:
        return "there is one image only"
    if not np.isfinite(scores).all():
        return "a score is not a number"
    if is_positive.all() or not is_positive.any():
        return f"all images are of {'the positive class' if is_positive.all() else 'the other classes'}"
    if scores.min() == scores.max():
        return "all images have the same score, so nothing is ranked"
    return ""


def equal_error_rate(is_positive: Bools, scores: Floats) -> float:
    """Return the rate at which misses equal false alarms, in [0, 1]; both classes must be present.

    The crossing of scikit-learn's ``roc_curve``, joined by straight lines, with the diagonal FNR = FPR:
    between two neighbouring thresholds the rates of a detector that chooses at random between the two
    (Fawcett 2006, "An introduction to ROC analysis", section 10).
    """
    false_positive, true_positive, _ = sk().roc_curve(is_positive, scores)
    gap = (1.0 - true_positive) - false_positive  # Falls from 1 to -1.
    after = int(np.argmax(gap <= 0))
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(false_positive[after - 1] + share * (false_positive[after] - false_positive[after - 1]))


def detection_rate(is_positive: Bools, scores: Floats, limit: float) -> float:
    """Return the largest true positive rate of scikit-learn's ``roc_curve`` whose false positive rate is <= limit."""
    false_positive, true_positive, _ = sk().roc_curve(is_positive, scores, drop_intermediate=False)
    return float(true_positive[false_positive <= limit].max())


def resampled_ranking(counts: Floats, is_positive: Bools, scores: Floats) -> Floats:
    """Return ``[R, len(RANKED)]``: the metrics of ``RANKED`` with image i counted ``counts[r, i]`` times.

    NaN where a row counts one class only.  Equal scores are one threshold, as in scikit-learn.
    """
    # Sort once for all resamples; a run of equal scores is one threshold.
    order = np.argsort(-scores, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    ranked = counts[:, order]
    hits_here = np.add.reduceat(ranked * is_positive[order], first, axis=1)
    alarms_here = np.add.reduceat(ranked, first, axis=1) - hits_here
    # Hits and false alarms at each threshold, strictest first: the ROC curves of all resamples.
    hits, alarms = hits_here.cumsum(axis=1), alarms_here.cumsum(axis=1)
    positives, negatives = hits[:, -1:], alarms[:, -1:]
    with np.errstate(invalid="ignore", divide="ignore"):
        # A negative is outscored by the positives above it and ties with half of those at its own score (Mann-Whitney).
        auc = (alarms_here * (hits - hits_here / 2)).sum(axis=1, keepdims=True) / (positives * negatives)
        precision = hits / np.maximum(hits + alarms, 1.0)
        average_precision = (hits_here * precision).sum(axis=1, keepdims=True) / positives
        eer = _equal_error_rates(alarms / negatives, 1.0 - hits / positives)
        detected = [_detection_rates(hits / positives, alarms / negatives, limit) for limit in FPR_LIMITS]
    values = np.concatenate([auc, average_precision, eer, *detected], axis=1)
    values[((positives == 0) | (negatives == 0))[:, 0]] = np.nan
    return np.asarray(values, np.float64)


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


def _detection_rates(true_positive: Floats, false_positive: Floats, limit: float) -> Floats:
    """Return ``[R, 1]``: the largest rate ``[R, K]`` with a false positive rate up to ``limit``; 0 if there is none."""
    allowed = (false_positive <= limit).sum(axis=1)[:, None]  # Both rates grow with K.
    return np.where(allowed > 0, np.take_along_axis(true_positive, np.maximum(allowed - 1, 0), 1), 0.0)


def _of_ranking(function: Callable[[Bools, Floats], float], predictions: Predictions) -> float | Undefined:
    """Return a value of the positive class against the rest, or why nothing is ranked."""
    reason = why_no_ranking(predictions.is_positive, predictions.p_fake)
    return Undefined(reason) if reason else float(function(predictions.is_positive, predictions.p_fake))


def _auc(is_positive: Bools, scores: Floats) -> float:
    return float(sk().roc_auc_score(is_positive, scores))


def _average_precision(is_positive: Bools, scores: Floats) -> float:
    return float(sk().average_precision_score(is_positive, scores))


def _detection(limit: float, predictions: Predictions) -> float | Undefined:
    """Return the detection rate at a false positive rate; one false alarm must not exceed the limit."""
    negatives = int((~predictions.is_positive).sum())
    if negatives * limit < 1.0 and not why_no_ranking(predictions.is_positive, predictions.p_fake):
        return Undefined(
            f"there are fewer than {1 / limit:,.0f} images of the other classes ({negatives}), so one false "
            f"alarm is more than {limit:.1%}"
        )
    return _of_ranking(functools.partial(detection_rate, limit=limit), predictions)


def _macro_auc(predictions: Predictions) -> float | Undefined:
    """Return the mean over the classes of the AUC of each against the rest (Provost and Domingos 2000)."""
    labels, probabilities = predictions.labels, predictions.probabilities
    for label, name in enumerate(predictions.class_names):
        reason = by_class.missing(predictions) or why_no_ranking(labels == label, probabilities[:, label])
        if reason:
            return Undefined(f"the AUC of {name} is: {reason}")
    truth = np.eye(len(predictions.class_names))[labels]
    return float(sk().roc_auc_score(truth, probabilities, average="macro"))


def _columns(resamples: Resamples) -> Floats:
    predictions = resamples.predictions
    return resampled_ranking(resamples.counts, predictions.is_positive, predictions.p_fake)


def _column(name: str) -> Callable[[Resamples], Floats]:
    """Return what gives one column of ``resampled_ranking``; the curves are computed once for all of them."""
    return lambda resamples: np.asarray(resamples.once(_columns)[:, RANKED.index(name)], np.float64)


def _resampled_macro_auc(resamples: Resamples) -> Floats:
    labels, probabilities = resamples.predictions.labels, resamples.predictions.probabilities
    aucs = [
        resampled_ranking(resamples.counts, labels == label, probabilities[:, label])[:, 0]
        for label in range(probabilities.shape[1])
    ]
    return np.asarray(np.mean(aucs, axis=0), np.float64)


METRICS = (
    Metric(
        name="auc",
        value=functools.partial(_of_ranking, _auc),
        resampled=_column("auc"),
        title="AUC",
        meaning="Chance that a {positive} image outscores one of {rest}; 0.5 is guessing.",
        tile=True,
        console="AUC",
    ),
    Metric(
        name="average_precision",
        value=functools.partial(_of_ranking, _average_precision),
        resampled=_column("average_precision"),
        title="Average precision",
        meaning="Area under the precision-recall curve.",
        tile=True,
    ),
    Metric(
        name="eer",
        value=functools.partial(_of_ranking, equal_error_rate),
        resampled=_column("eer"),
        title="Equal error rate",
        meaning="Error where missed {positive} and false alarms are equally frequent.",
        unit=SHARE,
        lower_is_better=True,
        tile=True,
        console="EER",
    ),
    Metric(
        name="tpr_at_fpr.0.01",
        value=functools.partial(_detection, 0.01),
        resampled=_column("tpr_at_fpr.0.01"),
        title="Found at 1% alarms",
        meaning="Share of {positive} detected if 1% of {rest} may raise a false alarm.",
        unit=SHARE,
    ),
    Metric(
        name="tpr_at_fpr.0.001",
        value=functools.partial(_detection, 0.001),
        resampled=_column("tpr_at_fpr.0.001"),
        title="Found at 0.1% alarms",
        meaning="The same if 0.1% may be; it needs 1,000 images of {rest}.",
        unit=SHARE,
    ),
    Metric(
        name="macro.auc",
        value=_macro_auc,
        resampled=_resampled_macro_auc,
        title="AUC, mean of classes",
        meaning="Mean over the classes of the AUC of each against the others.",
        fewest_classes=3,  # For two classes it is the AUC.
    ),
)
