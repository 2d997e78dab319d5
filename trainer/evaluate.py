"""Measure an exported model on a split: figures, scores of every image, and a page to read.

The export says all that is needed; no training settings are.
Does not own: scoring (``serving.py``), figures (``metrics.py``), the page (``report.py``).
"""

import csv
import dataclasses
import io
import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tqdm

from trainer import config, files, flags, serving
from trainer.data import reading
from trainer.data.manifest import Split, read_split
from trainer.errors import EXIT_DONE, RequestError

if TYPE_CHECKING:  # Their libraries are slow to import, and a wrong flag should be answered at once.
    from trainer.metrics import Scored
    from trainer.pages import Picture

USAGE = """\
Measure how well an exported model tells fake from real.

  python -m trainer.evaluate --model_dir=J/export/best --data_dir=D --split=Test --out=O [flags]

O receives metrics.json, predictions.csv, report.html, and skipped.jsonl if images could not be decoded.

Exit codes: 0 done; 2 the request is wrong, a retry cannot help; 75 gs:// did not answer, try later; 1 anything
else."""

_MISTAKES_SHOWN = 36
_SAMPLES_OF_A_CLASS = 6
_THUMBNAIL = 144  # Pixels.
_FROM_EXPORT = ("step", "epoch", "created")


@dataclasses.dataclass(frozen=True)
class EvaluateFlags:
    """Settings of one evaluation."""

    model_dir: str = config.setting(
        "", "Exported model: a job's export/best (its newest version is used) or one version of it."
    )
    data_dir: str = config.setting("", "Folder or gs:// path that holds the split.")
    split: str = config.setting("Test", "Folder below data_dir, with a folder of images for each class.")
    out: str = config.setting("", "Folder or gs:// path for the results.")
    batch_size: int = config.setting(64, "Images scored at a time.", unit="images", minimum=1)
    bootstrap: int = config.setting(
        1000, "Resamples behind the 95% intervals; 0: no intervals.", unit="resamples", minimum=0, maximum=1e6
    )
    seed: int = config.setting(0, "Of the resamples.", minimum=0)
    max_bad_fraction: float = config.setting(
        0.05,
        "Exit with code 2 if more than this share of the split is unreadable.",
        minimum=0.0,
        maximum=1.0,
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Predictions:
    """The model's output on a split.

    Attributes:
        split: the images that could be scored, in the manifest's order.
        probabilities: ``[N, C]`` float32.
        skipped: the others, ready for ``skipped.jsonl``.
    """

    split: Split
    probabilities: npt.NDArray[np.float32]
    skipped: list[dict[str, str]]


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        RequestError: if flags, model or data are wrong.
    """
    request = flags.parse_request(argv, EvaluateFlags, usage=USAGE, required=("model_dir", "data_dir", "split", "out"))
    if files.is_remote(request.out):  # Leaves nothing behind, and listing a large bucket takes minutes.
        files.require_writable(request.out, "out")
    export = serving.find_export(request.model_dir)
    split = read_split(request.data_dir, request.split, export.class_names)
    if not len(split):
        raise RequestError(
            f"expected images in {files.join(request.data_dir, request.split)!r}, received empty folders"
        )
    files.require_writable(request.out, "out")
    predictions = predict_split(export, split, request)
    figures = evaluate(export, predictions, request)
    print(summary(figures, request.out))
    return EXIT_DONE


def predict_split(export: serving.Export, split: Split, request: EvaluateFlags) -> Predictions:
    """Score every image of a split once, and name those that cannot be.

    Raises:
        RequestError: if too many cannot be decoded, or the model does not load.
    """
    reader = reading.open_reader(split)
    scorer = serving.Scorer(export)
    rows: list[npt.NDArray[np.float32]] = []
    bad: dict[int, str] = {}
    with tqdm.tqdm(total=len(split), unit="image", file=sys.stderr, disable=None, leave=False) as bar:
        for answers in scorer.score(len(split), reader.read_one, request.batch_size):
            rows.append(answers.probabilities)
            bad |= {answers.start + position: reason for position, reason in answers.errors.items()}
            bar.update(len(answers.probabilities))
    skipped = [
        {"split": split.name, "path": files.printable(split.names[index]), "reason": reason}
        for index, reason in bad.items()
    ]
    _settle(skipped, len(split), request)
    good = [index for index in range(len(split)) if index not in bad]
    return Predictions(split.take(good, split.name), np.concatenate(rows)[good], skipped)


def _settle(skipped: Sequence[dict[str, str]], images: int, request: EvaluateFlags) -> None:
    """Write ``skipped.jsonl`` (an older one must not outlive its run), and refuse too many."""
    path = files.join(request.out, "skipped.jsonl")
    if skipped or files.exists(path):
        files.write_text(path, "".join(json.dumps(entry) + "\n" for entry in skipped))
    for entry in skipped:
        print(f"skipped {entry['path']}: {entry['reason']}", file=sys.stderr)
    if len(skipped) > request.max_bad_fraction * images or len(skipped) == images:
        raise RequestError(
            f"expected at most {request.max_bad_fraction:.1%} of {images} images of {request.split} to be "
            f"bad, received {len(skipped)}, such as {skipped[0]['path']} ({skipped[0]['reason']}); see "
            f"{path}, repair or remove them, or raise --max_bad_fraction"
        )


def evaluate(export: serving.Export, predictions: Predictions, request: EvaluateFlags) -> dict[str, Any]:
    """Write ``metrics.json``, ``predictions.csv`` and ``report.html``; return what the first holds."""
    from trainer import metrics  # Late, as above.

    split = predictions.split
    scored = metrics.Scored.of(
        split.labels, predictions.probabilities, export.class_names, export.positive, export.threshold
    )
    figures: dict[str, Any] = {
        "split": request.split,
        "data_dir": request.data_dir,
        "class_names": list(export.class_names),
        "positive_class": export.positive_class,
        "skipped": len(predictions.skipped),
        "model": {"path": export.path, **{name: export.details.get(name) for name in _FROM_EXPORT}},
        "bootstrap": request.bootstrap,
        "seed": request.seed,
        **metrics.measure(scored, resamples=request.bootstrap, seed=request.seed),
    }
    text = json.dumps(figures, indent=1, allow_nan=False)
    files.write_text(files.join(request.out, "metrics.json"), text + "\n")
    files.write_text(files.join(request.out, "predictions.csv"), to_csv(export, scored, split))
    _write_report(export, scored, split, figures, files.join(request.out, "report.html"))
    return figures


def to_csv(export: serving.Export, scored: "Scored", split: Split) -> str:
    """Return ``path,label,p_fake`` of every image, in the manifest's order; ``label`` is the true class.

    For more than two classes ``predicted`` and a ``p_<class>`` of each follow.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    many = len(export.class_names) > 2
    more = ["predicted", *(f"p_{name}" for name in export.class_names)] if many else []
    writer.writerow(["path", "label", "p_fake", *more])
    for name, label, predicted, probabilities in zip(
        split.names, scored.labels, scored.predicted, scored.probabilities, strict=True
    ):
        numbers = [f"{value:.9g}" for value in probabilities]
        row = [files.printable(name), export.class_names[label], numbers[export.positive]]
        writer.writerow([*row, export.class_names[predicted], *numbers] if many else row)
    return text.getvalue()


def _write_report(export: serving.Export, scored: "Scored", split: Split, figures: dict[str, Any], path: str) -> None:
    from trainer import report  # Late, as above.
    from trainer.curves import read_curves

    job_dir = _job_dir(export.path)
    report.write_evaluation_report(
        path,
        figures,
        scored,
        mistakes=_pictures(split, scored, worst_mistakes(scored)[:_MISTAKES_SHOWN]),
        samples=_pictures(split, scored, spread_samples(scored, _SAMPLES_OF_A_CLASS)),
        curves=read_curves(job_dir),
        details=export.details,
    )


def _job_dir(version: str) -> str:
    """Return where a version folder's job would be: J of ``J/export/best/120``."""
    absolute = version if files.is_remote(version) else os.path.abspath(version)
    return absolute.rstrip("/").rsplit("/", 3)[0]


def worst_mistakes(scored: "Scored") -> npt.NDArray[np.int64]:
    """Return the positions of images called wrong, the one with the least probability for its class first."""
    of_truth = scored.probabilities[np.arange(len(scored.labels)), scored.labels]
    wrong = np.flatnonzero(scored.predicted != scored.labels)
    return np.asarray(wrong[np.argsort(of_truth[wrong], kind="stable")], np.int64)


def spread_samples(scored: "Scored", of_a_class: int) -> npt.NDArray[np.int64]:
    """Return positions of up to so many images of each class, evenly spread over its images."""
    chosen = []
    for label in range(len(scored.class_names)):
        members = np.flatnonzero(scored.labels == label)
        count = min(of_a_class, len(members))
        chosen.append(members[np.linspace(0, len(members) - 1, count).round().astype(np.int64)])
    return np.concatenate(chosen)


def _pictures(split: Split, scored: "Scored", positions: npt.NDArray[np.int64]) -> "list[Picture]":
    """Load thumbnails of the images at ``positions``, with what they are and what they were called."""
    from trainer import pages  # Late, as above.
    from trainer.data.images import Images

    source = Images(split, config.DataConfig(image_size=_THUMBNAIL))
    images = source.load(positions).images
    positive = scored.class_names[scored.positive]
    pictures = []
    for image, index in zip(images, positions, strict=True):
        truth, called = (scored.class_names[labels[index]] for labels in (scored.labels, scored.predicted))
        said = f"right: {called}" if truth == called else f"is {truth}, called {called}"
        caption = f"{said}; p({positive}) {scored.p_fake[index]:.3f}"
        pictures.append(pages.picture(image, files.printable(split.names[index]), caption))
    return pictures


def summary(figures: Mapping[str, Any], out: str) -> str:
    """Return the short table that ends the command."""
    lines = [f"{figures['split']}: {figures['n']:,} images, {figures['skipped']} skipped"]
    for name, title in (("accuracy", "accuracy"), ("auc", "AUC"), ("eer", "EER")):
        value, interval = figures[name], figures["ci95"][name]
        shown = f"undefined, because {figures['undefined'][name]}" if value is None else f"{value:.4f}"
        span = f"  (95%: {interval[0]:.4f} to {interval[1]:.4f})" if interval else ""
        lines.append(f"  {title:<10}{shown}{span}")
    return "\n".join([*lines, f"  {'report':<10}{files.join(out, 'report.html')}"])


def console() -> None:
    """Serve as the console script."""
    sys.exit(flags.run_command(main))


if __name__ == "__main__":
    console()
