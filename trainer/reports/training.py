"""The report of a training job: ``index.html`` and its plots in ``job_dir/report``.

Owns: its words.  Does not own: drawings (``plots.py``), parts of pages (``html.py``), layout and style
(``templates/``).  Imports no TensorFlow; images come as arrays.
"""

import json
from collections.abc import Mapping, Sequence

from trainer.core.job_dir import JobPaths
from trainer.core.storage import files
from trainer.data.pixels import Pixels
from trainer.evaluation.training_curves import Curves, read_curves
from trainer.reports import html, plots


def write_training_report(
    job_dir: str,
    samples: Pixels,
    augmented: Pixels,
    labels: Sequence[str],
    counts: Mapping[str, Mapping[str, int]],
    *,
    warning: str = "",
) -> None:
    """Write ``curves.png``, ``samples.png``, ``classes.png`` and ``index.html`` into ``job_dir/report``.

    Figures without content (no epoch trained, no samples) are left out.

    Args:
        job_dir: of the job; its ``metrics.jsonl`` and ``config.json`` are read.
        samples: training images ``[N, S, S, 3]`` as the model sees them without augmentation.
        augmented: the same images ``[N, S, S, 3]``, augmented.
        labels: class name of each image.
        counts: number of images by split and class.
        warning: what is wrong with the model, the first line of the page; empty: nothing.
    """
    paths = JobPaths(job_dir)
    curves = read_curves(job_dir)
    pairs = plots.png(plots.augmentation_pairs(samples, augmented, labels)) if len(labels) else b""
    classes = plots.class_counts(counts)
    contents = {"samples.png": pairs, "classes.png": plots.png(classes)}
    if curves:
        contents["curves.png"] = plots.png(plots.training(curves))
    page = (
        html.templates()
        .get_template("training.html")
        .render(
            job_dir=job_dir,
            warning=warning,
            sentences=_sentences(curves) if curves else [],
            training=drawings(curves) if curves else [],
            samples=html.data_uri(pairs, "image/png") if pairs else "",
            data=[html.draw(classes, spoken(counts), "Images that were found.")],
            settings=json.loads(files.read_text(paths.config)) if files.exists(paths.config) else {},
        )
    )
    contents["index.html"] = page.encode("utf-8")
    files.make_dirs(paths.report)
    for name, content in contents.items():
        if content:
            files.write_bytes(files.join(paths.report, name), content)


def drawings(curves: Curves) -> list[html.Drawing]:
    """Return the training curves: loss, accuracy, AUC and learning rate by epoch."""
    captions = {
        "Loss": "Lower is better. Train is measured on augmented images with dropout, so it may lie above.",
        "Accuracy": "Higher is better. When validation stays behind while train climbs, the model memorises.",
        "AUC": "Chance that a positive image outscores another one; 0.5 is guessing.",
        "Learning rate": "At the end of each epoch.",
    }
    figures = plots.training_parts(curves)
    return [html.draw(figure, f"{name} by epoch", captions[name]) for name, figure in figures.items()]


def _sentences(curves: Curves) -> list[str]:
    if curves.best_epoch is None:
        return ["No epoch was validated yet."]
    sentence = f"Best of {len(curves.validation[curves.monitor].epochs)} epochs by {curves.monitor}: epoch "
    values = []
    for name, title in (("val_loss", "loss"), ("val_accuracy", "accuracy"), ("val_auc", "AUC")):
        curve = curves.validation[name]
        if curves.best_epoch in curve.epochs:
            values.append(f"{title} {curve.values[curve.epochs.index(curves.best_epoch)]:.4f}")
    return [f"{sentence}{curves.best_epoch}, with validation {', '.join(values)}."]


def spoken(counts: Mapping[str, Mapping[str, int]]) -> str:
    """Return the counts as text for screen readers."""
    splits = (
        f"{split}: {', '.join(f'{count:,} {name}' for name, count in classes.items())}"
        for split, classes in counts.items()
    )
    return f"Images by split and class. {'; '.join(splits)}"
