"""``trainer.train --seeds=N``: the same job with N seeds, each in its own process and folder, and how far they spread.

A process trains one seed only: a strategy and a precision belong to a process, and its memory is free again afterwards.
Owns: the order of seeds, ``seeds.json``.  Does not own: figures (``spread.py``), the process of a seed (``trial.py``),
the table and the page (``reports/seeds.py``).  Imports no TensorFlow until Test is scored.
"""

import json
import logging
import sys
import time
from collections.abc import Sequence
from typing import Any

from trainer.core import checked_json, result, signals, terminal
from trainer.core.checked_json import OBJECT, OBJECTS, TEXT
from trainer.core.config import Config
from trainer.core.errors import EXIT_DONE, EXIT_REQUEST, JobFailed, RequestError, StoppedEarly
from trainer.core.job_dir import JobPaths, SeedPaths, SweepPaths
from trainer.core.signals import StopRequest
from trainer.core.storage import files, lock
from trainer.data import manifest
from trainer.data.manifest import TEST, VALIDATION
from trainer.distributed.cluster import Cluster
from trainer.serving import exported_model
from trainer.sweep import spread, trial
from trainer.training import resume
from trainer.training.start.time_left import Series

log = logging.getLogger(__name__)

RUNNING, DONE, FAILED = "running", "done", "failed"

_FIELDS = {"status": TEXT, "settings": OBJECT, "jobs": OBJECTS}
_REMEDY = "remove it, and rerun the same command: the jobs in its folder stay"
_BETWEEN = "between two seeds, everything is saved; rerun the same command to resume"
_SCORING = "while Test is scored, everything is saved; rerun the same command to resume"

Entry = dict[str, Any]  # One seed in seeds.json.


def run(config: Config, cluster: Cluster) -> int:
    """Train all seeds, print their table and return the exit code; calling it again resumes.

    A seed that fails does not keep the others from training.

    Raises:
        RequestError: if the request is wrong, or job_dir holds something else.
        StoppedEarly: after a stop request, with everything saved.
        JobFailed: after all seeds, if one failed or fell short of ``--require_auc``.
    """
    if cluster.num_workers > 1:
        raise RequestError(
            f"--seeds: expected one process, received a cluster of {cluster.num_workers}; start one command for each "
            "seed, with its --seed and --job_dir"
        )
    jobs = _jobs(config)
    paths = SeedPaths(config.loop.job_dir)
    with signals.stop_requests() as stop:
        stop.at_once = _BETWEEN
        with lock.hold(JobPaths(paths.job_dir)):
            files.require_writable(paths.job_dir, "job_dir")
            _prepare(config, paths)
            content = _group(config, paths, jobs, stop)
    _print(content, paths)
    _refuse_failures(content, paths)
    return EXIT_DONE


def _jobs(config: Config) -> list[Config]:
    """Return the settings of each seed's job."""
    paths, first = SeedPaths(config.loop.job_dir), config.loop.seed
    return [
        config.replace(seed=seed, seeds=1, job_dir=paths.job(seed), resume="auto")
        for seed in range(first, first + config.loop.seeds)
    ]


def _prepare(config: Config, paths: SeedPaths) -> None:
    """Start over, or make sure that job_dir may hold this group."""
    if config.checkpoint.resume == "never" and not _is_begun(config, paths):
        resume.move_aside(JobPaths(paths.job_dir))
    others = {JobPaths(paths.job_dir).config: "a single job", SweepPaths(paths.job_dir).request: "a sweep"}
    for path, what in others.items():
        if files.exists(path):
            raise RequestError(
                f"--seeds: expected a new job_dir or one of several seeds, received {paths.job_dir!r}, which holds "
                f"{what}; use another --job_dir"
            )
    if files.exists(paths.group):
        return
    if config.checkpoint.resume == "required":
        raise RequestError(f"--resume=required: expected jobs of several seeds in {paths.job_dir!r}, received none")
    # A wrong request is refused here once.  Later the images may only be away, which a seed's job tells apart.
    data = config.data
    manifest.read_train_and_validation(
        data.data_dir, data.validation_fraction, config.loop.seed, self_blended=config.self_blended,
        layout=config.layout,
    )  # fmt: skip
    if config.export.kinds:
        exported_model.require_loadable(paths.job_dir, "job_dir")


def _is_begun(config: Config, paths: SeedPaths) -> bool:
    """Return whether the folder holds unfinished seeds of this very request, which a scheduler repeats."""
    if not files.exists(paths.group):
        return False
    try:
        before = checked_json.read(paths.group, _FIELDS, remedy=_REMEDY, what="a group of seeds")
    except RequestError:
        return False
    return bool(before["status"] != DONE and before["settings"] == config.flat())


