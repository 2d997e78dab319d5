"""Measure an exported model on a split: figures, scores of every image, and a page to read.

The export says all that is needed; no training settings are.
Does not own: scoring (``scorer.py``), figures (``metrics.py``), the page (``report.py``).
"""

import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import tqdm

from trainer import config, files, flags, serving, sources, terminal
from trainer.data import reading
from trainer.data.manifest import Split, read_split
from trainer.errors import EXIT_DONE, RequestError
from trainer.scorer import Scorer

if TYPE_CHECKING:  # Their libraries are slow to import, and a wrong flag should be answered at once.
    from trainer.metrics import Scored

USAGE = """\
Measure how well an exported model tells fake from real.

  python -m trainer.evaluate --model_dir=J/export/best --data_dir=D --split=Test --out=O [flags]

O receives metrics.json, predictions.csv, report.html, and skipped.jsonl if images could not be decoded.

  python -m trainer.evaluate --compare=O1,O2,... --out=C

puts finished evaluations side by side: C receives compare.html and compare.json.

Exit codes: 0 done; 2 the request is wrong, a retry cannot help; 75 gs:// did not answer, try later; 1 anything
else."""

_MISTAKES_SHOWN = 36
_SAMPLES_OF_A_CLASS = 6
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
    group_by: str = config.setting(
        "auto",
        "What a resample draws. none: images. A column of --groups: all images of one value together, as of one "
        "video. auto: the table's column source or video, else frames of one video by their file names, else images.",
    )
    groups: str = config.setting(
        "",
        "CSV with the header path,<column>...: figures by value of each column. Paths are as in predictions.csv; "
        "images without a row are of the group (none).",
    )
    threshold: str = config.setting(
        "", "Of two classes, answer the positive one from this probability up (0 to 1); empty: the export's threshold."
    )
    robustness: bool = config.setting(
        False,
        "Also score images after JPEG compression, blur, noise, down- and up-scaling, crop and brightness, each in "
        "several strengths.",
    )
    robustness_images: int = config.setting(
        2000, "Images for that at most, evenly spread over the classes; 0: all.", unit="images", minimum=0
    )
    update_card: bool = config.setting(
        False, "Also put the figures into the export's model_card.md, in place of earlier ones of the split."
    )
    compare: str = config.setting(
        "",
        "Folders of finished evaluations, separated by commas: figures on the images that all have, and differences "
        "from the first one. Nothing is scored; only out, bootstrap, seed, groups and group_by count beside it.",
    )
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
        numbers: ``[N]`` where the images stand in the split that was listed.
    """

    split: Split
    probabilities: npt.NDArray[np.float32]
    skipped: list[dict[str, str]]
    numbers: npt.NDArray[np.int64]


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code.

    Raises:
        RequestError: if flags, model or data are wrong.
    """
    request = flags.parse_request(argv, EvaluateFlags, usage=USAGE)
    if request.compare:
        return _compare(request)
    flags.require(request, ("model_dir", "data_dir", "split", "out"))
    if files.is_remote(request.out):  # Leaves nothing behind, and listing a large bucket takes minutes.
        files.require_writable(request.out, "out")
    export = with_threshold(serving.find_export(request.model_dir), request.threshold)
    split = read_split(request.data_dir, request.split, export.class_names)
    if not len(split):
        raise RequestError(
            f"expected images in {files.join(request.data_dir, request.split)!r}, received empty folders"
        )
    columns = sources.read_groups(request.groups, split.names, split.name) if request.groups else {}
    drawn = sources.find_sources(request.group_by, split.names, columns)
    files.require_writable(request.out, "out")
    if request.update_card:
        files.require_writable(export.path, "update_card")
    predictions = predict_split(export, split, request)
    columns = {name: [values[i] for i in predictions.numbers] for name, values in columns.items()}
    figures = evaluate(export, predictions, request, drawn.take(predictions.numbers), columns)
    print(terminal.summary(figures, request.out))
    if request.update_card:
        from trainer import model_card  # Late, as above.

        print(f"  {'card':<10}{model_card.add_evaluation(export.path, export.details, figures)}")
    return EXIT_DONE


