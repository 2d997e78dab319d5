"""Train the best settings again with other seeds, one job each, to measure how much of the best score was luck."""

import json
import logging
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.core import checked_json, result
from trainer.core import config as config_lib
from trainer.core.config import Config
from trainer.core.errors import JobFailed, RequestError
from trainer.core.job_dir import JobPaths
from trainer.core.signals import StopRequest
from trainer.core.storage import files
from trainer.data.manifest import TEST, has_split
from trainer.evaluation.request import EvaluateFlags
from trainer.reports import console, evaluate
from trainer.sweep import trial
from trainer.sweep.records import Record, best_settings
from trainer.sweep.request import Request

log = logging.getLogger(__name__)


def run(request: Request, best: Record, stop: StopRequest) -> dict[str, Any]:
    """Train the seeds after --seed, score them, write ``retrain.json``, and return what it holds.

    Calling it again resumes: finished seeds are not trained again, and Test is not scored again.

    Raises:
        StoppedEarly: after a stop request, with everything saved.
        JobFailed: if a seed's job fails.
    """
    figures: dict[str, list[dict[str, float]]] = {"Validation": [], TEST: []}
    seeds = range(request.base.loop.seed + 1, request.base.loop.seed + 1 + request.sweep.retrain_best)
    for seed in seeds:
        config = _config(request, best, seed)
        log.info("retraining trial %s with seed %d", best.trial, seed)
        outcome = _train(request, config, stop)
        figures["Validation"].append(_numbers(outcome.validation))
        test_figures = _test(config, outcome)
        figures[TEST] += [test_figures] if test_figures else []
    content = {
        "trial": best.trial,
        "seeds": list(seeds),
        **{split: _spread(rows) for split, rows in figures.items() if rows},
    }
    files.write_text(files.join(request.base.loop.job_dir, "retrain.json"), json.dumps(content, indent=1) + "\n")
    return content


def _config(request: Request, best: Record, seed: int) -> Config:
    # Named after the trial: with more trials another one may become the best.
    folder = files.join(request.base.loop.job_dir, "retrain", f"{best.trial}-seed-{seed}")
    return config_lib.from_flat({**best_settings(request, best), "job_dir": folder, "seed": seed})


def _train(request: Request, config: Config, stop: StopRequest) -> result.Result:
    try:
        return trial.run_apart(config, stop) if request.sweep.isolate_trials else trial.run_here(config)
    except trial.TrialFailed as failure:
        raise JobFailed(f"{config.loop.job_dir}: {failure}") from failure


def _test(config: Config, outcome: result.Result) -> dict[str, float]:
    """Return figures on Test, scored once; empty without Test images or without an export of the best epoch."""
    if "best" not in outcome.exports or not has_split(config.data.data_dir, TEST):
        return {}
    out = files.join(config.loop.job_dir, "test")
    path = files.join(out, "metrics.json")
    if not files.exists(path):
        model = JobPaths(config.loop.job_dir).exports("best")
        request = EvaluateFlags(model_dir=model, data_dir=config.data.data_dir, split=TEST, out=out)
        try:
            print(console.summary(evaluate.evaluate(request), out))
        except RequestError as error:  # The retrained model is kept; only its Test figures are missing.
            log.warning("seed %d was not evaluated on %s: %s", config.loop.seed, TEST, error)
    if not files.exists(path):
        return {}
    return _numbers(checked_json.read(path, {}, remedy="remove it, and rerun the same command to score Test again"))


def _numbers(figures: Mapping[str, Any]) -> dict[str, float]:
    numbers = {"loss": figures.get("loss", figures.get("log_loss"))}
    numbers |= {name: figures.get(name) for name in ("accuracy", "auc")}
    return {name: float(value) for name, value in numbers.items() if value is not None}


def _spread(rows: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return mean and standard deviation (of one more seed; 0 for a single one) of each figure."""
    spread = {}
    for name in rows[0]:
        values = [row[name] for row in rows if name in row]
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        spread[name] = {"mean": statistics.fmean(values), "std": deviation, "n": len(values)}
    return spread


def sentence(content: Mapping[str, Any], metric: str) -> str:
    """Return the summary for the terminal."""
    parts = [
        f"{split} {metric} {content[split][metric]['mean']:.4f} +- {content[split][metric]['std']:.4f}"
        for split in ("Validation", TEST)
        if metric in content.get(split, {})
    ]
    return f"{len(content['seeds'])} other seeds: {', '.join(parts)} (mean and standard deviation)"
