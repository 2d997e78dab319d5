"""The report of a training job: ``index.html`` and its plots in ``job_dir/report``.

Owns: its words.  Does not own: drawings (``plots.py``), parts of pages (``html.py``), layout and style
(``templates/``).  Imports no TensorFlow; images come as arrays.
"""

import dataclasses
import datetime
import io
from collections.abc import Mapping, Sequence

from PIL import Image

from trainer.core.job_dir import JobPaths
from trainer.core.storage import files
from trainer.data.pixels import Pixels
from trainer.evaluation.training_curves import Curves, curves_of, read_curves, read_lines, read_settings
from trainer.reports import charts as charts_lib
from trainer.reports import html, job_facts, plots, step_charts

# Name, title and format of the columns of the table of epochs.
_COLUMNS = (
    ("train_loss", "Train loss", "{:.4f}"), ("train_accuracy", "Train accuracy", "{:.2%}"),
    ("val_loss", "Validation loss", "{:.4f}"), ("val_accuracy", "Validation accuracy", "{:.2%}"),
    ("val_auc", "Validation AUC", "{:.4f}"), ("learning_rate", "Learning rate", "{:.3g}"),
    ("images_per_second", "Images/s", "{:,.0f}"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Pictures:
    """What a report shows of the data: as images for the folder, and as parts of the page.

    Attributes:
        samples: PNG of training images before and after augmentation; empty without any.
        samples_uri: the same for the page, as a JPEG, which is smaller.
        classes: PNG of the images by split and class.
        data: the same for the page.
    """

    samples: bytes
    samples_uri: str
    classes: bytes
    data: Sequence[html.Drawing]


def write_training_report(
    job_dir: str,
    samples: Pixels,
    augmented: Pixels,
    labels: Sequence[str],
    counts: Mapping[str, Mapping[str, int]],
    *,
    warning: str = "",
) -> None:
    """Write ``curves.png``, ``samples.png``, ``classes.png`` and ``index.html`` of a finished job into its ``report``.

    Figures without content (no epoch trained, no samples) are left out.

    Args:
        job_dir: of the job; its ``metrics.jsonl`` and ``config.json`` are read.
        samples: training images ``[N, S, S, 3]`` as the model sees them without augmentation.
        augmented: the same images ``[N, S, S, 3]``, augmented.
        labels: class name of each image.
        counts: number of images by split and class.
        warning: what is wrong with the model, the first line of the page; empty: nothing.
    """
    pictures = draw_pictures(samples, augmented, labels, counts)
    curves = read_curves(job_dir)
    contents = {"samples.png": pictures.samples, "classes.png": pictures.classes}
    if curves:
        contents["curves.png"] = plots.png(plots.training(curves))
    files.make_dirs(JobPaths(job_dir).report)
    for name, content in contents.items():
        if content:
            files.write_bytes(files.join(JobPaths(job_dir).report, name), content)
    write_page(job_dir, pictures, job_facts.Status(job_facts.FINISHED), warning=warning)


def draw_pictures(
    samples: Pixels, augmented: Pixels, labels: Sequence[str], counts: Mapping[str, Mapping[str, int]]
) -> Pictures:
    """Draw what does not change while a job runs; see ``write_training_report``."""
    pairs = plots.png(plots.augmentation_pairs(samples, augmented, labels)) if len(labels) else b""
    classes = plots.class_counts(counts)
    data = [html.draw(classes, spoken(counts), "Images that were found.")]
    uri = html.jpeg_uri(Image.open(io.BytesIO(pairs)).convert("RGB")) if pairs else ""
    return Pictures(pairs, uri, plots.png(classes), data)


def write_page(job_dir: str, pictures: Pictures, status: job_facts.Status, *, warning: str = "") -> None:
    """Write ``index.html`` from ``metrics.jsonl`` and ``config.json``; cheap, as it is done after every validation."""
    paths = JobPaths(job_dir)
    lines, settings = read_lines(job_dir), read_settings(job_dir)
    curves = curves_of(lines, settings)
    charts = step_charts.of_lines(lines)
    page = html.templates().get_template("training.html")
    text = page.render(
        job_dir=job_dir,
        warning=warning,
        status=status,
        tiles=job_facts.tiles(lines, curves, status, datetime.datetime.now(datetime.UTC)),
        sentences=_sentences(curves) if curves else [],
        links=job_facts.links(job_dir, finished=status.state == job_facts.FINISHED),
        changed=job_facts.changed(settings),
        charts=charts,
        chart_data=[chart.as_json() for chart in charts],
        chart_style=charts_lib.style(),
        chart_script=charts_lib.script(),
        epochs=job_facts.epochs(lines, curves),
        columns=_COLUMNS,
        samples=pictures.samples_uri,
        data=pictures.data,
        settings=settings,
    )
    files.make_dirs(paths.report)
    files.write_bytes(files.join(paths.report, "index.html"), text.encode("utf-8"))


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
