"""The charts of a training report: values by step, from the lines of ``metrics.jsonl``.

Does not own: how charts look (``charts.py``, ``static/charts.js``), the averages by epoch (``training_curves.py``).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from trainer.reports import charts
from trainer.reports.charts import Chart, Mark, Series

Lines = Sequence[Mapping[str, Any]]

# Title, caption, axis and scale of each chart, and its values in train and validation lines.  A chart without a value
# in any line is left out.
_CHARTS: tuple[tuple[str, str, str, str, str, str], ...] = (
    ("Loss", "Lower is better. Train is measured on augmented images with dropout, so it may lie above.",
     "cross-entropy (nats)", "linear", "loss", "val_loss"),
    ("Accuracy", "Higher is better. When validation stays behind while train climbs, the model memorises.",
     "accuracy", "percent", "accuracy", "val_accuracy"),
    ("AUC", "Chance that a positive image outscores another one; 0.5 is guessing.",
     "area under the ROC curve", "linear", "", "val_auc"),
    ("Learning rate", "Of the last step of each line.", "rate (log scale)", "log", "learning_rate", ""),
    ("Speed", "Training images over training time, without validation and saving.",
     "images/s", "linear", "images_per_second", ""),
    ("Wait for data", "Share of the training time in which the devices had no batch. Near 0 the devices are the limit, "
     "higher the reading of images is.", "share of the time", "percent", "data_wait", ""),
    ("Gradient norm", "Of every tenth step, before clipping.", "norm", "log", "gradient_norm", ""),
    ("Memory", "Of the first process on its host. What only grows is a leak.", "GB", "linear", "memory_bytes", ""),
    ("Loss scale", "Of float16: it halves when a step overflows.", "scale", "log", "loss_scale", ""),
)  # fmt: skip
_SMOOTHED = {"loss", "accuracy", "images_per_second", "data_wait", "gradient_norm"}
_UNITS = {"memory_bytes": 1e-9}


def of_lines(lines: Lines) -> list[Chart]:
    """Return the charts of a job that have something to show."""
    train = [line for line in lines if line.get("kind") == "train"]
    validation = [line for line in lines if line.get("kind") == "validation"]
    marks = [Mark(float(line["step"]), "restart") for line in lines if line.get("kind") == "start"][1:]
    drawn = []
    for title, caption, axis, scale, name, validated in _CHARTS:
        shown = [each for each in (_train(train, name), _validation(validation, validated)) if each.x]
        if shown:
            drawn.append(Chart(title, caption, "step", axis, shown, marks, scale))
    return drawn


def _train(lines: Lines, name: str) -> Series:
    steps, values = _values(lines, name)
    return charts.series("train", steps, values, colour="cool", smooth=name in _SMOOTHED)


def _validation(lines: Lines, name: str) -> Series:
    steps, values = _values(lines, name)
    return charts.series("validation", steps, values, colour="warm", form=charts.DASHED)


def _values(lines: Lines, name: str) -> tuple[list[float], list[float]]:
    having = [line for line in lines if name and line.get(name) is not None]
    return [line["step"] for line in having], [line[name] * _UNITS.get(name, 1) for line in having]
