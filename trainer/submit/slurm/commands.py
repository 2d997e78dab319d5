"""The commands of ``trainer.submit`` on Slurm: run, resume, list, status, logs, cancel."""

import dataclasses
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.core.errors import EXIT_DONE, RequestError
from trainer.submit import environment, images, listing, plan, states
from trainer.submit.platforms import SLURM
from trainer.submit.request import Request, RunFlags
from trainer.submit.slurm import checks, records, runs, script, tools
from trainer.submit.slurm import follow as follow_lib
from trainer.submit.slurm.records import Record

_WHERE = f"--platform={SLURM}"
_START_OVER = "--resume=never"


def run(values: Mapping[str, Any], trainer_words: Sequence[str]) -> int:
    """Check a run, print its plan, submit it and follow its log."""
    own = RunFlags(**values)
    table = plan.read_table(own.accelerators)
    plan.accelerator_of(own, table)
    checked = checks.build(own, trainer_words)
    log_dir = _log_dir(checked.run)
    text = script.render(checked, log_dir)
    if own.dry_run == "client":
        _say(plan.describe(checked, table, own.train_images))
        print(text, end="")
        return EXIT_DONE
    notes = _notes(checked)
    _require_free(checked.run.job_dir)
    _say(plan.describe(checked, table, own.train_images or images.count(checked.run.data_dir)))
    _say([f"note       {note}" for note in notes if note])
    job = _submit(checked, text, log_dir)
    print(f"submitted job {job}, log {log_dir}/{own.name}-{job}{'_*' if own.sweep_workers else ''}.log")
    return _follow_or_detach(own.name) if own.follow else EXIT_DONE


def resume(name: str, values: Mapping[str, Any], trainer_words: Sequence[str]) -> int:
    """Submit a run again from its record, with changes."""
    before = records.read(name)
    words = [word for word in before.trainer if word != _START_OVER]  # Which the run has done by now.
    return run({**before.run, "name": _next_name(name), **values}, [*words, *trainer_words])


def list_runs(form: str) -> int:
    """Print all runs of this user."""
    every = [entry[0] for entry in runs.find_all()]
    for each in every:
        runs.note_end(each)
    if every or form == "json":
        print(listing.show(every, listing.read(every), form))
    else:
        print(f"no runs of this user on Slurm ({records.folder()})")
    return EXIT_DONE


def status(name: str) -> int:
    """Print one run: its state, its progress, its tasks and where their logs are."""
    one, tasks = runs.find(name)
    runs.note_end(one)
    (progress,) = listing.read([one])
    print(listing.show([one], [progress]))
    if one.detail:
        print(one.detail)
    if progress.problem:
        print(f"progress unknown: {progress.problem}")
    record = records.read(name)
    for task in tasks:
        number = record.job + (f"_{task.index}" if task.index else "")
        print(f"job {number}: {task.word or task.state}{f' ({task.where})' if task.where else ''}")
    for path in runs.logs(record):
        print(f"log {path}")
    return EXIT_DONE


def logs(name: str, *, follow: bool) -> int:
    """Print the logs of a run."""
    if follow:
        return _follow_or_detach(name)
    follow_lib.show(records.read(name))
    return EXIT_DONE


def cancel(name: str, *, forget: bool) -> int:
    """End a run: its tasks get SIGTERM, save and exit."""
    one, _ = runs.find(name)
    if one.is_live:
        tools.cancel(one.uid)
        records.update(dataclasses.replace(records.read(name), end=states.CANCELLED))
    if forget:
        records.remove(name)
    print(f"{name}: cancelled" + ("; it saves and ends" if one.is_live else ""))
    if not forget:
        print(f"to continue it: python scripts/submit.py resume {name} {_WHERE}")
    return EXIT_DONE


def tensorboard(name: str) -> int:
    """Refuse, with the command to use: there is no cluster to forward a port from."""
    folder = os.path.join(runs.find(name)[0].job_dir, "tensorboard")
    raise RequestError(
        f"expected tensorboard for a run on Kubernetes, received {_WHERE}; use tensorboard --logdir={folder}"
    )


def _submit(checked: Request, text: str, log_dir: str) -> str:
    """Claim the name, submit the script; give the name back if Slurm refuses."""
    own = checked.run
    record = Record(
        own.name, "", log_dir, records.now(), _changed(own), checked.trainer_words, max(own.sweep_workers, 1)
    )
    Path(log_dir).mkdir(parents=True, exist_ok=True)
    records.claim(record)
    try:
        job = tools.submit(text)
    except BaseException:
        records.remove(own.name)
        raise
    records.update(dataclasses.replace(record, job=job))
    return job


def _changed(own: RunFlags) -> dict[str, Any]:
    """Return the flags that describe the run, of those that differ from their defaults."""
    values = dataclasses.asdict(own)
    return {
        name: value
        for name, value in values.items()
        if name not in ("dry_run", "follow") and value != getattr(RunFlags, name)
    }


def _log_dir(own: RunFlags) -> str:
    if own.log_dir:
        return own.log_dir
    if "://" in own.job_dir:
        raise RequestError(
            f"expected --log_dir, a folder that login and compute nodes share, with a --job_dir on "
            f"{own.job_dir.partition('://')[0]}://, received none; Slurm writes its log to files"
        )
    return f"{own.job_dir}/slurm"


def _notes(checked: Request) -> list[str]:
    own = checked.run
    tools.require_installed()
    cpus = "" if own.cpus else "--cpus not given: Slurm's default, often 1, may be too few to read images for a GPU"
    names = [line.partition(";")[0] for line in environment.warnings(checked.env)]
    return [_check_images(own), cpus, *names]


def _check_images(own: RunFlags) -> str:
    """Refuse a data_dir that does not exist, unless --setup may make it."""
    if "://" in own.data_dir:
        return images.require(own.data_dir)
    if os.path.exists(own.data_dir):
        return ""
    if own.setup or own.container:
        return f"data_dir: {own.data_dir} is not on this machine"
    raise RequestError(
        f"--data_dir: expected a folder that login and compute nodes share, received {own.data_dir!r}, which does not "
        "exist; check the path"
    )


def _require_free(job_dir: str) -> None:
    for one, _ in runs.find_all():
        if one.is_live and one.job_dir.rstrip("/") == job_dir.rstrip("/"):
            raise RequestError(
                f"--job_dir: expected one that no live run uses, received {job_dir!r} of run {one.name} ({one.state}); "
                "cancel that one, or give another --job_dir"
            )


def _next_name(name: str) -> str:
    """Return the first unused name of NAME-r2, NAME-r3 ..."""
    stem = re.sub(r"-r\d+$", "", name)
    used = {record.name for record in records.read_all()}
    return next(new for number in range(2, 10_000) if (new := f"{stem}-r{number}") not in used)


def _follow_or_detach(name: str) -> int:
    """Follow a run until it ends, or until Ctrl-C, which leaves it running."""
    try:
        return follow_lib.follow(name)
    except KeyboardInterrupt:
        print(
            f"\ndetached; {name} continues. Follow it again: python scripts/submit.py logs {name} -f {_WHERE}; end it: "
            f"python scripts/submit.py cancel {name} {_WHERE}",
            file=sys.stderr,
        )
        return EXIT_DONE


def _say(lines: Sequence[str]) -> None:
    if lines:
        print("\n".join(lines), file=sys.stderr)
