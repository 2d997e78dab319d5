"""The image galleries of an evaluation report: which images, their captions, and their heat maps.

Does not own: how they are shown (``html.py``, ``templates/``), computing heat maps (``grad_cam.py``).
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trainer.core import config
from trainer.core.config.registries import RESIZE
from trainer.core.storage import files
from trainer.data import decode_batch, readers
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
    """Return the positions of misclassified images, lowest probability of the true class first."""
    true_probability = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    return np.asarray(wrong[np.argsort(true_probability[wrong], kind="stable")], np.int64)


def spread_samples(predictions: Predictions, of_a_class: int) -> npt.NDArray[np.int64]:
    """Return positions of up to ``of_a_class`` images of each class, evenly spread over its images."""
    chosen = []
    for label in range(len(predictions.class_names)):
        members = np.flatnonzero(predictions.labels == label)
        count = min(of_a_class, len(members))
        chosen.append(members[np.linspace(0, len(members) - 1, count).round().astype(np.int64)])
    return np.concatenate(chosen)


def pictures(
    split: Split, predictions: Predictions, positions: npt.NDArray[np.int64], maps: "HeatMaps | None" = None
) -> list[Picture]:
    """Load thumbnails of the images at ``positions``, captioned with the true and the predicted class.

    Images in ``maps`` also get a picture of their heat map.
    """
    source = ImageSource(split, config.DataConfig(image_size=_THUMBNAIL))
    images = source.load(positions).images
    positive = predictions.class_names[predictions.positive]
    gallery = []
    for image, index in zip(images, positions.tolist(), strict=True):
        truth, called = (
            predictions.class_names[labels[index]] for labels in (predictions.labels, predictions.predicted)
        )
        verdict = f"right: {called}" if truth == called else f"is {truth}, called {called}"
        caption = f"{verdict}; p({positive}) {predictions.p_fake[index]:.3f}"
        picture = html.picture(image, files.printable(split.names[index]), caption)
        if maps and index in maps.of:
            heat, label = maps.of[index]
            says = f"what spoke for {label}" if heat.any() else f"empty, nothing spoke for {label}"
            picture = dataclasses.replace(picture, heat=html.jpeg_uri(heatmap.overlay(image, heat)), heat_says=says)
        gallery.append(picture)
    return gallery


@dataclasses.dataclass(frozen=True, eq=False)
class HeatMaps:
    """Where a model looked.

    Attributes:
        of: by position in the split, a map ``[h, w]`` of the image in [0, 1] and the class it explains, the export's
            answer.
        why_not: why there are none; empty if there are.
    """

    of: dict[int, tuple[npt.NDArray[np.float32], str]]
    why_not: str


def explain(export: exported_model.ExportedModel, split: Split, positions: Sequence[int]) -> HeatMaps:
    """Return the heat maps of the images at ``positions``; without positions the export is not loaded."""
    if not len(positions):
        return HeatMaps({}, "")
    try:
        predictor = Predictor(export, explain=True)
    except NoHeatMaps as missing:
        return HeatMaps({}, missing.because)
    reader = readers.open_reader(split)
    maps = {}
    for answers in predictor.score(len(positions), lambda n: reader.read_one(int(positions[n])), _EXPLAINED_AT_ONCE):
        for place, heat in answers.heatmaps.items():
            if place not in answers.errors:
                position = int(positions[answers.start + place])
                maps[position] = _on_image(heat, export, reader, position), answers.labels[place]
    return HeatMaps(maps, "")


def _on_image(
    heat: npt.NDArray[np.float32], export: exported_model.ExportedModel, reader: readers.Reader, position: int
) -> npt.NDArray[np.float32]:
    """Return a map of the whole image; the model may have seen its centre alone."""
    if export.input_rule.mode == RESIZE:
        return heat
    pixels = decode_batch.decode_image(reader.read_one(position), export.max_image_pixels)
    return export.input_rule.on_image(heat, *pixels.shape[:2])
