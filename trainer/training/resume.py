"""Whether a request may continue the job in job_dir, and how often a job was restarted without progress.

Does not own: the checkpoint that it continues from (``checkpoints/manager.py``).  Imports no TensorFlow.
"""

import contextlib
import dataclasses
import json
import logging
import re
import time
from collections.abc import Collection, Iterator, Mapping

from trainer.core import checked_json
from trainer.core import config as config_lib
from trainer.core.checked_json import COUNT
from trainer.core.errors import JobFailed, RequestError
from trainer.core.job_dir import MODEL_FILE, JobPaths, SeedPaths, SweepPaths
from trainer.core.storage import files

log = logging.getLogger(__name__)

_SETTINGS = ("config.json", "sweep.json", "seeds.json")


def prepare(config: config_lib.Config, paths: JobPaths, images: Mapping[str, str]) -> None:
    """Prepare a writable job_dir for this request.

    With ``--resume=never`` it starts over once: a scheduler repeats the command, which then continues what it began.

    Args:
        config: of the job.
        paths: of the job.
        images: fingerprints of its images, by the name that a checkpoint has for them.

    Raises:
        RequestError: if job_dir holds a sweep, or a job with other settings that decide its result.
    """
    for folder in (paths.job_dir, paths.report, paths.tensorboard):
        files.remove_leftovers(folder)
    if config.checkpoint.resume == "never":
        if is_begun(config, paths, images):
            log.warning("--resume=never: continuing the unfinished job that the same command began; to start over, "
                        "remove %s", paths.config)  # fmt: skip
        else:
            move_aside(paths)
    elif files.exists(paths.config):
        refuse_other_settings(config, _read_settings(paths.config), paths.job_dir)
    elif files.exists(SweepPaths(paths.job_dir).request):
        raise RequestError(
            f"--job_dir: expected the folder of a job or a new one, received {paths.job_dir!r}, which holds a sweep of "
            "trainer.tune; use another --job_dir"
        )
    elif files.exists(SeedPaths(paths.job_dir).group):
        raise RequestError(
            f"--job_dir: expected the folder of a job or a new one, received {paths.job_dir!r}, which holds jobs of "
            "several seeds; give --seeds again, or another --job_dir"
        )


def is_begun(config: config_lib.Config, paths: JobPaths, images: Mapping[str, str]) -> bool:
    """Return whether job_dir holds an unfinished job of this very request and these images."""
    if files.exists(paths.result) or not files.exists(paths.config):
        return False
    try:
        before = _read_settings(paths.config)
    except RequestError:
        return False
    kept = checkpoint_inputs(paths)
    return {**newer_settings(before), **before} == config.flat() and all(
        kept.get(name, value) == value for name, value in images.items()
    )


def checkpoint_inputs(paths: JobPaths) -> dict[str, str]:
    """Return what the newest checkpoint was made from besides the settings; empty if there is none."""
    # Late, as ``submit`` needs no NumPy.
    from trainer.training.checkpoints.checkpoint import CheckpointStore, DamagedCheckpoint

    store = CheckpointStore(paths.checkpoints, keep=1)
    for step in reversed(store.steps()):
        with contextlib.suppress(DamagedCheckpoint):  # Whoever restores it names it.
            return store.read_inputs(step)
    return {}


@contextlib.contextmanager
def explained(config: config_lib.Config, paths: JobPaths) -> Iterator[None]:
    """Say how to start over, if a job that ``--resume=never`` began is refused.

    Raises:
        RequestError: instead of another one.
    """
    try:
        yield
    except RequestError as error:
        if config.checkpoint.resume != "never" or not files.exists(paths.checkpoints):
            raise
        raise RequestError(
            f"{error} (--resume=never continues the unfinished job that the same command began; to start over, remove "
            f"{paths.config!r})"
        ) from error


def keep_settings(config: config_lib.Config, paths: JobPaths, first: Collection[str] = ()) -> None:
    """Write the settings that the job now runs with; called once nothing can refuse the request any more.

    Those of ``first``, which differ from the defaults, are on top: who opens the file looks for them.

    A setting that is newer than the job stays absent while it is as it was before there was one.  Its value is no
    longer the default, so the next start, which does not name it either, would be refused.
    """
    settings = config.flat()
    before = _read_settings(paths.config) if files.exists(paths.config) else settings
    absent = {name for name, value in newer_settings(before).items() if settings[name] == value}
    order = [*first, *(name for name in settings if name not in first)]
    kept = {name: settings[name] for name in order if name not in absent}
    files.write_text(paths.config, json.dumps(kept, indent=1) + "\n")


def refuse_other_settings(config: config_lib.Config, before: dict[str, config_lib.Value], job_dir: str) -> None:
    """Refuse settings that would change the result of a job that began with others.

    Raises:
        RequestError: naming every flag that differs and would change the result.
    """
    now = config.flat()
    fixed = {name for name, field in config_lib.settings().items() if field.metadata["fixed"]}
    fixed.remove("positive_class")  # Compared by its meaning: ``data/positive_class.py``.
    if config.optim.lr_schedule == "cosine":
        fixed.add("epochs")  # The whole curve depends on where it ends.
    before = {**newer_settings(before), **before}
    differing = [
        f"--{name} (was {before[name]}, now {now[name]})"
        for name in now
        if name in fixed and name in before and before[name] != now[name]
    ]
    if differing:
        raise RequestError(
            f"expected the settings that {job_dir!r} was started with, received other ones: {', '.join(differing)}; "
            "use them again, another --job_dir, or --resume=never to start over"
        )


