"""What the face detector's network answers, as boxes: anchors, scores, and one box for the many of one face.

The constants are those of MediaPipe's full-range model
(mediapipe/modules/face_detection/face_detection_full_range.pbtxt).
"""

import numpy as np

from trainer.data.pixels import Floats

SIDE = 192  # Pixels of the network's input.
MIN_SCORE = 0.5
_STRIDE = 4  # Pixels between two anchors.
_SAME_FACE = 0.3  # Intersection over union from which on two boxes are of one face.
_LARGEST_LOGIT = 80.0  # MediaPipe's 100 overflows float32.
_POINTS = 8  # Of each answer: centre, size, then six landmarks.


def _anchors() -> Floats:
    """Return the centres ``[N, 2]`` (x, y) in [0, 1], row by row."""
    places = (np.arange(SIDE // _STRIDE, dtype=np.float32) + 0.5) * _STRIDE / SIDE
    y, x = np.meshgrid(places, places, indexing="ij")
    return np.stack([x.ravel(), y.ravel()], axis=1)


_ANCHORS = _anchors()


def decode(regressors: Floats, logits: Floats) -> tuple[Floats, Floats]:
    """Return the candidates of one input.

    Args:
        regressors: ``[N, 16]`` in pixels of the input, relative to the anchors.
        logits: ``[N]``.

    Returns:
        ``[K, 8, 2]`` corners (two points) and six landmarks as (x, y), in shares of the input; and scores ``[K]``.
    """
    scores = 1 / (1 + np.exp(-np.clip(logits, -_LARGEST_LOGIT, _LARGEST_LOGIT)))
    kept = scores >= MIN_SCORE
    points = regressors[kept].reshape(-1, _POINTS, 2) / SIDE
    anchors = _ANCHORS[kept]
    centres, halves = points[:, 0] + anchors, points[:, 1] / 2
    points[:, 2:] += anchors[:, None]
    points[:, 0], points[:, 1] = centres - halves, centres + halves
    return points.astype(np.float32), scores[kept].astype(np.float32)


def merge(points: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """Return one candidate for each face, the best first: the mean of all its candidates by their scores.

    That is MediaPipe's weighted suppression; its boxes tremble less from frame to frame than the best one alone.
    """
    order = np.argsort(-scores, kind="stable")
    points, scores = points[order], scores[order]
    merged, best = [], []
    while len(scores):
        same = _overlap(points[0], points) >= _SAME_FACE
        same[0] = True
        merged.append(np.average(points[same], axis=0, weights=scores[same]))
        best.append(scores[0])
        points, scores = points[~same], scores[~same]
    return np.array(merged, np.float32).reshape(-1, _POINTS, 2), np.array(best, np.float32)


def _overlap(one: Floats, others: Floats) -> Floats:
    """Return intersection over union of a candidate's box with each of the others."""
    shared = np.minimum(one[1], others[:, 1]) - np.maximum(one[0], others[:, 0])
    common = np.prod(np.maximum(shared, 0), axis=1)
    areas = np.prod(np.maximum(others[:, 1] - others[:, 0], 0), axis=1)
    return np.asarray(common / np.maximum(np.prod(one[1] - one[0]) + areas - common, 1e-12), np.float32)
