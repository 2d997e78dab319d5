"""Every threshold of an evaluation at once: what ``static/thresholds.js`` needs to move matrix and marks.

Does not own: the figures of the export's own threshold (``evaluation/metrics``), drawings (``evaluation_plots.py``).
"""

from collections.abc import Sequence
from typing import Any

import markupsafe
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from trainer.evaluation.metrics import ranking
from trainer.evaluation.predictions import Predictions
from trainer.reports import evaluation_plots, html

_STEPS = 400  # Of the slider: as many quantiles of the scores, so that each step moves about as many images.


def of_predictions(predictions: Predictions) -> dict[str, Any]:
    """Return thresholds, and the images of each side that are called positive from each one up.

    Empty unless there are two classes whose scores can be ranked.
    """
    scores, is_positive = np.asarray(predictions.p_fake, np.float64), predictions.is_positive
    if (
        len(predictions.class_names) != 2
        or not np.isfinite(predictions.threshold)
        or ranking.why_no_ranking(is_positive, scores)
    ):
        return {}
    thresholds = _steps(scores, predictions.threshold)
    found, alarms = (_called(scores[members], thresholds) for members in (is_positive, ~is_positive))
    positives, negatives = int(is_positive.sum()), int((~is_positive).sum())
    places = evaluation_plots.det_places(predictions, np.array(alarms) / negatives, 1.0 - np.array(found) / positives)
    return {
        "thresholds": thresholds.tolist(),
        "found": found,
        "alarms": alarms,
        "positives": positives,
        "negatives": negatives,
        "det": [axis.round(4).tolist() for axis in places],
        "own": int(np.searchsorted(thresholds, predictions.threshold)),
        "names": list(predictions.class_names),
        "positive": predictions.positive,
    }


def of_scores(scores: Sequence[float], threshold: float, names: Sequence[str], positive: int) -> dict[str, Any]:
    """Return thresholds, and the images that are called positive from each one up, where no true class is known.

    Empty unless there are scores, and two classes.
    """
    if len(names) != 2 or not scores or not np.isfinite(threshold):
        return {}
    values = np.asarray(scores, np.float64)
    thresholds = _steps(values, threshold)
    return {
        "thresholds": thresholds.tolist(),
        "called": _called(values, thresholds),
        "count": len(values),
        "own": int(np.searchsorted(thresholds, threshold)),
        "names": list(names),
        "positive": positive,
    }


def _steps(scores: npt.NDArray[np.float64], threshold: float) -> npt.NDArray[np.float64]:
    quantiles = np.quantile(scores, np.linspace(0.0, 1.0, _STEPS), method="lower")
    return np.unique([0.0, *quantiles, threshold, 1.0])


def _called(scores: Any, thresholds: Any) -> list[int]:
    return (len(scores) - np.searchsorted(np.sort(scores), thresholds, side="left")).tolist()  # type: ignore[no-any-return]


def marked(figure: Figure, kind: str, alt: str, caption: str) -> html.Drawing:
    """Draw a figure so that the script can put a mark on it: ``roc``, ``pr``, ``det``, ``scores`` or ``confidence``.

    Of two axes with one x axis, the first above the second, the mark stands on both.
    """
    drawing = html.draw(figure, alt, caption)  # Lays it out.
    ends = figure.axes[-1], figure.axes[0]
    corners = [(axes.get_xlim()[end], axes.get_ylim()[end]) for end, axes in enumerate(ends)]
    pixels = [axes.transData.transform(corner) for axes, corner in zip(ends, corners, strict=True)]
    shares = figure.transFigure.inverted().transform(pixels)
    width, height = figure.get_size_inches() * 72  # The units of the SVG's view box.
    places = [(x * width, (1.0 - y) * height) for x, y in shares]
    numbers = " ".join(f"{number:.5g}" for pair in (*places, *corners) for number in pair)
    opening = f'<svg data-mark="{kind}" data-frame="{numbers}" '
    return html.Drawing(markupsafe.Markup(str(drawing.svg).replace("<svg ", opening, 1)), caption)
