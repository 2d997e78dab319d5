"""The search loop: get a trial, run it, report it; in a single process, or as one of several workers.

Owns: the loop and the record of each trial.  Does not own: choices (``oracles.py``), training (``trial.py``), the
summary of all records (``summary.py``).
"""

import contextlib
import dataclasses
import datetime
import logging
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import keras_tuner as kt
import numpy as np

from trainer.core import result
from trainer.core.config import Config
from trainer.core.errors import JobFailed, RequestError, StoppedEarly
from trainer.core.signals import StopRequest
from trainer.sweep import keras_tuner_private, oracles, records, trial
from trainer.sweep.pruning import MedianPruner
from trainer.sweep.records import DONE, FAILED, PRUNED, Record
from trainer.sweep.request import Request
from trainer.training import tensorboard
from trainer.training.loop import StopReason

log = logging.getLogger(__name__)

BETWEEN = "between two trials, everything is saved; rerun the same command to resume"
_IDLE_SECONDS = 1.0
_REPORT_SECONDS = 10.0


class Tuner(kt.engine.base_tuner.BaseTuner):  # type: ignore[misc]
    """Runs trials with ``training.run``; its oracle is in this process or, for a worker, in the chief's."""

    def __init__(
        self, request: Request, oracle: Any, stop: StopRequest, reachable: Callable[[], bool] = lambda: True
    ) -> None:
        """Use an oracle from ``oracles.make``, bound to the sweep's folder unless this process is a worker.

        Args:
            request: the sweep.
            oracle: chooses the settings of each trial.
            stop: polled between trials, and forwarded to a trial's own process.
            reachable: waits for the chief; returns False once the sweep is over.
        """
        self._request = request
        self._stop = stop
        self._reachable = reachable
        # KerasTuner asks TensorFlow's file system whether it has files there, which for gs:// has other credentials and
        # no patience.  Nothing is kept there (``oracles.py``).
        with tempfile.TemporaryDirectory(prefix="deepdetect-tuner-") as folder:
            super().__init__(oracle, directory=folder, project_name=".", overwrite=False)
        self.tuner_id = trial.worker_name()

    def save(self) -> None:
        """Do nothing: the oracle saves itself."""

    def reload(self) -> None:
        """Do nothing: the oracle reloads itself."""

    def search(self) -> None:
        """Run trials until the oracle has no more.

        Raises:
            StoppedEarly: after a stop request, with everything saved.
        """
        while True:
            if self._stop():
                raise StoppedEarly(f"{self._stop.reason} {BETWEEN}")
            chosen = self._ask(lambda: self.oracle.create_trial(self.tuner_id))
            if chosen is None or chosen.status == "STOPPED":
                return
            if chosen.status == "IDLE":
                time.sleep(_IDLE_SECONDS)
                continue
            self._run(chosen)

    def _run(self, chosen: Any) -> None:
        now = datetime.datetime.now  # The clock of this worker, as in the lines of metrics.jsonl.
        record = dataclasses.replace(self.run_trial(chosen), ended=now(datetime.UTC).isoformat(timespec="seconds"))
        record.write(self._request.paths)
        if record.score is not None:
            # Rounded as gRPC rounds, so that a worker and a single process see the same score.
            metrics = {self._request.metric: float(np.float32(record.score))}
            self._ask(lambda: self.oracle.update_trial(chosen.trial_id, metrics, step=record.best_epoch))
        chosen.status = "FAILED" if record.status == FAILED else "COMPLETED"
        self._ask(lambda: self.oracle.end_trial(chosen))

    def _ask(self, call: Callable[[], Any]) -> Any:
        """Call the oracle; if the chief goes away meanwhile, wait for it and call again.

        Each call may be repeated: a worker gets its own trial back, and a trial ends once.  Returns None if the sweep
        is over.

        Raises:
            JobFailed: if the chief itself fails.
        """
        while self._reachable():
            try:
                with oracles.quiet():
                    return call()
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNKNOWN:
                    raise JobFailed(f"the chief could not answer ({error.details()}); see its log") from error
                log.warning("the chief is away (%s)", error.code())
                time.sleep(_IDLE_SECONDS)
        return None

    def run_trial(self, chosen: Any) -> Record:
        """Train with the values of a trial, from where an interrupted start or an earlier round stopped."""
        started = time.monotonic()
        values = oracles.values_of(chosen)
        job = self._job(chosen)
        common: dict[str, Any] = {"trial": chosen.trial_id, "job": job, "settings": values, "worker": self.tuner_id}
        try:
            config = self._config(chosen, values, job)
            log.info("trial %s: %s", chosen.trial_id, ", ".join(f"{n}={v}" for n, v in values.items()))
            with self._reporting(chosen.trial_id):
                outcome = self._train(config, chosen.trial_id)
            score = self._score(outcome)
        except RequestError as error:
            return Record(**common, status=FAILED, reason=" ".join(str(error).split()))
        except trial.TrialFailed as failure:
            return Record(**common, status=FAILED, reason=str(failure), seconds=_since(started))
        tensorboard.write(config.loop.job_dir, chosen.trial_id, values, self._request.metric, score)
        return Record(
            **common, status=PRUNED if outcome.stopped_by == StopReason.PRUNED.value else DONE, reason=outcome.reason,
            score=score, validation=outcome.validation, epochs=outcome.epoch, best_epoch=outcome.best_epoch,
            seconds=_since(started),
        )  # fmt: skip

    def _job(self, chosen: Any) -> str:
        """Return the id of the trial in whose folder this one trains: where hyperband's earlier round stopped."""
        earlier = chosen.hyperparameters.values.get("tuner/trial_id")
        record = records.read(self._request.paths, earlier) if earlier else None
        return record.job if record else str(chosen.trial_id)

    def _config(self, chosen: Any, values: dict[str, Any], job: str) -> Config:
        epochs = chosen.hyperparameters.values.get("tuner/epochs")
        changes = {**values, **({"epochs": epochs} if epochs else {})}
        return self._request.trial(changes, self._request.paths.trial(job))

    def _train(self, config: Config, trial_id: str) -> result.Result:
        if not self._request.sweep.isolate_trials:
            return trial.run_here(config, self._pruner(trial_id))
        try:
            return trial.run_apart(config, self._stop, self._pruner(trial_id))
        finally:
            self._stop.at_once = BETWEEN

    def _pruner(self, trial_id: str) -> MedianPruner | None:
        request = self._request
        if request.sweep.prune == "none":
            return None
        warmup = request.sweep.prune_warmup_epochs
        return MedianPruner(request.base.loop.job_dir, trial_id, request.metric, request.maximizes, warmup)

    def _score(self, outcome: result.Result) -> float:
        score = outcome.validation.get(self._request.metric)
        if score is None or not math.isfinite(score):
            raise trial.TrialFailed(f"validation has no {self._request.metric} (are there images of two classes?)")
        return score

    @contextlib.contextmanager
    def _reporting(self, trial_id: str) -> Iterator[None]:
        """As a worker, report to the chief that this trial is alive."""
        if not keras_tuner_private.is_worker(self):
            yield
            return
        done = threading.Event()

        def report() -> None:
            while not done.wait(_REPORT_SECONDS):
                with contextlib.suppress(Exception):  # The chief may be restarting.
                    self.oracle.get_trial(trial_id)

        thread = threading.Thread(target=report, name="reporting", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()


def _since(started: float) -> float:
    return round(time.monotonic() - started, 1)
