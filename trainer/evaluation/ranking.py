"""Figures that come from the order of the scores alone: what they mean and when they are undefined.

Does not own: the same figures under resampling (``bootstrap.py``).
"""

import numpy as np
import numpy.typing as npt
from sklearn import metrics as sk

from trainer.evaluation import bootstrap

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


def why_no_ranking(is_positive: Bools, scores: Floats) -> str:
    """Return why ROC and precision-recall figures are undefined here; empty if they are defined."""
    if len(scores) == 1:
        return "there is one image only"
    if not np.isfinite(scores).all():
        return "a score is not a number"
    if is_positive.all() or not is_positive.any():
        return f"all images are of {'the positive class' if is_positive.all() else 'the other classes'}"
    if scores.min() == scores.max():
        return "all images have the same score, so nothing is ranked"
    return ""


def measure(is_positive: Bools, scores: Floats, undefined: dict[str, str]) -> dict[str, float | None]:
    """Return the figures of ``bootstrap.RANKED``; None where undefined, and why in ``undefined``.

    ``tpr_at_fpr.0.01`` is the largest share of positives found by any threshold that calls at most 1% of the
    others positive.  It needs 100 others: with fewer, one false alarm would be more than that.

    Args:
        is_positive: ``[N]``, N >= 1.
        scores: ``[N]``, higher means positive.
        undefined: receives reasons by name.
    """
    reason = why_no_ranking(is_positive, scores)
    if reason:
        undefined |= dict.fromkeys(bootstrap.RANKED, reason)
        return dict.fromkeys(bootstrap.RANKED)
    figures: dict[str, float | None] = {
        "auc": float(sk.roc_auc_score(is_positive, scores)),
        "average_precision": float(sk.average_precision_score(is_positive, scores)),
        "eer": equal_error_rate(is_positive, scores),
    }
    negatives = int((~is_positive).sum())
    for name, limit in bootstrap.AT_FPR.items():
        if negatives * limit < 1.0:
            undefined[name] = (
                f"there are fewer than {1 / limit:,.0f} images of the other classes ({negatives}), so one false "
                f"alarm is more than {limit:.1%}"
            )
            figures[name] = None
        else:
            figures[name] = found_within(is_positive, scores, limit)
    return figures


def equal_error_rate(is_positive: Bools, scores: Floats) -> float:
    """Return the rate at which misses equal false alarms, in [0, 1]; both classes must be there.

    The crossing of scikit-learn's ``roc_curve``, joined by straight lines, with the diagonal FNR = FPR:
    between two neighbouring thresholds the rates of a detector that chooses at random between the two
    (Fawcett 2006, "An introduction to ROC analysis", section 10).
    """
    false_positive, true_positive, _ = sk.roc_curve(is_positive, scores)
    gap = (1.0 - true_positive) - false_positive  # Falls from 1 to -1.
    after = int(np.argmax(gap <= 0))
    share = gap[after - 1] / (gap[after - 1] - gap[after])
    return float(false_positive[after - 1] + share * (false_positive[after] - false_positive[after - 1]))


def found_within(is_positive: Bools, scores: Floats, limit: float) -> float:
    """Return the largest true positive rate of scikit-learn's ``roc_curve`` whose false positive rate is <= limit."""
    false_positive, true_positive, _ = sk.roc_curve(is_positive, scores, drop_intermediate=False)
    return float(true_positive[false_positive <= limit].max())
