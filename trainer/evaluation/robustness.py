"""Robustness of an exported model: the same images recompressed, blurred, noisy, rescaled, cropped or darker.

Distortions act on the decoded image at its own size, as they would on the way through the internet; the model then
resizes, crops or pads as usual.  Each is a function of (seed, number of the image).
Does not own: metrics (``metrics/``), how they are shown (``reports/evaluation_sections.py``).
"""

import dataclasses
import io
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image, ImageFilter

from trainer.core import progress
from trainer.core.config.registries import RESIZE
from trainer.data import decode, decode_batch, readers
from trainer.data.input_rule import InputRule
from trainer.data.manifest import Split
from trainer.data.pixels import Pixels
from trainer.evaluation import groups, metrics
from trainer.evaluation.predictions import Predictions
from trainer.evaluation.sources import Sources
from trainer.serving import exported_model
from trainer.serving.predictor import Predictor

Numbers = npt.NDArray[np.int64]

FIGURES = ("accuracy", "auc")
_SCORED_AT_ONCE = 64
_PIXELS_AT_ONCE = 2**26  # Of images that are not resized: 200 MB.


def _jpeg(pixels: Pixels, quality: float, noise: np.random.Generator) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(
        buffer, format="JPEG", quality=int(quality)
    )  # With 4:2:0 chroma, as is usual on the web.
    return np.asarray(Image.open(buffer).convert("RGB"))


def _blur(pixels: Pixels, sigma: float, noise: np.random.Generator) -> Pixels:
    return np.asarray(Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(sigma)))


def _noise(pixels: Pixels, deviation: float, noise: np.random.Generator) -> Pixels:
    return _to_bytes(pixels + deviation * noise.standard_normal(pixels.shape, np.float32))


def _rescale(pixels: Pixels, factor: float, noise: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    image = Image.fromarray(pixels).resize(small, Image.Resampling.BICUBIC)
    return np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))


def _crop(pixels: Pixels, share: float, noise: np.random.Generator) -> Pixels:
    height, width = pixels.shape[:2]
    rows, columns = max(1, round(height * share)), max(1, round(width * share))
    top, left = (height - rows) // 2, (width - columns) // 2
    return pixels[top : top + rows, left : left + columns]


def _brightness(pixels: Pixels, factor: float, noise: np.random.Generator) -> Pixels:
    return _to_bytes(pixels * np.float32(factor))


def _to_bytes(values: npt.NDArray[np.float32]) -> Pixels:
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)


@dataclasses.dataclass(frozen=True)
class Kind:
    """A distortion, the meaning of its strength, and the strengths to measure."""

    distort: Callable[[Pixels, float, np.random.Generator], Pixels]
    unit: str
    strengths: tuple[float, ...]


KINDS: Mapping[str, Kind] = {
    "jpeg": Kind(_jpeg, "quality", (95, 85, 70, 50, 30)),
    "blur": Kind(_blur, "standard deviation, pixels", (0.5, 1, 2, 4)),
    "noise": Kind(_noise, "standard deviation, gray levels", (2, 5, 10, 20)),
    "rescale": Kind(_rescale, "size in between, share of a side", (0.75, 0.5, 0.25)),
    "crop": Kind(_crop, "centre kept, share of a side", (0.9, 0.8, 0.6)),
    "brightness": Kind(_brightness, "factor", (0.5, 0.75, 1.25, 1.5)),
}


def distort(pixels: Pixels, kind: str, strength: float, *, seed: int, number: int) -> Pixels:
    """Return the image ``[H, W, 3]`` distorted, ``[H', W', 3]``: a function of seed and image number."""
    return KINDS[kind].distort(pixels, strength, np.random.default_rng([seed, number]))


