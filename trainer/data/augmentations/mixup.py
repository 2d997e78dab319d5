"""Each image blended with another one, and their labels likewise.

Zhang et al. 2018, "mixup: beyond empirical risk minimization", arXiv:1710.09412.  The image itself always has the
larger share: its label stays the likelier one, and with partners drawn from all images the mixtures are the same.
"""

import numpy as np
from scipy import special

from trainer.core.config import AugmentConfig
from trainer.data.pixels import Floats, Pixels, aligned_copy

HELP = "blended with another image, labels likewise (Zhang et al. 2018)."
ORDER = 6
SEARCHED = False


def mix(images: Pixels, others: Pixels, draws: Floats, config: AugmentConfig) -> tuple[Pixels, Floats]:
    """Return ``[N, S, S, 3]`` mixtures of images and others, and the images' shares ``[N]``."""
    shares = np.array([_share(draw, config.mixup_alpha) for draw in draws[:, 0].tolist()], np.float32)
    weights = shares[:, None, None, None]
    mixed = weights * images + (np.float32(1.0) - weights) * others
    return aligned_copy(np.rint(mixed).astype(np.uint8)), shares


def _share(draw: float, alpha: float) -> float:
    """Return a share of at least a half, by the inverse of the distribution of Beta(alpha, alpha)."""
    share = float(special.betaincinv(alpha, alpha, draw))
    return max(share, 1.0 - share)
