"""Whether a model learned anything: is its AUC above chance, does it answer a constant, are its units dead.

Owns: the interval of an AUC from the AUC and the numbers of images alone, the decision, and its words.  Does not own:
scores (``exports/scores.py``, ``predict_split.py``), where the words are shown.  Imports neither TensorFlow nor NumPy.
"""

import dataclasses
import math
from collections.abc import Sequence

Z = 1.959963984540054  # Of a two-sided 95% interval.
SMALLEST_SPREAD = 1e-3  # Probabilities that differ by less are one answer to a person who reads three digits.
MOST_DEAD = 0.5  # Share of the last hidden layer's units; some dead ones are usual.
_PRECISION = 1e-9  # Of the bounds of an interval.

_TRY = "check the labels, train longer (--epochs), or use another --learning_rate or --model"
_SWAPPED = "check whether the labels, or the folders of the classes, are swapped"
_NO_CLASS = "add images of both classes"
_WARM_UP = "use --lr_warmup_steps or a lower --learning_rate"


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What is known about a model from one split.

    Attributes:
        auc: of the positive class against the rest; None where it is undefined.
        interval: its 95% interval; None where there is none.
        one_class: whether the images are all of the positive class, or all of the others.
        spread: largest difference of a class's probability between two images; None if it is not known.
        dead: share of the last hidden layer's units that give the same value for every image; None if not known.
    """

    auc: float | None
    interval: Sequence[float] | None
    one_class: bool = False
    spread: float | None = None
    dead: float | None = None


@dataclasses.dataclass(frozen=True)
class Assessment:
    """What the evidence says.

    Attributes:
        learned: whether the AUC is above chance and the answers differ.
        because: why not; empty if it learned.
        warning: one line for people, with what to do; empty if all is well.
    """

    learned: bool
    because: str
    warning: str


@dataclasses.dataclass(frozen=True)
class _Finding:
    """One thing that is wrong: how a line about it begins, what it is, and what to do."""

    title: str
    words: str
    remedy: str


def standard_error(auc: float, positives: int, negatives: int) -> float:
    """Return the standard error of an AUC.

    Hanley and McNeil 1982, "The meaning and use of the area under a receiver operating characteristic (ROC) curve".
    Their negative exponential model gives Q1 and Q2 from the AUC alone.  At 0.5 it is the standard error of the
    Mann-Whitney statistic when the scores say nothing: (m + n + 1) / (12 m n), squared.

    Args:
        auc: in [0, 1].
        positives: images of the positive class, at least 1.
        negatives: images of all other classes, at least 1.
    """
    q1 = auc / (2.0 - auc)
    q2 = 2.0 * auc**2 / (1.0 + auc)
    spread = auc * (1.0 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return math.sqrt(max(spread, 0.0) / (positives * negatives))


def interval(auc: float | None, positives: int, negatives: int) -> tuple[float, float] | None:
    """Return the 95% interval of an AUC; None where it is undefined.

    It holds the values whose own standard error does not exclude the measured AUC (a score interval, as Wilson's;
    Newcombe 2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic", part 2).  So
    it keeps a width where every image is ranked right, and it holds 0.5 if and only if the Mann-Whitney test at 5% does
    not exclude chance.
    """
    if auc is None or not positives or not negatives:
        return None
    # 1 - AUC is the AUC of the other classes, with the numbers of images swapped.
    return _lower_bound(auc, positives, negatives), 1.0 - _lower_bound(1.0 - auc, negatives, positives)


def is_at_chance(auc: float | None, positives: int, negatives: int) -> bool:
    """Return whether the 95% interval of an AUC holds 0.5; one that is undefined says nothing."""
    bounds = interval(auc, positives, negatives)
    return bounds is not None and bounds[0] <= 0.5 <= bounds[1]


def _lower_bound(auc: float, positives: int, negatives: int) -> float:
    """Return the smallest value whose standard error does not exclude the AUC, by bisection."""
    excluded, held = 0.0, auc
    while held - excluded > _PRECISION:
        value = (excluded + held) / 2
        if auc - value > Z * standard_error(value, positives, negatives):
            excluded = value
        else:
            held = value
    return held


def measured(
    auc: float | None, positives: int, negatives: int, *, spread: float | None = None, dead: float | None = None
) -> Evidence:
    """Return the evidence of an AUC, with the interval that the numbers of images give it."""
    bounds = interval(auc, positives, negatives)
    return Evidence(auc, bounds, one_class=not positives or not negatives, spread=spread, dead=dead)


def assess(evidence: Evidence, split: str) -> Assessment:
    """Return whether a model learned, and the line about it.

    Dead units alone make no model useless: they are in the warning, and ``learned`` stays true.

    Args:
        evidence: from the split.
        split: its name, for the words.
    """
    constant = _constant(evidence)
    against = [*(constant or _chance(evidence, split)), *_dead(evidence, split)]
    learned = all(finding.title == _DEAD for finding in against)
    because = "; ".join(finding.words for finding in against)
    remedies = "; ".join(dict.fromkeys(finding.remedy for finding in against))
    warning = f"{against[0].title}: {because}. To do: {remedies}." if against else ""
    return Assessment(learned, "" if learned else because, warning)


_NOTHING = "Learned nothing"
_UNKNOWN = "Nothing shows that it learned"
_WRONG_WAY = "Learned the opposite"
_DEAD = "Learned with a part of the network"


def _constant(evidence: Evidence) -> list[_Finding]:
    if evidence.spread is None or evidence.spread >= SMALLEST_SPREAD:
        return []
    words = f"the network answers a constant, as its probabilities differ by {evidence.spread:.1g} at most"
    return [_Finding(_NOTHING, words, _WARM_UP)]


def _chance(evidence: Evidence, split: str) -> list[_Finding]:
    if evidence.auc is None and evidence.one_class:
        return [_Finding(_UNKNOWN, f"the AUC on {split} is undefined, as its images are of one class", _NO_CLASS)]
    if evidence.auc is None or evidence.interval is None:
        return [_Finding(_NOTHING, f"the AUC on {split} is undefined, as all images have the same score", _WARM_UP)]
    low, high = evidence.interval
    words = f"the AUC on {split} is {evidence.auc:.3f}, and its 95% interval, {low:.3f} to {high:.3f},"
    if high < 0.5:
        return [_Finding(_WRONG_WAY, f"{words} is below 0.5", _SWAPPED)]
    return [_Finding(_NOTHING, f"{words} holds 0.5, which is guessing", _TRY)] if low <= 0.5 else []


def _dead(evidence: Evidence, split: str) -> list[_Finding]:
    if evidence.dead is None or evidence.dead <= MOST_DEAD:
        return []
    words = f"{evidence.dead:.0%} of the last hidden layer's units are dead, the same for every image of {split}"
    return [_Finding(_DEAD, words, _WARM_UP)]
