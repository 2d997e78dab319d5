"""Figures of jobs that differ in their seeds alone, on Validation and Test, and how far they spread.

Used by ``--seeds`` and by a sweep's ``--retrain_best``.  Does not own: training the jobs (``trial.py``).
"""

import dataclasses
import logging
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.core import checked_json
from trainer.core.checked_json import OBJECT
from trainer.core.config import Config
from trainer.core.errors import RequestError
from trainer.core.job_dir import JobPaths
from trainer.core.result import Result
from trainer.core.storage import files
from trainer.data.manifest import TEST, VALIDATION, has_split
from trainer.evaluation.request import EvaluateFlags
from trainer.models import keras_settings

log = logging.getLogger(__name__)

Figures = dict[str, float]

SPLITS = (VALIDATION, TEST)
FIGURES = ("loss", "accuracy", "auc")


def on_validation(outcome: Result) -> Figures:
    """Return a job's figures at its best epoch."""
    return _numbers(outcome.validation)


def on_test(config: Config, outcome: Result) -> Figures:
    """Return figures on Test, scored once; empty without Test images or without an export of the best epoch."""
    if "best" not in outcome.exports or not has_split(config.data.data_dir, TEST, config.layout):
        return {}
    out = files.join(config.loop.job_dir, "test")
    path = files.join(out, "metrics.json")
    figures = _scored(path, outcome)
    if not figures:
        _evaluate(config, out)
        figures = _scored(path, outcome)
    return _numbers(figures)


def _scored(path: str, outcome: Result) -> dict[str, Any]:
    """Return the figures of an evaluation of this very export; empty without one."""
    if not files.exists(path):
        return {}
    remedy = "remove it, and rerun the same command to score Test again"
    figures = checked_json.read(path, {"model": OBJECT}, remedy=remedy)
    scored = figures["model"].get("step"), figures.get("threshold")
    return figures if scored == (outcome.best_step, outcome.thresholds.get("best")) else {}


def _evaluate(config: Config, out: str) -> None:
    keras_settings.load()
    from trainer.reports import console, evaluate  # Late: its libraries are slow to import.

    model = JobPaths(config.loop.job_dir).exports("best")
    settings = dataclasses.asdict(config.layout)
    request = EvaluateFlags(model_dir=model, data_dir=config.data.data_dir, split=TEST, out=out, **settings)
    try:
        print(console.summary(evaluate.evaluate(request), out))
    except RequestError as error:  # The trained model is kept; only its Test figures are missing.
        log.warning("seed %d was not evaluated on %s: %s", config.loop.seed, TEST, error)


def _numbers(figures: Mapping[str, Any]) -> Figures:
    numbers = {"loss": figures.get("loss", figures.get("log_loss"))}
    numbers |= {name: figures.get(name) for name in ("accuracy", "auc")}
    return {name: float(value) for name, value in numbers.items() if value is not None}


def of_splits(figures: Mapping[str, Sequence[Figures]]) -> dict[str, dict[str, Figures]]:
    """Return the spread of each split's figures; splits without any are left out."""
    return {split: _of(rows) for split, rows in figures.items() if any(rows)}


def _of(rows: Sequence[Figures]) -> dict[str, Figures]:
    """Return mean, standard deviation (of one more seed; 0 for a single one), bounds and number of each figure."""
    spread: dict[str, Figures] = {}
    for name in FIGURES:
        values = [row[name] for row in rows if name in row]
        if values:
            deviation = statistics.stdev(values) if len(values) > 1 else 0.0
            spread[name] = {"mean": statistics.fmean(values), "std": deviation, "min": min(values), "max": max(values),
                            "n": len(values)}  # fmt: skip
    return spread
