"""Settings that a job settles at its first start and keeps: ``auto``, and the positive class.

``AUTOMATIC`` is the table: an entry gives one setting's value for a new job.  A job that goes on keeps what its
``config.json`` says, so that a restart, on another machine or with another version, trains the same.
Imports no TensorFlow.
"""

from collections.abc import Callable, Mapping

from trainer.core import config as config_lib
from trainer.core.config import Config, Value
from trainer.core.job_dir import JobPaths
from trainer.data import positive_class
from trainer.data.manifest import Split
from trainer.distributed import process_group
from trainer.training import resume, schedule

# By setting: its value for a new job with these training images, in the order in which they are settled.
AUTOMATIC: dict[str, Callable[[Config, Split], Value]] = {
    "lr_warmup_steps": lambda config, train: schedule.automatic_warmup(config, len(train)),
}


def settle(config: Config, train: Split, group: process_group.SingleProcess, paths: JobPaths) -> Config:
    """Return the settings of a job, new or begun, with a value in place of every ``auto``; all processes call this.

    Raises:
        RequestError: if the positive class cannot be settled, or the job's settings are damaged.
    """
    values: Mapping[str, Value] = {}
    if group.index == 0:
        before = {} if config.checkpoint.resume == "never" else resume.settings_of(paths)
        values = _settled(config, train, before)
    return config.replace(**group.broadcast(values))


def _settled(config: Config, train: Split, before: Mapping[str, Value]) -> dict[str, Value]:
    """Return the settled settings by name.

    Args:
        config: of the request.
        train: its training images.
        before: settings of the job in job_dir; empty for a new job.
    """
    kept = str(before["positive_class"]) if "positive_class" in before else None
    values: dict[str, Value] = {
        "positive_class": positive_class.settle(train.class_names, config.export.positive_class, kept)
    }
    for name, choose in AUTOMATIC.items():
        if config.flat()[name] == config_lib.settings()[name].metadata["auto"]:
            values[name] = before[name] if name in before else choose(config, train)
            config = config.replace(**{name: values[name]})
    return values
