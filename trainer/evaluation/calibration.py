"""Choose a temperature and a threshold on Validation before a model is exported.

Owns: the maths, and the rules for when Validation cannot decide.  Does not own: scoring Validation (``evaluator.py``),
where the decision is stored (``deepdetect.json``).  Imports neither TensorFlow nor file access.
"""

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core.config import ExportConfig
from trainer.evaluation import metrics
from trainer.evaluation.metrics import calibration_error
from trainer.evaluation.predictions import Predictions
from trainer.serving.temperature import temper

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DEFAULT_THRESHOLD = 0.5
FEWEST_OF_A_CLASS = 10  # A rule of thumb: a threshold chosen on fewer images fits only these.
_TEMPERATURES = (0.05, 20.0)


@dataclasses.dataclass(frozen=True)
class Decision:
    """How to turn a model's output into an answer.

    Attributes:
        threshold: for two classes, the answer is the positive one from this probability up; [0, 1].
        temperature: probabilities are ``softmax(log p / temperature)``; 1 leaves them unchanged.
        threshold_choice: how the threshold was chosen, ready for JSON.
        calibration: how the temperature was chosen; None without ``--calibrate``.
    """

    threshold: float
    temperature: float
    threshold_choice: dict[str, Any]
    calibration: dict[str, Any] | None

    def metadata(self) -> dict[str, Any]:
        """Return the fields as the export stores them."""
        return dataclasses.asdict(self)


def needs_scores(settings: ExportConfig) -> bool:
    """Return whether an export scores Validation, to decide on it and for the metrics of the model card.

    For more than two classes no threshold is chosen, but the card has the same metrics.
    """
    return settings.calibrate or settings.threshold_by != "none"


def decide(
    labels: npt.NDArray[np.integer[Any]],
    probabilities: npt.NDArray[np.floating[Any]],
    *,
    positive: int,
    settings: ExportConfig,
) -> Decision:
    """Choose temperature and threshold from the predictions of exactly the weights that will be exported.

    Args:
        labels: ``[N]``, each Validation image once; N = 0 if ``needs_scores`` returns False.
        probabilities: ``[N, C]`` softmax output.
        positive: column of the positive class.
        settings: ``threshold_by``, ``threshold_fpr``, ``calibrate``.
    """
    truth = np.asarray(labels, np.int64)
    scores = np.asarray(probabilities, np.float64)
    temperature, calibration = 1.0, None
    if settings.calibrate:
        temperature, why = _temperature(truth, scores)
        before, after = (_log_loss(truth, temper(scores, t)) for t in (1.0, temperature))
        calibration = {"images": len(truth), "log_loss_before": before, "log_loss_after": after, "why": why}
    # The threshold is chosen after the temperature, in float32, as the export compares.
    is_positive = truth == positive
    tempered = temper(scores, temperature)[:, positive].astype(np.float32)
    why = _why_no_threshold(is_positive, tempered, scores.shape[1], settings)
    threshold = DEFAULT_THRESHOLD
    if not why:
        threshold = best_threshold(is_positive, tempered, by=settings.threshold_by, limit=settings.threshold_fpr)
    choice = {"by": settings.threshold_by, "why": why, "images": len(truth)}
    if settings.threshold_by == "fpr":
        choice["fpr_limit"] = settings.threshold_fpr
    if scores.shape[1] == 2 and len(truth):
        choice |= _rates(is_positive, tempered >= np.float32(threshold))
    return Decision(threshold, temperature, choice, calibration)


def effect(predictions: Predictions, temperature: float) -> dict[str, Any]:
    """Return log loss and calibration error before and after the temperature that ``predictions`` include.

    Probabilities that float32 rounded to 0 or 1 stay so, which limits how exact "before" is.
    """
    before = temper(predictions.probabilities, 1.0 / temperature)
    change: dict[str, Any] = {"temperature": temperature}
    for name, probabilities in (("before", before), ("after", predictions.probabilities)):
        ece = calibration_error.error(predictions.labels, predictions.predicted, probabilities)
        change[name] = {"log_loss": _log_loss(predictions.labels, probabilities), "ece": ece}
    return change


def _log_loss(labels: Ints, probabilities: Floats) -> float | None:
    return float(metrics.cross_entropy(labels, probabilities).mean()) if len(labels) else None


def _temperature(labels: Ints, probabilities: Floats) -> tuple[float, str]:
    """Return the temperature with the lowest log loss and "", or 1 and why it was not fitted."""
    from scipy import optimize  # Late: it is slow to import, and few jobs calibrate.

    counts = np.bincount(labels, minlength=probabilities.shape[1])
    if counts.min() < FEWEST_OF_A_CLASS:
        return 1.0, _too_few(int(counts.min()))

    def loss(logarithm: float) -> float:
        tempered = temper(probabilities, float(np.exp(logarithm)))
        return float(metrics.cross_entropy(labels, tempered).mean())

    bounds = np.log(_TEMPERATURES)
    optimum = optimize.minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    if min(map(loss, bounds)) <= optimum.fun + 1e-9:  # As when every answer is right: the colder, the better.
        return 1.0, "the log loss has no minimum between temperatures {:g} and {:g}".format(*_TEMPERATURES)
    return float(np.exp(optimum.x)), ""


