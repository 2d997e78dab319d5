"""Compare finished evaluations: metrics on the images that all have in common, and paired differences.

Models are compared image by image, each resample being the same for all: what makes images hard for both cancels out,
so a difference can be clear although the models' own intervals overlap.
Owns: reading evaluations, choosing the images, differences.  Does not own: metrics (``metrics/``), the page
(``reports/compare.py``).  Imports no TensorFlow.
"""

import csv
import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.core import checked_json
from trainer.core.checked_json import CLASSES, COUNT, PROBABILITY, TEXT
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.evaluation import bootstrap, metrics, sources
from trainer.evaluation import predictions as predictions_lib
from trainer.evaluation.predictions import Predictions

FEWEST = 10  # Images in common; a difference on fewer means nothing.
_DISAGREEMENTS = 50
_FIELDS = {"class_names": CLASSES, "positive_class": TEXT, "threshold": PROBABILITY, "n": COUNT}  # Of metrics.json.
_FROM_METRICS = ("split", "data_dir", "model", "threshold", "n", "drawn")

Floats = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """An evaluation as ``trainer.evaluate`` wrote it.

    Attributes:
        name: short, and unique among the evaluations compared.
        path: the folder.
        details: of its ``metrics.json``: split, data_dir, model, threshold, n, drawn, positive_class.
        paths: of the images.
        predictions: the model's, ``[N]`` in the order of ``paths``.
    """

    name: str
    path: str
    details: Mapping[str, Any]
    paths: list[str]
    predictions: Predictions


def read_evaluations(text: str) -> list[Evaluation]:
    """Read the folders of ``--compare``, and bring the classes of all into the first one's order.

    Raises:
        RequestError: if there are fewer than two, one is not an evaluation, or their classes differ.
    """
    folders = [folder.strip().rstrip("/") for folder in text.split(",") if folder.strip()]
    if len(folders) < 2 or len(set(folders)) < len(folders):
        raise RequestError(
            f"--compare: expected two or more different folders of evaluations, separated by commas, received {text!r}"
        )
    evaluations: list[Evaluation] = []
    for name, folder in zip(_short_names(folders), folders, strict=True):
        files.require_form(folder, "compare")
        evaluations.append(_read(name, folder, evaluations[0] if evaluations else None))
    return evaluations


def _short_names(folders: Sequence[str]) -> list[str]:
    """Return the shortest trailing parts of the paths that are all different."""
    parts = [folder.split("/") for folder in folders]
    for length in itertools.count(1):
        names = ["/".join(words[-length:]) for words in parts]
        if len(set(names)) == len(names):
            break
    return names


def _read(name: str, folder: str, first: Evaluation | None) -> Evaluation:
    texts = []
    for file in ("metrics.json", "predictions.csv"):
        try:
            texts.append(files.read_text(files.join(folder, file)))
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(
                f"--compare: expected {file} in {folder!r}, as trainer.evaluate writes it, received {error}"
            ) from error
    metrics_file = files.join(folder, "metrics.json")
    details = checked_json.parse(
        texts[0], _FIELDS, name=f"--compare: expected {metrics_file!r}", remedy="evaluate again"
    )
    try:
        names, positive = details["class_names"], details["positive_class"]
        same = not first or (set(names), positive) == (
            set(first.predictions.class_names),
            first.details["positive_class"],
        )
        order = first.predictions.class_names if first and same else names
        paths, answers = predictions_lib.from_csv(texts[1], order, positive, float(details["threshold"]))
        about = {**{name: details[name] for name in _FROM_METRICS}, "positive_class": positive}
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise RequestError(
            f"--compare: expected metrics.json and predictions.csv of one evaluation in {folder!r}, received files "
            f"that do not fit ({type(error).__name__}: {error}); evaluate again"
        ) from error
    if first and not same:
        raise RequestError(
            f"--compare: expected the classes of {first.path!r} ({_classes(first)}), received {', '.join(names)}; "
            f"positive {positive} in {folder!r}; only models of the same classes can be compared"
        )
    return Evaluation(name, folder, about, paths, answers)


def _classes(one: Evaluation) -> str:
    return f"{', '.join(one.predictions.class_names)}; positive {one.details['positive_class']}"


def in_common(evaluations: Sequence[Evaluation]) -> list[Evaluation]:
    """Return the evaluations restricted to the images that all have, in the first one's order.

    Raises:
        RequestError: if there are too few, or two evaluations disagree on the true class of an image.
    """
    first, *others = evaluations
    shared = set(first.paths).intersection(*(other.paths for other in others))
    if len(shared) < FEWEST:
        counts = ", ".join(f"{len(one.paths):,} of {one.name}" for one in evaluations)
        raise RequestError(
            f"--compare: expected at least {FEWEST} images that all evaluations have, by path, received {len(shared)} "
            f"({counts}); evaluate the models on the same split"
        )
    paths = [path for path in first.paths if path in shared]
    kept = []
    for one in evaluations:
        places = {path: number for number, path in enumerate(one.paths)}
        shared_predictions = one.predictions.select(np.array([places[path] for path in paths], np.int64))
        kept.append(dataclasses.replace(one, paths=paths, predictions=shared_predictions))
        wrong = np.flatnonzero(shared_predictions.labels != kept[0].predictions.labels)
        if len(wrong):
            raise RequestError(
                f"--compare: expected the same true classes, received {len(wrong):,} images that {first.name} and "
                f"{one.name} disagree on, such as {paths[wrong[0]]}; these are not the same images"
            )
    return kept


