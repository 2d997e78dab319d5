"""Images of an evaluation to look at: which ones, what is said of each, and where the model looked.

Does not own: how they are shown (``html.py``, ``templates/``), heat maps as numbers (``grad_cam.py``).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainer.core import config
from trainer.core.storage import files
from trainer.data import readers
from trainer.data.image_source import ImageSource
from trainer.data.manifest import Split
from trainer.evaluation.predictions import Predictions
from trainer.reports import html
from trainer.reports.html import Picture
from trainer.serving import exported_model, heatmap
from trainer.serving.predictor import NoHeatMaps, Predictor

_THUMBNAIL = 144  # Pixels.
_EXPLAINED_AT_ONCE = 12  # Images; gradients take more memory than answers.


def worst_mistakes(predictions: Predictions) -> npt.NDArray[np.int64]:
    """Return the positions of images called wrong, the one with the least probability for its class first."""
    of_truth = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    return np.asarray(wrong[np.argsort(of_truth[wrong], kind="stable")], np.int64)


def spread_samples(predictions: Predictions, of_a_class: int) -> npt.NDArray[np.int64]:
    """Return positions of up to so many images of each class, evenly spread over its images."""
    chosen = []
    for label in range(len(predictions.class_names)):
        members = np.flatnonzero(predictions.labels == label)
        count = min(of_a_class, len(members))
        chosen.append(members[np.linspace(0, len(members) - 1, count).round().astype(np.int64)])
    return np.concatenate(chosen)


def pictures(
    split: Split, predictions: Predictions, positions: npt.NDArray[np.int64], maps: "HeatMaps | None" = None
) -> list[Picture]:
    """Load thumbnails of the images at ``positions``, with what they are and what they were called.

    Those that ``maps`` knows also get a picture of where the model looked.
    """
    source = ImageSource(split, config.DataConfig(image_size=_THUMBNAIL))
    images = source.load(positions).images
    positive = predictions.class_names[predictions.positive]
    found = []
    for image, index in zip(images, positions.tolist(), strict=True):
        truth, called = (
            predictions.class_names[labels[index]] for labels in (predictions.labels, predictions.predicted)
        )
        said = f"right: {called}" if truth == called else f"is {truth}, called {called}"
        caption = f"{said}; p({positive}) {predictions.p_fake[index]:.3f}"
        picture = html.picture(image, files.printable(split.names[index]), caption)
        if maps and index in maps.of:
            heat, label = maps.of[index]
            says = f"what spoke for {label}" if heat.any() else f"empty, nothing spoke for {label}"
            picture = dataclasses.replace(picture, heat=html.jpeg_uri(heatmap.overlay(image, heat)), heat_says=says)
        found.append(picture)
    return found


@dataclasses.dataclass(frozen=True, eq=False)
class HeatMaps:
    """Where a model looked.

    Attributes:
        of: by position in the split, a map ``[S, S]`` in [0, 1] and the class that it is about, the export's answer.
        why_not: why there are none; empty if there are.
    """

    of: dict[int, tuple[npt.NDArray[np.float32], str]]
    why_not: str


def explain(export: exported_model.ExportedModel, split: Split, positions: Sequence[int]) -> HeatMaps:
    """Return the heat maps of these images alone; the export is loaded only if there are any."""
    if not len(positions):
        return HeatMaps({}, "")
    try:
        scorer = Predictor(export, explain=True)
    except NoHeatMaps as missing:
        return HeatMaps({}, missing.because)
    reader = readers.open_reader(split)
    found = {}
    for answers in scorer.score(len(positions), lambda n: reader.read_one(int(positions[n])), _EXPLAINED_AT_ONCE):
        for place, heat in answers.heatmaps.items():
            if place not in answers.errors:
                found[int(positions[answers.start + place])] = heat, answers.labels[place]
    return HeatMaps(found, "")