def _compare(request: EvaluateFlags) -> int:
    flags.require(request, ("out",))
    if request.model_dir or request.data_dir:
        raise RequestError("--compare: expected no --model_dir and no --data_dir, as nothing is scored; leave them out")
    from trainer import compare_page  # Late, as above.

    found = compare_page.write(
        request.compare, request.out, group_by=request.group_by, groups=request.groups,
        resamples=request.bootstrap, seed=request.seed,
    )  # fmt: skip
    print(found)
    return EXIT_DONE


def with_threshold(export: serving.Export, text: str) -> serving.Export:
    """Return the export with another threshold; an empty text keeps its own.

    Raises:
        RequestError: if the text is no threshold, or a threshold decides nothing.
    """
    if not text:
        return export
    try:
        threshold = float(text)
    except ValueError:
        threshold = -1.0
    if not 0.0 <= threshold <= 1.0:
        raise RequestError(f"--threshold: expected a number from 0 to 1, or nothing, received {text!r}")
    if len(export.class_names) > 2:
        raise RequestError(
            f"--threshold: expected a model of two classes, received one of {len(export.class_names)}, which answers "
            "the likeliest; leave the flag out"
        )
    details = {**export.details, "threshold_choice": {"by": "--threshold", "why": ""}}
    return dataclasses.replace(export, threshold=threshold, details=details)


def predict_split(export: serving.Export, split: Split, request: EvaluateFlags) -> Predictions:
    """Score every image of a split once, and name those that cannot be.

    Raises:
        RequestError: if too many cannot be decoded, or the model does not load.
    """
    reader = reading.open_reader(split)
    scorer = Scorer(export)
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
    return Predictions(split.take(good, split.name), np.concatenate(rows)[good], skipped, np.array(good, np.int64))


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


def evaluate(
    export: serving.Export,
    predictions: Predictions,
    request: EvaluateFlags,
    drawn: sources.Sources,
    columns: sources.Columns,
) -> dict[str, Any]:
    """Write ``metrics.json``, ``predictions.csv`` and ``report.html``; return what the first holds.

    Args:
        export: the model.
        predictions: its answers.
        request: settings.
        drawn: what the bootstrap draws, for each image that was scored.
        columns: of the table of groups, for each image that was scored.
    """
    from trainer import calibration, groups, metrics, predictions_csv  # Late, as above.

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
        "drawn": drawn.describe(len(split)),
        **metrics.measure(scored, resamples=request.bootstrap, seed=request.seed, sources=drawn.numbers),
    }
    figures["threshold_choice"] = export.details.get("threshold_choice")
    if export.details.get("temperature", 1.0) != 1.0:
        figures["calibration"] = calibration.effect(scored, export.details["temperature"])
    if columns:
        figures["groups"] = groups.measure(scored, columns, drawn, resamples=request.bootstrap, seed=request.seed)
    if request.robustness:
        from trainer import robustness  # Loads TensorFlow.

        figures["robustness"] = robustness.measure(
            export, split, predictions.numbers, drawn,
            limit=request.robustness_images, resamples=request.bootstrap, seed=request.seed,
        )  # fmt: skip
    text = json.dumps(figures, indent=1, allow_nan=False)
    files.write_text(files.join(request.out, "metrics.json"), text + "\n")
    files.write_text(files.join(request.out, "predictions.csv"), predictions_csv.to_csv(scored, split.names))
    _write_report(export, scored, split, figures, request)
    return figures


def _write_report(
    export: serving.Export, scored: "Scored", split: Split, figures: dict[str, Any], request: EvaluateFlags
) -> None:
    from trainer import gallery, provenance, report  # Late, as above.
    from trainer.curves import read_curves

    job_dir, worst = provenance.job_of(export.path), gallery.worst_mistakes(scored)[:_MISTAKES_SHOWN]
    maps = gallery.explain(export, split, worst.tolist())
    report.write_evaluation_report(
        files.join(request.out, "report.html"),
        figures,
        scored,
        mistakes=gallery.pictures(split, scored, worst, maps),
        no_heat_maps=maps.why_not,
        samples=gallery.pictures(split, scored, gallery.spread_samples(scored, _SAMPLES_OF_A_CLASS)),
        curves=read_curves(job_dir),
        details=export.details,
        counts=provenance.counts(job_dir, figures),
        made={**provenance.scored("trainer.evaluate", request), **provenance.trained(job_dir, export.details)},
    )


def console() -> None:
    """Serve as the console script."""
    sys.exit(flags.run_command(main))


if __name__ == "__main__":
    console()