def find_sources(first: Evaluation, group_by: str, groups: str) -> tuple[sources.Sources, str]:
    """Return what a resample draws, and a note if the first evaluation used sources that are not known here.

    Args:
        first: restricted to the images in common.
        group_by: as for ``trainer.evaluate``; ``auto`` draws single images if the evaluation did.
        groups: the table of groups; empty without one.

    Raises:
        RequestError: if the file is not a table of groups, or lacks the column.
    """
    first_drawn = first.details["drawn"]
    columns = sources.read_groups(groups, first.paths, first.details["split"]) if groups else {}
    if group_by == "auto" and not groups and first_drawn["unit"] == "images":
        return sources.Sources(None, "each image by itself, as in the first evaluation"), ""
    image_sources = sources.find_sources(group_by, first.paths, columns)
    lost = image_sources.numbers is None and first_drawn["unit"] == "sources" and group_by == "auto"
    note = (
        f"The first evaluation drew sources by {first_drawn['rule']}, which is not known here (give --groups): "
        "intervals over single images may be too narrow."
    )
    return image_sources, note if lost else ""


def measure(evaluations: Sequence[Evaluation], units: sources.Sources, *, resamples: int, seed: int) -> dict[str, Any]:
    """Return the contents of ``compare.json``.

    ``runs`` hold the metrics of the common images as ``metrics.json`` does.  ``differences`` are run minus first, for
    all runs but the first, with the 95% percentile interval of paired resamples and a ``verdict`` (better, worse, no
    clear difference; None without an interval).

    Args:
        evaluations: two or more, restricted to the images in common.
        units: of resampling, sources or images.
        resamples: bootstrap resamples; 0: no intervals.
        seed: of the resamples.
    """
    runs = []
    for one in evaluations:
        figures = metrics.measure(one.predictions, resamples=resamples, seed=seed, sources=units.numbers)
        about = {name: one.details[name] for name in ("split", "data_dir", "model")}
        runs.append({"name": one.name, "path": one.path, "images": one.details["n"], **about, **figures})
    intervals = _paired(evaluations, units, resamples, seed)
    differences = {
        run["name"]: {
            name: _difference(
                metrics.by_name(runs[0], name), metrics.by_name(run, name), intervals.get(f"{number}:{name}"), name
            )
            for name in runs[0]["ci95"]
        }
        for number, run in enumerate(runs[1:], start=1)
    }
    return {
        "images": len(evaluations[0].paths),
        "class_names": list(evaluations[0].predictions.class_names),
        "positive_class": evaluations[0].details["positive_class"],
        "drawn": units.describe(len(evaluations[0].paths)),
        "bootstrap": resamples,
        "seed": seed,
        "runs": runs,
        "differences": differences,
        **_disagreements(evaluations),
    }


def _paired(
    evaluations: Sequence[Evaluation], units: sources.Sources, resamples: int, seed: int
) -> dict[str, list[float] | None]:
    """Return intervals of run minus first by ``<number>:<metric>``; none without resamples or with one source."""
    images = len(evaluations[0].paths)
    count = images if units.numbers is None else int(units.numbers.max()) + 1
    if not resamples or count < 2:
        return {}
    first, *others = (metrics.resampled(one.predictions) for one in evaluations)

    def figures(counts: Floats) -> dict[str, Floats]:
        base = first(counts)
        return {
            f"{number}:{name}": values - base[name]
            for number, other in enumerate(others, start=1)
            for name, values in other(counts).items()
        }

    return bootstrap.intervals(figures, images, resamples=resamples, seed=seed, sources=units.numbers)


def _difference(first: float | None, run: float | None, interval: list[float] | None, name: str) -> dict[str, Any]:
    if first is None or run is None:
        return {"difference": None, "ci95": None, "verdict": None}
    verdict = None
    if interval:
        better = interval[1] < 0 if metrics.all_metrics()[name].lower_is_better else interval[0] > 0
        clear = interval[0] > 0 or interval[1] < 0
        verdict = ("better" if better else "worse") if clear else "no clear difference"
    return {"difference": run - first, "ci95": interval, "verdict": verdict}


def _disagreements(evaluations: Sequence[Evaluation]) -> dict[str, Any]:
    """Return how many images get different answers, and the images whose probabilities differ most.

    The distance is total variation (for two classes, the difference of p_fake), the largest over all pairs of runs.
    """
    answers = np.stack([one.predictions.predicted for one in evaluations])
    apart = np.zeros(answers.shape[1])
    for one, other in itertools.combinations(evaluations, 2):
        apart = np.maximum(
            apart, np.abs(one.predictions.probabilities - other.predictions.probabilities).sum(axis=1) / 2
        )
    first = evaluations[0]
    worst = np.argsort(-apart, kind="stable")[:_DISAGREEMENTS]
    names = first.predictions.class_names
    rows = [
        {
            "path": first.paths[index],
            "label": names[first.predictions.labels[index]],
            "distance": float(apart[index]),
            "p_fake": {one.name: float(one.predictions.p_fake[index]) for one in evaluations},
            "predicted": {one.name: names[one.predictions.predicted[index]] for one in evaluations},
        }
        for index in worst
        if apart[index] > 0
    ]
    return {"answered_differently": int((answers != answers[0]).any(axis=0).sum()), "disagreements": rows}
