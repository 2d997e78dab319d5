"""Forms of one model side by side: how far from the SavedModel, how fast.

Does not own: making them (``export.py``).
"""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from trainer import serving
from trainer.data.pixels import Pixels
from trainer.errors import JobFailed
from trainer.portable import Run

_ALLOWED = 1e-3  # Difference of a probability in float32; kernels differ in how they add.
_TIMED_SECONDS = 1.0


def compare(
    runs: Mapping[str, tuple[Run, int]], images: Pixels, export: serving.Export, quantize: str
) -> dict[str, Any]:
    """Return how far each form is from the SavedModel, and how fast.

    Args:
        runs: what runs each form, and its bytes; the one to compare with is ``savedmodel``.
        images: ``[n, S, S, 3]``, one batch.
        export: the SavedModel, which decides labels.
        quantize: of the TFLite form.
    """
    expected = runs["savedmodel"][0](images)
    labels = [export.decide(row) for row in expected]
    forms = {}
    for form, (run, size) in runs.items():
        answers = run(images)
        changed = sum(export.decide(row) != label for row, label in zip(answers, labels, strict=True))
        difference = float(np.abs(answers - expected).max()) if np.isfinite(answers).all() else None
        forms[form] = {
            "bytes": size,
            "quantize": quantize if form == "tflite" else "none",
            "largest_difference": difference,
            "labels_changed": changed,
            "images_per_second": round(_rate(run, images), 1),
        }
    return {"images": len(images), "forms": forms}


def _rate(run: Run, images: Pixels) -> float:
    """Return images a second of a form that has run once."""
    begin, batches = time.perf_counter(), 0
    while not batches or time.perf_counter() - begin < _TIMED_SECONDS:
        run(images)
        batches += 1
    return batches * len(images) / (time.perf_counter() - begin)


def to_text(compared: dict[str, Any]) -> str:
    """Return the comparison as a table for a person."""
    lines = [f"{'form':<20}{'MB':>8}  {'max |dp|':>9}  {'labels changed':>14}  {'images/s':>9}"]
    for form, figures in compared["forms"].items():
        name = form if figures["quantize"] == "none" else f"{form} {figures['quantize']}"
        difference = figures["largest_difference"]
        shown = "no number" if difference is None else f"{difference:.1e}"
        lines.append(
            f"{name:<20}{figures['bytes'] / 1e6:>8.2f}  {shown:>9}"
            f"  {figures['labels_changed']:>14}  {figures['images_per_second']:>9.1f}"
        )
    return "\n".join([*lines, f"on {compared['images']} images in one batch, on this machine's CPU or first GPU\n"])


def refuse_others(compared: dict[str, Any]) -> None:
    """Refuse a form that is not the model.

    Raises:
        JobFailed: naming it.
    """
    for form, figures in compared["forms"].items():
        difference, allowed = figures["largest_difference"], _ALLOWED if figures["quantize"] == "none" else 1.0
        if difference is None or difference > allowed:
            raise JobFailed(
                f"{form} does not answer as the SavedModel does: the largest difference of a probability is "
                f"{difference} (allowed: {allowed:g}); do not use it"
            )
