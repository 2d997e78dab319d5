"""Settings that a job settles at its first start and keeps: ``auto``, and the positive class.

``AUTOMATIC`` is the table: an entry gives one setting's value for a new job.  A job that goes on keeps what its
``config.json`` says, so that a restart, on another machine or with another version, trains the same.  What it does not
say, because the setting is newer, is as it was before there was one.
Imports no TensorFlow.
"""

import contextlib
import functools
from collections.abc import Callable, Mapping

from trainer.core import config as config_lib
from trainer.core.config import Config, Value
from trainer.core.errors import RequestError
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files
from trainer.data import positive_class, split_report
from trainer.data.manifest import Split
from trainer.distributed import process_group
from trainer.training import optimizers, resume, schedule
from trainer.training.batch_size import search

# By setting: its value for a new job with these training images, in the order in which they are settled.
# Before all of them comes ``batch_size``, whose value others may follow from.
AUTOMATIC: dict[str, Callable[[Config, Split], Value]] = {
    # Decided by the device of each start; a job that began with it on or off keeps that.
    "xla": lambda config, _: config.runtime.xla,
    # The loss of a detector that answers the larger class alone is low; its AUC is not.
    "monitor": lambda _, train: "val_auc" if split_report.are_uneven(train) else "val_loss",
    "weight_decay": lambda config, train: optimizers.automatic_weight_decay(config.optim),
    "lr_warmup_steps": lambda config, train: schedule.automatic_warmup(config, len(train)),
}


def settle(config: Config, train: Split, group: process_group.SingleProcess, paths: JobPaths) -> Config:
    """Return the settings of a job, new or begun, with a value in place of every ``auto``; all processes call this.

    Raises:
        RequestError: if the positive class cannot be settled, or the job's settings are damaged.
    """
    values: dict[str, Value] = {}
    if group.index == 0:
        before = _before(config, paths)
        newer = resume.newer_settings(before) if before else {}
        values = _as_before(config, newer)
        values |= _settled(config.replace(**values), train, {**newer, **before}, group.size)
    return config.replace(**group.broadcast(values))


def _before(config: Config, paths: JobPaths) -> Mapping[str, Value]:
    """Return the settings of the job that this request continues; empty for a new one."""
    if config.checkpoint.resume != "never":
        return resume.settings_of(paths)
    with contextlib.suppress(RequestError):  # Damaged ones: it starts over.
        before = resume.settings_of(paths)
        if before and not files.exists(paths.result) and _repeats(config, {**resume.newer_settings(before), **before}):
            return before
    return {}


def _as_before(config: Config, newer: Mapping[str, Value]) -> dict[str, Value]:
    """Return what a begun job does for settings that are newer than it, without those that the request sets."""
    fields, flat = config_lib.settings(), config.flat()
    return {name: value for name, value in newer.items() if flat[name] == fields[name].default}


def _repeats(config: Config, before: Mapping[str, Value]) -> bool:
    """Return whether a job began with this very request."""
    fields = config_lib.settings()
    return all(
        name == "positive_class" or before.get(name) == value or config_lib.is_auto(fields[name], value)
        for name, value in config.flat().items()
    )


def _settled(config: Config, train: Split, before: Mapping[str, Value], processes: int) -> dict[str, Value]:
    """Return the settled settings by name.

    Args:
        config: of the request.
        train: its training images.
        before: settings of the job in job_dir; empty for a new job.
        processes: that train together.
    """
    kept = str(before["positive_class"]) if "positive_class" in before else None
    values: dict[str, Value] = {
        "positive_class": positive_class.settle(train.class_names, config.export.positive_class, kept)
    }
    automatic: dict[str, Callable[[Config, Split], Value]] = {
        "batch_size": functools.partial(search.choose, processes=processes),
        **AUTOMATIC,
    }
    for name, choose in automatic.items():
        if config_lib.is_auto(config_lib.settings()[name], config.flat()[name]):
            values[name] = before[name] if name in before else choose(config, train)
            config = config.replace(**{name: values[name]})
    return values
