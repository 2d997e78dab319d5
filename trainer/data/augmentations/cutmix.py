"""A rectangle of another image in each image, and the labels by area.

Yun et al. 2019, "CutMix: regularization strategy to train strong classifiers with localizable features",
arXiv:1905.04899.  The rectangle covers at most half of the image, whose label stays the likelier one.
"""

import math

import numpy as np
from scipy import special

from trainer.core.config import AugmentConfig
from trainer.data.pixels import Floats, Pixels, aligned_copy

HELP = "a rectangle of another image, labels by area (Yun et al. 2019)."
ORDER = 7
SEARCHED = False


def mix(images: Pixels, others: Pixels, draws: Floats, config: AugmentConfig) -> tuple[Pixels, Floats]:
    """Return ``[N, S, S, 3]`` images with a rectangle of others, and the shares ``[N]`` that the images keep."""
    mixed = aligned_copy(images)
    shares = np.ones(len(images), np.float32)
    for slot, row in enumerate(draws.tolist()):
        top, bottom, left, right = _rectangle(row, images.shape[1], config.cutmix_alpha)
        mixed[slot, top:bottom, left:right] = others[slot, top:bottom, left:right]
        shares[slot] -= (bottom - top) * (right - left) / images.shape[1] ** 2
    return mixed, shares


def _rectangle(draws: list[float], size: int, alpha: float) -> tuple[int, int, int, int]:
    """Return top, bottom, left and right; the centre is uniform, and what lies outside the image is cut off."""
    area = float(special.betaincinv(alpha, alpha, draws[0]))
    half = math.sqrt(min(area, 1.0 - area)) * size / 2
    ends = [round(draw * size + side * half) for draw in draws[1:3] for side in (-1, 1)]
    top, bottom, left, right = (min(max(end, 0), size) for end in ends)
    return top, bottom, left, right
