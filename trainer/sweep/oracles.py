"""The oracles that choose the settings of each trial: KerasTuner's, made to survive kills.

KerasTuner 1.4.8 writes each trial and ``oracle.json`` one after the other and in place, forgets the random state of
Bayesian optimisation and the queue of a grid, and gives a running trial to any worker after a reload.  Here all state
is one file that is written atomically, randomness is a function of (seed, number of the trial), and a worker gets its
own trial back.  Owns: that state.  Does not own: how a trial is run (``trial.py``).
"""

import contextlib
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import keras_tuner as kt
from threadpoolctl import threadpool_limits

from trainer.core import checked_json
from trainer.core.checked_json import NUMBER, OBJECT, OBJECTS, nullable
from trainer.core.errors import RequestError
from trainer.core.storage import files
from trainer.sweep import keras_tuner_private as private
from trainer.sweep import space
from trainer.sweep.request import Request, settings_of

log = logging.getLogger(__name__)

private.silence_conditions()

_STATE_FIELDS = {"oracle": OBJECT, "trials": OBJECTS, "over_at": nullable(NUMBER)}
_REMEDY = "restore it from a backup, or start over with --resume=never"

_ALL = 10**9
_SILENT_SECONDS = 90.0  # After which another worker takes over a trial; its runner reports every 10 s.


class Durable(private.WithoutTrialFiles):
    """A mixin for oracles: one atomic state file, a limit on trials and on failures, heartbeats of workers."""

    trials: dict[str, Any]
    ongoing_trials: dict[str, Any]
    end_order: list[str]
    tuner_ids: set[str]
    get_state: Callable[[], dict[str, Any]]
    set_state: Callable[[dict[str, Any]], None]

    request: Request
    on_end: Callable[[Any], None]
    failures: list[str]
    given_up: str

    def bind(self, request: Request, on_end: Callable[[Any], None]) -> None:
        """Attach the oracle to a sweep, and reload the state that its folder holds.

        Args:
            request: the sweep.
            on_end: called with a trial after it has ended and is saved.
        """
        self.request = request
        self.on_end = on_end
        self.failures = []
        self.given_up = ""
        self._over_at: int | None = -1  # Value of --max_trials at which the tuner ran out of trials; -1: not yet.
        self.heard: dict[str, float] = {}
        private.prepare_oracle(self)
        if files.exists(request.paths.oracle):
            self.reload()

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Return the next trial's values, or that there is none (STOPPED) or none yet (IDLE)."""
        limit = self.request.max_trials
        response: dict[str, Any] = {"status": "STOPPED", "values": None}
        if not self.given_up and (limit is None or len(self.trials) < limit):
            response = super().populate_space(trial_id)  # type: ignore[misc]
        if response["status"] == "STOPPED" and self.ongoing_trials:
            return {"status": "IDLE", "values": None}  # An idle worker can take over from a lost one.
        return response

    @kt.synchronized
    def create_trial(self, tuner_id: str) -> Any:
        """Return this worker's own trial if it has one, one that its worker has left, or a new one.

        A worker is lost if it was silent for longer than ``_SILENT_SECONDS``.
        """
        ongoing = self.ongoing_trials
        now = time.monotonic()
        for owner, trial in list(ongoing.items()):
            last = self.heard.setdefault(trial.trial_id, now)
            if tuner_id not in ongoing and now - last > _SILENT_SECONDS:
                log.warning("trial %s: no report of %s for %.0f s, %s takes it over",
                            trial.trial_id, owner, now - last, tuner_id)  # fmt: skip
                ongoing[tuner_id] = ongoing.pop(owner)
                self.tuner_ids.discard(owner)
                self.tuner_ids.add(tuner_id)
        trial = super().create_trial(tuner_id)  # type: ignore[misc]
        self.heard[trial.trial_id] = now
        if trial.status == "STOPPED" and not self.given_up:
            self._over_at = self.request.max_trials
            self.save()
        return trial

    def is_over(self) -> bool:
        """Return whether all trials have ended and there will be no more."""
        trials, limit = len(self.trials), self.request.max_trials
        all_ended = len(self.end_order) == trials
        return all_ended and (self._over_at == limit or (limit is not None and trials >= limit))

    @kt.synchronized
    def end_trial(self, trial: Any) -> None:
        """Record the end of a trial; a repeated report changes nothing."""
        if trial.trial_id in self.end_order:
            return
        super().end_trial(trial)  # type: ignore[misc]
        self.on_end(self.trials[trial.trial_id])

    def note_failure(self, kind: str) -> None:
        """Count a failed trial's kind of reason (empty: it did not fail); too many of the same kind end the sweep."""
        self.failures = [*self.failures, kind] if kind and self.failures[-1:] in ([], [kind]) else [kind] * bool(kind)
        limit = self.request.sweep.max_failures
        if limit and len(self.failures) >= limit:
            self.given_up = kind

    def needed(self) -> set[str]:
        """Return the ids of trials that are running or that a later one may continue."""
        running = [trial for trial in self.ongoing_trials.values() if trial.status == "RUNNING"]
        values = [trial.hyperparameters.values.get("tuner/trial_id") for trial in running]
        return {trial.trial_id for trial in running} | {value for value in values if value}

    def save(self) -> None:
        """Write everything that decides the rest of the sweep, in one file."""
        trials = [trial.get_state() for trial in self.trials.values()]
        content = {"oracle": self.get_state(), "trials": trials, "over_at": self._over_at}
        files.write_text(self.request.paths.oracle, json.dumps(content) + "\n")

    def reload(self) -> None:
        """Restore the state in the file; running trials still belong to their workers."""
        path = self.request.paths.oracle
        content = checked_json.read(path, _STATE_FIELDS, remedy=_REMEDY, what="a sweep's state")
        try:
            self._take(content)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise RequestError(
                f"expected {path!r} to hold a sweep's state, received something else ({error}); {_REMEDY}"
            ) from error

    def _take(self, content: dict[str, Any]) -> None:
        trials = [kt.engine.trial.Trial.from_state(state) for state in content["trials"]]
        self.trials = {trial.trial_id: trial for trial in trials}
        state, self._over_at = content["oracle"], content["over_at"]
        ended = set(state["end_order"])  # KerasTuner saves a trial's end while it still lists the trial as running.
        running = {owner: trial for owner, trial in state["ongoing_trials"].items() if trial not in ended}
        self.set_state({**state, "ongoing_trials": running})


