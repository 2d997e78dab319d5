"""The image galleries of an evaluation report: which images, their captions, and their heat maps.

Does not own: how they are shown (``html.py``, ``gallery_items.py``, ``templates/``), computing heat maps
(``grad_cam.py``).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core import config
from trainer.core.config.registries import RESIZE
from trainer.core.storage import files
from trainer.data import decode_batch, readers
from trainer.data.image_source import ImageSource
from trainer.data.manifest import Split
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.sources import Columns
from trainer.reports import gallery_items, html
from trainer.reports.gallery_items import Item
from trainer.reports.html import Picture
from trainer.serving import exported_model, heatmap
from trainer.serving.predictor import NoHeatMaps, Predictor

_THUMBNAIL = 144  # Pixels.
_EXPLAINED_AT_ONCE = 12  # Images; gradients take more memory than answers.
_MISTAKES_SHOWN = 36  # Without a script, and with heat maps, which take a gradient each.
_MISTAKES_EMBEDDED = 240  # The others are listed with links to their files.
_SAMPLES_OF_A_CLASS = 6
_RIGHT_OF_A_CLASS = 24
_SORTS = (
    {"title": "most wrong first", "key": "w", "down": True},
    {"title": "highest score first", "key": "s", "down": True},
    {"title": "lowest score first", "key": "s", "down": False},
    {"title": "name", "key": "p", "down": False},
)


@dataclasses.dataclass(frozen=True)
class Gallery:
    """The images of a page.

    Attributes:
        mistakes: misclassified images with their heat maps, worst first.
        no_heat_maps: why they have none; empty if they have.
        samples: some images of each class.
        data: what the script needs of these and all others (``gallery_items.as_json``).
        unlisted: number of misclassified images that do not fit into the page.
    """

    mistakes: Sequence[Picture]
    no_heat_maps: str
    samples: Sequence[Picture]
    data: Mapping[str, Any]
    unlisted: int


def build(
    export: exported_model.ExportedModel, split: Split, predictions: Predictions, columns: Columns, page: str
) -> Gallery:
    """Choose the images of the page ``page`` and load their thumbnails."""
    wrong, samples = worst_mistakes(predictions), spread_samples(predictions, _SAMPLES_OF_A_CLASS)
    describe = _Describer(split, predictions, columns, page)
    wrong_items = [describe(position) for position in wrong.tolist()]
    listed = gallery_items.fitting(wrong_items)
    right = _right(predictions, samples)
    order = [*wrong[:listed].tolist(), *right]
    first, embedded = wrong[:_MISTAKES_SHOWN], [*wrong[_MISTAKES_SHOWN:_MISTAKES_EMBEDDED].tolist(), *right]
    maps = explain(export, split, first.tolist())
    number_of = {position: number for number, position in enumerate(order)}
    elsewhere = {*samples.tolist(), *first.tolist()}
    extra = np.array([position for position in embedded if position not in elsewhere], np.int64)
    thumbnails = dict(zip(extra.tolist(), pictures(split, predictions, extra), strict=True)) if len(extra) else {}
    items = [dataclasses.replace(describe(position), picture=thumbnails.get(position)) for position in order]
    shown = zip(pictures(split, predictions, samples, numbers=number_of), samples.tolist(), strict=True)
    return Gallery(
        mistakes=pictures(split, predictions, first, maps, number_of),
        no_heat_maps=maps.why_not,
        samples=[dataclasses.replace(picture, file=describe(position).link) for picture, position in shown],
        data=gallery_items.as_json(
            items, list(columns), names=list(predictions.class_names), positive=predictions.positive,
            kinds=describe.kinds, sorts=_SORTS,
        ),
        unlisted=len(wrong) - listed,
    )  # fmt: skip


def _right(predictions: Predictions, samples: npt.NDArray[np.int64]) -> list[int]:
    """Return positions of images that are classified correctly: those of the samples, and more of each class."""
    is_right = predictions.predicted == predictions.labels
    chosen = dict.fromkeys(position for position in samples.tolist() if is_right[position])
    for label in range(len(predictions.class_names)):
        members = np.flatnonzero(is_right & (predictions.labels == label))
        chosen |= dict.fromkeys(_spread(members, _RIGHT_OF_A_CLASS).tolist())
    return list(chosen)


class _Describer:
    """Says of images what a page's script needs to know."""

    def __init__(self, split: Split, predictions: Predictions, columns: Columns, page: str) -> None:
        self._split, self._page, self._columns = split, page, list(columns.values())
        self._labels, self._predicted = predictions.labels, predictions.predicted
        self._probabilities, self._positive = predictions.probabilities, predictions.positive
        kinds = [f"missed {predictions.class_names[predictions.positive]}", "false alarms", "mixed up"]
        present = sorted({self._kind(n) for n in np.flatnonzero(self._predicted != self._labels).tolist()})
        self._place = {kind: place for place, kind in enumerate([*present, len(kinds)])}
        self.kinds = [
            *({"title": kinds[kind], "wrong": True} for kind in present),
            {"title": "right answers (some)", "wrong": False},
        ]

    def _kind(self, position: int) -> int:
        truth, answer = self._labels[position], self._predicted[position]
        if truth == answer:
            return 3
        return 0 if truth == self._positive else 1 if answer == self._positive else 2

    def __call__(self, position: int) -> Item:
        truth = int(self._labels[position])
        return Item(
            path=files.printable(self._split.names[position]),
            link="" if self._split.records else gallery_items.link_to(self._split.path(position), self._page),
            kind=self._place[self._kind(position)],
            score=float(self._probabilities[position, self._positive]),
            wrong=1.0 - float(self._probabilities[position, truth]),
            answer=int(self._predicted[position]),
            truth=truth,
            groups=[str(values[position]) for values in self._columns],
        )


def worst_mistakes(predictions: Predictions) -> npt.NDArray[np.int64]:
    """Return the positions of misclassified images, lowest probability of the true class first."""
    true_probability = predictions.probabilities[np.arange(len(predictions.labels)), predictions.labels]
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    return np.asarray(wrong[np.argsort(true_probability[wrong], kind="stable")], np.int64)


def spread_samples(predictions: Predictions, of_a_class: int) -> npt.NDArray[np.int64]:
    """Return positions of up to ``of_a_class`` images of each class, evenly spread over its images."""
    chosen = []
    for label in range(len(predictions.class_names)):
        chosen.append(_spread(np.flatnonzero(predictions.labels == label), of_a_class))
    return np.concatenate(chosen)


def _spread(members: npt.NDArray[np.int64], most: int) -> npt.NDArray[np.int64]:
    """Return up to ``most`` members, evenly spread."""
    return members[np.linspace(0, len(members) - 1, min(most, len(members))).round().astype(np.int64)]


def pictures(
    split: Split,
    predictions: Predictions,
    positions: npt.NDArray[np.int64],
    maps: "HeatMaps | None" = None,
    numbers: Mapping[int, int] | None = None,
) -> list[Picture]:
    """Load thumbnails of the images at ``positions``, captioned with the true and the predicted class.

    Images in ``maps`` also get a picture of their heat map; ``numbers`` are those of the gallery's items by position.
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
        picture = dataclasses.replace(picture, item=(numbers or {}).get(index, -1))
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
