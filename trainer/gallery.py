"""Images of an evaluation to look at: which ones, and what is said of each.

Does not own: how they are shown (``pages.py``, ``templates/``).
"""

import numpy as np
import numpy.typing as npt

from trainer import config, files, pages
from trainer.data.images import Images
from trainer.data.manifest import Split
from trainer.metrics import Scored
from trainer.pages import Picture

_THUMBNAIL = 144  # Pixels.


def worst_mistakes(scored: Scored) -> npt.NDArray[np.int64]:
    """Return the positions of images called wrong, the one with the least probability for its class first."""
    of_truth = scored.probabilities[np.arange(len(scored.labels)), scored.labels]
    wrong = np.flatnonzero(scored.predicted != scored.labels)
    return np.asarray(wrong[np.argsort(of_truth[wrong], kind="stable")], np.int64)


def spread_samples(scored: Scored, of_a_class: int) -> npt.NDArray[np.int64]:
    """Return positions of up to so many images of each class, evenly spread over its images."""
    chosen = []
    for label in range(len(scored.class_names)):
        members = np.flatnonzero(scored.labels == label)
        count = min(of_a_class, len(members))
        chosen.append(members[np.linspace(0, len(members) - 1, count).round().astype(np.int64)])
    return np.concatenate(chosen)


def pictures(split: Split, scored: Scored, positions: npt.NDArray[np.int64]) -> list[Picture]:
    """Load thumbnails of the images at ``positions``, with what they are and what they were called."""
    source = Images(split, config.DataConfig(image_size=_THUMBNAIL))
    images = source.load(positions).images
    positive = scored.class_names[scored.positive]
    found = []
    for image, index in zip(images, positions, strict=True):
        truth, called = (scored.class_names[labels[index]] for labels in (scored.labels, scored.predicted))
        said = f"right: {called}" if truth == called else f"is {truth}, called {called}"
        caption = f"{said}; p({positive}) {scored.p_fake[index]:.3f}"
        found.append(pages.picture(image, files.printable(split.names[index]), caption))
    return found
