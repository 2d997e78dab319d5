"""The metadata of a model card for the Hugging Face Hub: the YAML block on top, by ``huggingface_hub``'s own classes.

Without that package cards have no block, and one that a card has stays as it is: nobody else reads it, and a second
writer of the Hub's format would age.  ``export --push_to_hub``, which needs the package, adds the block then.
Does not own: the card (``model_card.py``), the upload (``training/exports/hub.py``).  Imports no TensorFlow.
"""

import functools
import importlib.util
import logging
import os
from collections.abc import Collection, Mapping
from typing import Any

from trainer.evaluation import metrics

log = logging.getLogger(__name__)

NO_LICENSE = "unknown"  # The Hub's word.  Which one applies depends on the images, too.

_TASK = "image-classification"
_TAGS = ("deepfake-detection", "deepdetect", "tensorflow")
_HUB_NAMES = {"auc": "roc_auc"}  # Metrics that the Hub calls otherwise.


@functools.cache
def is_installed() -> bool:
    """Return whether cards get a block."""
    return importlib.util.find_spec("huggingface_hub") is not None


def with_results(card: str, metadata: Mapping[str, Any], split: str, figures: Mapping[str, Any] | None) -> str:
    """Return the card with its block, in which these figures replace earlier ones of the split.

    Args:
        card: with or without a block; what people changed in it is kept.
        metadata: the contents of ``deepdetect.json``.
        split: that was measured.
        figures: as in ``metrics.json``; None if nothing was measured.
    """
    if not is_installed():
        return card
    data, text = _parts(card, metadata)
    if data is None:
        return card
    others = [each for each in data.eval_results or [] if each.dataset_split != split]
    data.eval_results = others + (_results(metadata, split, figures) if figures else []) or None
    return _joined(data, text)


def for_upload(card: str, metadata: Mapping[str, Any], forms: Collection[str], license_name: str) -> str:
    """Return the card with a block that names the uploaded forms, and the license unless it is unknown."""
    data, text = _parts(card, metadata)
    if data is None:
        return card
    if "keras" in forms:
        data.library_name = "keras"
    data.tags = list(dict.fromkeys([*(data.tags or []), *forms]))
    if license_name != NO_LICENSE:
        data.license = license_name
    return _joined(data, text)


def _parts(card: str, metadata: Mapping[str, Any]) -> tuple[Any, str]:
    """Return a card's block, a new one if it has none, and the rest; no block if it cannot be read."""
    import yaml
    from huggingface_hub import ModelCard, ModelCardData

    if not card.startswith("---\n"):
        model = str(metadata.get("config", {}).get("model", "network"))
        data = ModelCardData(
            license=NO_LICENSE, library_name="tensorflow", pipeline_tag=_TASK, tags=list(_TAGS),
            model_name=f"deepdetect {model}",
        )  # fmt: skip
        return data, card
    try:
        read = ModelCard(card)
    except (ValueError, yaml.YAMLError) as error:
        log.warning(
            "the metadata on top of the model card cannot be read, and is left as it is: %s",
            " ".join(str(error).split()),
        )
        return None, card
    return read.data, read.text


def _joined(data: Any, text: str) -> str:
    return f"---\n{data.to_yaml()}\n---\n\n{text.lstrip()}"


def _results(metadata: Mapping[str, Any], split: str, figures: Mapping[str, Any]) -> list[Any]:
    """Return the measured metrics, each with its 95% interval."""
    from huggingface_hub import EvalResult

    results = []
    data_dir = str(figures.get("data_dir") or metadata.get("config", {}).get("data_dir", "")).rstrip("/")
    for name, metric in metrics.all_metrics().items():
        if name not in figures["ci95"]:
            continue
        value, interval = metrics.by_name(figures, name), figures["ci95"][name]
        if value is not None:
            ends = {"ci95": [round(float(end), 6) for end in interval]} if interval else None
            result = EvalResult(
                task_type=_TASK, dataset_type="imagefolder", dataset_name=os.path.basename(data_dir) or "images",
                dataset_split=split, metric_type=_HUB_NAMES.get(name, name), metric_name=metric.title,
                metric_value=round(float(value), 6), metric_args=ends,
            )  # fmt: skip
            results.append(result)
    return results
