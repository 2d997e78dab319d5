"""The command ``python -m trainer.train``: flags -> ``training.run`` -> what is printed."""

import logging
from collections.abc import Sequence

from trainer.core import cli, progress, terminal
from trainer.core.config import Config, flags
from trainer.core.errors import EXIT_DONE, JobFailed
from trainer.core.job_dir import JobPaths
from trainer.core.notify import job as notify_job
from trainer.core.notify import targets as notify_targets
from trainer.core.result import Result
from trainer.distributed import cluster as cluster_lib
from trainer.training import run as training_run
from trainer.training.start import vertex

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Run the command on the words after the program's name; returns the exit code."""
    if "--selftest" in argv:
        from trainer.training import selftest  # Late: training does not need it.

        return selftest.main([word for word in argv if word != "--selftest"])
    config = flags.train_config(argv, vertex.defaults())
    targets = notify_targets.parse(config.runtime.notify)
    config = config.replace(notify="")
    cluster = cluster_lib.from_environment(strategy=config.runtime.strategy)
    vertex.announce(config)
    if cluster.num_workers > 1:
        log.info("cluster: %s says that this is process %d of %d; unset it if this process is to train alone",
                 cluster.source, cluster.worker_index, cluster.num_workers)  # fmt: skip
    with notify_job.telling(targets if cluster.is_chief else (), config.loop.job_dir):
        return _run(config, cluster)


def _run(config: Config, cluster: cluster_lib.Cluster) -> int:
    """Run the job, and print what came of it."""
    if config.loop.seeds > 1:
        from trainer.sweep import seeds  # Late: a single job does not need it.

        return seeds.run(config, cluster)
    outcome = training_run.run(config, cluster)
    require_auc(outcome, config)
    if not cluster.is_chief:
        return EXIT_DONE
    values = ", ".join(f"{name} {value:.4f}" for name, value in outcome.validation.items() if value is not None)
    progress.say(f"best epoch {outcome.best_epoch} (step {outcome.best_step}): validation {values}")
    if outcome.learned is False:
        progress.say(f"learned nothing: {outcome.learned_because}")
    for kind, path in outcome.exports.items():
        threshold = f" (threshold {outcome.thresholds[kind]:g})" if kind in outcome.thresholds else ""
        progress.say(f"model ({kind}): {path}{threshold}")
    if delivered := vertex.deliver(outcome):
        progress.say(f"model for Vertex AI: {delivered}")
    print(f"report: {terminal.link(f'{JobPaths(config.loop.job_dir).report}/index.html')}")
    return EXIT_DONE


def require_auc(outcome: Result, config: Config) -> None:
    """Fail a job, in all its processes alike, whose best epoch is not as good as ``--require_auc`` asks.

    Raises:
        JobFailed: with its AUC; again and again when the same command is rerun.
    """
    shortfall = outcome.shortfall(config.export.require_auc)
    if shortfall:
        exports = "exports of an earlier start stay" if outcome.exports else "nothing was exported"
        raise JobFailed(f"{shortfall}; {exports}, the report is {JobPaths(config.loop.job_dir).report}/index.html")


def console() -> None:
    """Entry point of ``deepdetect-train``."""
    cli.console(main, watched=True)


if __name__ == "__main__":
    console()
