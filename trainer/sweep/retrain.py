"""Train the best settings again with other seeds, one job each, to measure how much of the best score was luck."""

import json
import logging
from collections.abc import Mapping
from typing import Any

from trainer.core import config as config_lib
from trainer.core import result
from trainer.core.config import Config
from trainer.core.errors import JobFailed
from trainer.core.signals import StopRequest
from trainer.core.storage import files
from trainer.data.manifest import TEST, VALIDATION
from trainer.sweep import spread, trial
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
    figures: dict[str, list[spread.Figures]] = {split: [] for split in spread.SPLITS}
    seeds = range(request.base.loop.seed + 1, request.base.loop.seed + 1 + request.sweep.retrain_best)
    for seed in seeds:
        config = _config(request, best, seed)
        log.info("retraining trial %s with seed %d", best.trial, seed)
        outcome = _train(request, config, stop)
        figures[VALIDATION].append(spread.on_validation(outcome))
        figures[TEST].append(spread.on_test(config, outcome))
    content = {"trial": best.trial, "seeds": list(seeds), **spread.of_splits(figures)}
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


def sentence(content: Mapping[str, Any], metric: str) -> str:
    """Return the summary for the terminal."""
    parts = [
        f"{split} {metric} {content[split][metric]['mean']:.4f} +- {content[split][metric]['std']:.4f}"
        for split in spread.SPLITS
        if metric in content.get(split, {})
    ]
    return f"{len(content['seeds'])} other seeds: {', '.join(parts)} (mean and standard deviation)"