class _Random(Durable, kt.oracles.RandomSearchOracle):  # type: ignore[misc]
    pass


class _Bayesian(Durable, kt.oracles.BayesianOptimizationOracle):  # type: ignore[misc]
    def populate_space(self, trial_id: str) -> dict[str, Any]:
        private.seed_bayesian(self, len(self.trials))
        with threadpool_limits(1):  # More threads slow down matrices this small.
            return super().populate_space(trial_id)


class _Hyperband(Durable, kt.oracles.HyperbandOracle):  # type: ignore[misc]
    def needed(self) -> set[str]:
        """Return the running trials, and those of rounds whose next round is not full yet."""
        return super().needed() | set(private.waiting_in_hyperband(self))


class GridOracle(kt.Oracle):  # type: ignore[misc]
    """Every combination in the space's order; trial n is combination n, so there is no state.

    KerasTuner's own derives the next combination from a queue that a kill loses.
    """

    combinations: list[dict[str, Any]]

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Return the next combination."""
        number = len(self.trials)
        if number >= len(self.combinations):
            return {"status": "STOPPED", "values": None}
        return {"status": "RUNNING", "values": dict(self.combinations[number])}


class _Grid(Durable, GridOracle):
    pass


def make(request: Request) -> Any:
    """Return the request's oracle, not bound yet."""
    common: dict[str, Any] = {
        "objective": kt.Objective(request.metric, "max" if request.maximizes else "min"),
        "hyperparameters": hyperparameters(request.space),
        "seed": request.base.loop.seed + 1,  # KerasTuner takes 0 for "any".
        "max_consecutive_failed_trials": _ALL,  # note_failure() decides, by kind of reason.
    }
    tuner = request.sweep.tuner
    if tuner == "hyperband":
        return _Hyperband(max_epochs=request.base.loop.epochs, factor=request.sweep.hyperband_factor, **common)
    if tuner == "grid":
        oracle = _Grid(max_trials=None, **common)
        oracle.combinations = list(request.combinations())
        return oracle
    if tuner == "bayesian":
        first = max(3, min(3 * len(request.space), (request.max_trials or 0) // 3))
        return _limitless(_Bayesian(num_initial_points=first, **common))
    return _limitless(_Random(**common))


def _limitless(oracle: Any) -> Any:
    """Leave the limit to ``Durable``: with KerasTuner's, --max_trials=100 would turn the ids "07" into "007"."""
    oracle.max_trials = None
    return oracle


def hyperparameters(parameters: space.Space) -> Any:
    """Convert a space to KerasTuner's type; conditions become conditional scopes."""
    hyperparameters = kt.HyperParameters()
    for one in parameters:
        with contextlib.ExitStack() as stack:
            for name, values in one.condition:
                stack.enter_context(hyperparameters.conditional_scope(name, list(values)))
            _add(hyperparameters, one)
    return hyperparameters


def _add(target: Any, one: space.Parameter) -> None:
    sampling = "log" if one.log else "linear"
    if one.kind == "float":
        target.Float(one.name, one.low, one.high, sampling=sampling)
    elif one.kind == "int":
        target.Int(one.name, int(one.low), int(one.high), sampling=sampling)
    elif isinstance(one.values[0], bool):  # KerasTuner's Choice would turn them into 0 and 1.
        target.Boolean(one.name) if len(one.values) == 2 else target.Fixed(one.name, one.values[0])
    else:
        target.Choice(one.name, list(one.values))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Redirect what KerasTuner prints to stderr, so that stdout holds only the table."""
    with contextlib.redirect_stdout(sys.stderr):
        yield


def values_of(trial: Any) -> dict[str, Any]:
    """Return the settings that the oracle chose for a trial."""
    return settings_of(trial.hyperparameters.values)