def _group(config: Config, paths: SeedPaths, jobs: Sequence[Config], stop: StopRequest) -> dict[str, Any]:
    """Train each seed, then score each on Test; return the contents of ``seeds.json``."""
    entries: list[Entry] = []
    started = time.monotonic()
    _write(config, paths, entries, RUNNING)
    for number, job in enumerate(jobs, 1):
        series = Series(f"seed {job.loop.seed}", number, len(jobs))
        entries.append(_train(_within(job, started), stop, series))
        stop.at_once = _BETWEEN
        _write(config, paths, entries, RUNNING)
    # Only now, as scoring loads TensorFlow into this process, which would take a part of the device from the others.
    stop.at_once = _SCORING
    _score(jobs, entries)
    status = DONE if all(entry["status"] == DONE for entry in entries) else FAILED
    content = _write(config, paths, entries, status)
    _draw(paths, content)
    return content


def _within(job: Config, started: float) -> Config:
    """Return the job with what is left of ``--max_seconds``, which is for all seeds together.

    Raises:
        StoppedEarly: if nothing is left.
    """
    limit = job.loop.max_seconds
    left = limit - (time.monotonic() - started)
    if limit and left <= 0:
        raise StoppedEarly(f"--max_seconds {_BETWEEN}")
    return job.replace(max_seconds=left) if limit else job


def _train(job: Config, stop: StopRequest, series: Series) -> Entry:
    """Train one seed to its end, from where an earlier start stopped; return its entry.

    Raises:
        RequestError: if its settings are wrong, as those of the other seeds are then.
        StoppedEarly: after a stop request, with everything saved.
    """
    seed = job.loop.seed
    log.info("%s: %s", series.title if sys.stderr.isatty() else series.name, job.loop.job_dir)
    entry: Entry = {"seed": seed, "job_dir": job.loop.job_dir, "status": DONE, "reason": ""}
    try:
        outcome = trial.run_apart(job, stop, series=series)
    except trial.TrialFailed as failure:
        if failure.code == EXIT_REQUEST:
            raise RequestError(f"seed {seed}: {failure}") from failure
        log.warning("seed %d failed: %s", seed, failure)
        return {**entry, "status": FAILED, "reason": str(failure)}
    entry |= {name: getattr(outcome, name) for name in ("best_epoch", "auc_interval", "learned", "learned_because")}
    shortfall = outcome.shortfall(job.export.require_auc)
    status = {"status": FAILED, "reason": shortfall} if shortfall else {}
    return {**entry, **status, VALIDATION: spread.on_validation(outcome)}


def _score(jobs: Sequence[Config], entries: Sequence[Entry]) -> None:
    """Add the figures on Test, where they can be had."""
    for job, entry in zip(jobs, entries, strict=True):
        outcome = result.read(JobPaths(job.loop.job_dir).result)
        if outcome is not None and entry["status"] == DONE:
            figures = spread.on_test(job, outcome)
            entry |= {TEST: figures} if figures else {}


def _write(config: Config, paths: SeedPaths, entries: Sequence[Entry], status: str) -> dict[str, Any]:
    """Write ``seeds.json``, which also marks the folder; return what it holds."""
    first = config.loop.seed
    content = {
        "status": status,
        "seeds": list(range(first, first + config.loop.seeds)),
        "jobs": list(entries),
        **spread.of_splits({split: [entry.get(split, {}) for entry in entries] for split in spread.SPLITS}),
        "settings": config.flat(),
    }
    files.write_text(paths.group, json.dumps(content, indent=1) + "\n")
    return content


def _draw(paths: SeedPaths, content: dict[str, Any]) -> None:
    from trainer.reports import seeds as page  # Late: its libraries are slow to import.

    files.make_dirs(files.join(paths.job_dir, "report"))
    files.write_text(paths.report, page.render(paths.job_dir, content))


def _print(content: dict[str, Any], paths: SeedPaths) -> None:
    from trainer.reports import seeds as page

    print(terminal.visible(page.as_text(content)))
    for entry in content["jobs"]:
        if entry.get("learned") is False:
            print(terminal.visible(f"seed {entry['seed']} learned nothing: {entry['learned_because']}"))
    print(f"report: {terminal.link(paths.report)}")


def _refuse_failures(content: dict[str, Any], paths: SeedPaths) -> None:
    failures = [f"seed {entry['seed']}: {entry['reason']}" for entry in content["jobs"] if entry["status"] == FAILED]
    if failures:
        raise JobFailed(f"{len(failures)} of {len(content['jobs'])} seeds failed: {'; '.join(failures)}; {paths.group}")