def choose(labels: npt.NDArray[np.integer[Any]], limit: int) -> Numbers:
    """Return the positions of up to ``limit`` images (0: all), evenly spread over each class in its proportion."""
    if not limit or len(labels) <= limit:
        return np.arange(len(labels), dtype=np.int64)
    chosen = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = max(1, int(limit * len(members) / len(labels)))
        chosen.append(members[np.linspace(0, len(members) - 1, count).round().astype(np.int64)])
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def measure(
    export: exported_model.ExportedModel,
    split: Split,
    numbers: Numbers,
    sources: Sources,
    *,
    limit: int,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Score images of a split under every distortion and return the metrics, ready for JSON.

    Args:
        export: the model, with the threshold to use.
        split: images that can be decoded.
        numbers: ``[N]`` number of each image, which determines its noise.
        sources: the unit of resampling.
        limit: images to use at most; 0: all.
        resamples: bootstrap resamples; 0: no intervals.
        seed: of noise and resamples.
    """
    chosen = choose(split.labels, limit)
    settings: list[tuple[str, float]] = [("", 0.0)]
    settings += [(kind, strength) for kind, what in KINDS.items() for strength in what.strengths]
    probabilities = _score(export, split.select(chosen, split.name), numbers[chosen], settings, seed)
    source_numbers = sources.select(chosen).numbers
    results = []
    for (_, strength), rows in zip(settings, probabilities, strict=True):
        predictions = Predictions.of(split.labels[chosen], rows, export.class_names, export.positive, export.threshold)
        figures = metrics.measure(predictions, resamples=resamples, seed=seed, sources=source_numbers)
        results.append({"strength": strength, **groups.subset(figures, FIGURES)})
    clean = {name: value for name, value in results[0].items() if name != "strength"}
    kinds: dict[str, Any] = {kind: {"unit": what.unit, "results": []} for kind, what in KINDS.items()}
    for (kind, _), result in zip(settings[1:], results[1:], strict=True):
        kinds[kind]["results"].append(result)
    return {
        "images": len(chosen), "of": len(split), "seed": seed,
        "unchanged": clean, "kinds": kinds, "worst": _worst(clean, kinds),
    }  # fmt: skip


def _worst(clean: dict[str, Any], kinds: dict[str, Any]) -> dict[str, Any]:
    """Return the distortion with the lowest AUC (accuracy if the AUC is undefined)."""
    figure = "accuracy" if clean["auc"] is None else "auc"
    candidates = [
        (result[figure], kind, result["strength"])
        for kind, what in kinds.items()
        for result in what["results"]
        if result[figure] is not None
    ]
    value, kind, strength = min(candidates, key=lambda candidate: candidate[0])
    return {"figure": figure, "kind": kind, "strength": strength, "value": value, "unchanged": clean[figure]}


def _score(
    export: exported_model.ExportedModel, split: Split, numbers: Numbers, settings: list[tuple[str, float]], seed: int
) -> npt.NDArray[np.float32]:
    """Return probabilities ``[settings, N, C]``."""
    predictor = Predictor(export)
    reader = readers.open_reader(split)
    rule = export.input_rule

    def variants(position: int) -> list[Pixels]:
        """Return one image in all settings: resized, or of any size if the export crops or pads."""
        pixels = decode_batch.decode_image(reader.read_one(position), export.max_image_pixels)
        rows = []
        for kind, strength in settings:
            changed = distort(pixels, kind, strength, seed=seed, number=int(numbers[position])) if kind else pixels
            is_resized = rule.mode == RESIZE
            rows.append(_resized(changed, rule) if is_resized else changed)
        return rows

    images_at_once = max(1, _SCORED_AT_ONCE // len(settings)) if rule.mode == RESIZE else 1
    rows: list[npt.NDArray[np.float32]] = []
    with progress.bar(len(split), "image", "robustness") as bar:
        batches = itertools.chain.from_iterable(map(_of_one_shape, _in_batches(variants, len(split), images_at_once)))
        for answers in predictor.score_pixels(batches):
            done = len(rows) // len(settings)
            rows.extend(answers.probabilities)
            bar.update(len(rows) // len(settings) - done)
    return np.stack(rows).reshape(len(split), len(settings), -1).transpose(1, 0, 2)


def _resized(pixels: Pixels, rule: InputRule) -> Pixels:
    return np.asarray(decode.resize(tf.constant(pixels), rule.size, rule.interpolation))


def _of_one_shape(images: Sequence[Pixels]) -> Iterator[Pixels]:
    """Yield images in batches ``[n, H, W, 3]`` of bounded memory, in order."""
    for shape, neighbours in itertools.groupby(images, key=lambda image: image.shape):
        group = list(neighbours)
        count = max(1, _PIXELS_AT_ONCE // (shape[0] * shape[1]))
        for start in range(0, len(group), count):
            yield np.stack(group[start : start + count])


def _in_batches(variants: Callable[[int], list[Pixels]], count: int, size: int) -> Iterator[list[Pixels]]:
    """Yield all settings of ``size`` images at a time, image by image; the next are made while the model works."""
    starts = list(range(0, count, size))
    with ThreadPoolExecutor() as pool:

        def submit(start: int) -> list[Any]:
            return [pool.submit(variants, position) for position in range(start, min(start + size, count))]

        ahead = submit(starts[0])
        for following in [*starts[1:], None]:
            current = ahead
            ahead = submit(following) if following is not None else []
            yield [image for future in current for image in future.result()]