def _too_few(count: int) -> str:
    return f"Validation holds {count} images of one class, expected at least {FEWEST_OF_A_CLASS}"


def _why_no_threshold(
    is_positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32], classes: int, settings: ExportConfig
) -> str:
    """Return why the default threshold is kept; empty if Validation decides."""
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    if settings.threshold_by == "none":
        return "--threshold_by=none"
    if classes != 2:
        return "of more than two classes the likeliest is the answer"
    if min(positives, negatives) < FEWEST_OF_A_CLASS:
        return _too_few(min(positives, negatives))
    if settings.threshold_by == "fpr" and negatives * settings.threshold_fpr < 1.0:
        return (
            f"Validation holds {negatives} images of the other class, expected at least "
            f"{1 / settings.threshold_fpr:,.0f} for a false positive rate of {settings.threshold_fpr:g}"
        )
    return "all images have the same score" if scores.min() == scores.max() else ""


def best_threshold(
    is_positive: npt.NDArray[np.bool_], scores: npt.NDArray[np.float32], *, by: str, limit: float
) -> float:
    """Return the best threshold for these images, in [0, 1].

    All thresholds between two neighbouring scores give the same answers.  Of the intervals of equally good
    thresholds, the middle of the widest is returned (if several are equally wide, of the one nearest 0.5), because it
    is farthest from any score.

    Args:
        is_positive: ``[N]``, both kinds present.
        scores: ``[N]`` float32 in [0, 1]; an image is called positive from the threshold up.
        by: accuracy; balanced_accuracy; eer: misses and false alarms as equally frequent as possible; fpr: most
            positives detected with a false positive rate up to ``limit``, then fewest false alarms.
        limit: for ``fpr``.
    """
    edges = np.unique(scores)  # A threshold in (edges[j - 1], edges[j]] calls positive what is at least edges[j].
    hits, alarms = (
        np.append(len(group) - np.searchsorted(np.sort(group), edges), 0)
        for group in (scores[is_positive], scores[~is_positive])
    )
    # Compare whole numbers, so that equally good thresholds tie exactly.
    worth = _worth(hits, alarms, by, limit)
    below = np.append(np.float32(0.0), edges)
    above = np.append(edges, np.float32(1.0))
    if edges[-1] >= 1.0:  # Then no threshold up to 1 calls nothing positive.
        worth = worth[:-1]
        below, above = below[:-1], above[:-1]
    # The widest run of equally good thresholds; of equally wide ones, the nearest to 0.5.
    best = np.flatnonzero(worth == worth.max())
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    spans = [(float(below[run[0]]), float(above[run[-1]])) for run in runs]
    return _middle(*min(spans, key=lambda span: (span[0] - span[1], abs(span[0] + span[1] - 1.0))))


def _worth(hits: Ints, alarms: Ints, by: str, limit: float) -> Ints:
    """Return integers ``[K]``, larger for better thresholds; equally good ones are exactly equal."""
    positives, negatives = int(hits[0]), int(alarms[0])
    if by == "accuracy":
        return np.asarray(hits - alarms, np.int64)
    if by == "balanced_accuracy":
        return np.asarray(hits * negatives - alarms * positives, np.int64)
    if by == "eer":
        return np.asarray(-np.abs((positives - hits) * negatives - alarms * positives), np.int64)
    return np.where(alarms / negatives <= limit, hits * (negatives + 1) - alarms, -1 - negatives)


def _middle(low: float, high: float) -> float:
    """Return a number near the middle of (low, high], in float32 too, with as few digits as possible."""
    middle = (low + high) / 2
    for digits in range(2, 9):
        short = round(middle, digits)
        if low < np.float32(short) <= high and abs(short - middle) <= 0.05 * (high - low):
            return short
    return high


def _rates(is_positive: npt.NDArray[np.bool_], called: npt.NDArray[np.bool_]) -> dict[str, float | None]:
    """Return the rates of a threshold on these images; None where a class has no image."""
    tpr = float(called[is_positive].mean()) if is_positive.any() else None
    fpr = float(called[~is_positive].mean()) if not is_positive.all() else None
    balanced = None if tpr is None or fpr is None else (tpr + 1.0 - fpr) / 2
    accuracy = float((called == is_positive).mean())
    return {"tpr": tpr, "fpr": fpr, "accuracy": accuracy, "balanced_accuracy": balanced}
