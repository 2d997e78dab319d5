"""Self-blended images: forgeries made from images of the negative class alone, on the host.

Shiohara and Yamasaki 2022, "Detecting deepfakes with self-blended images", arXiv:2204.08376.  The only augmentation
that changes labels, and that looks at them; how an image is blended with itself: ``data/self_blending/``.
"""

import numpy as np
import numpy.typing as npt

from trainer.core.config import AugmentConfig
from trainer.data.pixels import Floats, Pixels
from trainer.data.self_blending import blend

HELP = "images of the negative class blended with themselves, as forgeries (Shiohara and Yamasaki 2022)."
ORDER = 8
SEARCHED = False

DRAWS = 1 + blend.DRAWS


def is_forged(draws: Floats, config: AugmentConfig) -> npt.NDArray[np.bool_]:
    """Return for ``[N, DRAWS]`` whether each example becomes a forgery, if it is of the negative class."""
    return np.asarray(draws[:, 0] < config.sbi_probability, np.bool_)


def forge(image: Pixels, draws: Floats) -> Pixels:
    """Return a forgery of one image ``[S, S, 3]`` by its draws ``[DRAWS]``."""
    return blend.self_blend(image, draws[1:])