def _read_settings(path: str) -> dict[str, config_lib.Value]:
    remedy = "restore it, remove it to go on with this command's settings, or use another --job_dir"
    return checked_json.read(path, {}, remedy=remedy, what="a job's settings")


def settings_of(paths: JobPaths) -> dict[str, config_lib.Value]:
    """Return the settings of the job in job_dir, as it began with them; empty without a job.

    Raises:
        RequestError: if they are damaged.
    """
    return _read_settings(paths.config) if files.exists(paths.config) else {}


def newer_settings(before: Mapping[str, config_lib.Value]) -> dict[str, config_lib.Value]:
    """Return what a job does for the settings that did not exist when it began with ``before``."""
    values = {name: field.metadata["before"] for name, field in config_lib.settings().items() if name not in before}
    return {name: value for name, value in values.items() if value is not None}


def layout_of(config: config_lib.Config, paths: JobPaths) -> dict[str, config_lib.Value]:
    """Return the settings of how data_dir is laid out as the job in job_dir has them, where the request sets none.

    Their changes are not refused by name: the images tell whether they fit.
    """
    fields, flat = config_lib.settings(), config.flat()
    names = {field.name for field in dataclasses.fields(config_lib.LayoutConfig)}
    try:
        before = settings_of(paths)
    except RequestError:  # Refused elsewhere.
        return {}
    if not before or (config.checkpoint.resume == "never" and files.exists(paths.result)):
        return {}
    before = {**newer_settings(before), **before}
    return {name: before[name] for name in names & before.keys() if flat[name] == fields[name].default}


def images_of(paths: JobPaths) -> list[str] | None:
    """Return the fingerprints of Train and Validation in the newest checkpoint; None without one."""
    inputs = checkpoint_inputs(paths)
    return [str(inputs.get(name)) for name in ("train images", "validation images")] if inputs else None


def move_aside(paths: JobPaths) -> None:
    """Move an earlier job or sweep in this folder into ``before-<time>/``; nothing is deleted."""
    lock = re.escape(paths.lock.rsplit("/", 1)[-1])
    stays = re.compile(rf"before-.*|{lock}(\..*)?")  # Earlier jobs, and the lock or lease that this process holds.
    names = [name for name in files.list_names(paths.job_dir) if not stays.fullmatch(name)]
    if not names:
        return
    base = f"before-{time.strftime('%Y%m%d-%H%M%S')}"
    target = files.join(paths.job_dir, base)
    number = 1
    while files.exists(target):  # Twice in a second: the first one must stay intact.
        number += 1
        target = files.join(paths.job_dir, f"{base}-{number}")
    files.make_dirs(target)
    log.info("--resume=never: starting over; what %s held is in %s", paths.job_dir, target)
    # The settings first: without them, what a kill leaves is no unfinished job that a restart would continue.
    for name in sorted(names, key=lambda name: (name not in _SETTINGS, name)):
        files.rename(files.join(paths.job_dir, name), files.join(target, name))


def unfinished_exports(paths: JobPaths) -> list[str]:
    """Return the folders below ``export/`` that a kill left: staging folders, and versions without a model."""
    unfinished = []
    for kind in ("best", "last"):
        for name in files.list_names(paths.exports(kind)):
            folder = files.join(paths.exports(kind), name)
            is_version = name.isdecimal() and not files.exists(files.join(folder, MODEL_FILE))
            if is_version or name.endswith(files.STAGING):
                unfinished.append(folder)
    return unfinished


def count_start(paths: JobPaths, step: int, limit: int) -> None:
    """Count one more start from the checkpoint of ``step`` (0: none).

    Args:
        paths: of the job.
        step: where this start begins.
        limit: restarts that are allowed from the same step; 0 allows any number.

    Raises:
        JobFailed: if this one exceeds the limit.
    """
    starts = _starts(paths, step) + 1
    files.write_text(paths.restarts, json.dumps({"step": step, "starts": starts}) + "\n")
    if limit and starts > limit + 1:
        raise JobFailed(
            f"this is restart {starts - 1} from step {step} without progress (allowed: {limit}); read the log of the "
            "previous starts, repair the cause, then start once with --max_restarts_without_progress=0"
        )


def count_again(paths: JobPaths, limit: int) -> None:
    """Count a start that ended before the job read its step: from where the one before began.

    Raises:
        JobFailed: if this one exceeds the limit, see ``count_start``.
    """
    count_start(paths, _record(paths)["step"], limit)


def _starts(paths: JobPaths, step: int) -> int:
    """Return how often the job has started from this step."""
    record = _record(paths)
    return record["starts"] if record["step"] == step else 0


def _record(paths: JobPaths) -> dict[str, int]:
    """Return step and number of the last starts; an unreadable record counts as none."""
    with contextlib.suppress(FileNotFoundError, checked_json.Malformed):
        if files.exists(paths.restarts):
            return checked_json.read(paths.restarts, {"starts": COUNT, "step": COUNT}, remedy="")
    return {"starts": 0, "step": 0}
