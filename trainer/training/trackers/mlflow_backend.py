"""Runs in MLflow: settings as parameters, the job's folders as tags.  The environment says where (MLFLOW_TRACKING_URI).

Imports no TensorFlow.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeVar

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # Read at the import.

from mlflow import MlflowClient
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from trainer.training.trackers.backend import FINISHED, Point, Run

_EXPERIMENT = "deepdetect"  # Unless MLFLOW_EXPERIMENT_NAME or MLFLOW_EXPERIMENT_ID names another one.
_MOST_METRICS, _MOST_PARAMS = 1000, 100  # In one request: MLflow's own limits.
_PARENT_KEY = "deepdetect.group"

T = TypeVar("T")


class MlflowBackend:
    """One run."""

    def __init__(self) -> None:
        """Connect to nothing yet."""
        self._client = MlflowClient()
        self._run = ""

    def open(self, run: Run, run_id: str) -> str:
        """See ``Backend``."""
        if run_id:
            self._client.update_run(run_id, status="RUNNING")
        else:
            experiment = self._experiment()
            tags = {"job_dir": run.job_dir, **run.tags}
            if run.parent:
                tags["mlflow.parentRunId"] = self._parent(experiment, run)
            run_id = self._client.create_run(experiment, run_name=run.name, tags=tags).info.run_id
        self._run = run_id
        self._log_settings(run)
        return run_id

    def log(self, points: Sequence[Point]) -> None:
        """See ``Backend``."""
        metrics = [
            Metric(name, value, int(point.time * 1000), point.step)
            for point in points
            for name, value in point.values.items()
        ]
        for part in _parts(metrics, _MOST_METRICS):
            self._client.log_batch(self._run, metrics=part)

    def tag(self, tags: Mapping[str, str]) -> None:
        """See ``Backend``."""
        self._client.log_batch(self._run, tags=[RunTag(name, value) for name, value in tags.items()])

    def close(self, status: str) -> None:
        """See ``Backend``."""
        self._client.set_terminated(self._run, status)

    def _log_settings(self, run: Run) -> None:
        """Log the settings; one that a restart changed becomes a tag, as a parameter has one value for ever."""
        settings = {name: str(value) or "''" for name, value in run.settings.items()}
        before = self._client.get_run(self._run).data.params
        new = [Param(name, value) for name, value in settings.items() if name not in before]
        for part in _parts(new, _MOST_PARAMS):
            self._client.log_batch(self._run, params=part)
        changed = {f"setting.{name}": value for name, value in settings.items() if before.get(name, value) != value}
        if changed:
            self.tag(changed)

    def _experiment(self) -> str:
        if given := os.environ.get("MLFLOW_EXPERIMENT_ID"):
            return given
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _EXPERIMENT)
        if (experiment := self._client.get_experiment_by_name(name)) is None:
            try:
                return str(self._client.create_experiment(name))
            except MlflowException:  # Another process was faster.
                experiment = self._client.get_experiment_by_name(name)
                if experiment is None:
                    raise
        return str(experiment.experiment_id)

    def _parent(self, experiment: str, run: Run) -> str:
        """Return the run of a sweep or of a group of seeds; of several that were made at once the first one counts."""
        before = self._parents(experiment, run)
        if before:
            return before[0]
        name = run.parent.rsplit("/", 1)[-1]
        tags = {"job_dir": run.parent, _PARENT_KEY: run.parent_key}
        made = self._client.create_run(experiment, run_name=name, tags=tags).info.run_id
        self._client.set_terminated(made, FINISHED)  # It has no process of its own.
        first = self._parents(experiment, run)[0]
        if first != made:
            self._client.delete_run(made)
        return first

    def _parents(self, experiment: str, run: Run) -> list[str]:
        runs = self._client.search_runs([experiment], f"tags.`{_PARENT_KEY}` = '{run.parent_key}'")
        return [one.info.run_id for one in sorted(runs, key=lambda one: (one.info.start_time, one.info.run_id))]


def _parts(values: Sequence[T], most: int) -> Iterator[list[T]]:
    rest = iter(values)
    while part := list(islice(rest, most)):
        yield part
