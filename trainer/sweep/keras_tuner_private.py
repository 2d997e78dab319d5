"""Everything that deepdetect uses of KerasTuner beyond its public interface (written against 1.4.8).

Owns: each use of a private attribute or module, as a function that first checks that it is there.  A new version that
renames one must fail here, by name, and not change a sweep in silence.  Does not own: the oracles (``oracles.py``).
"""

from collections.abc import Iterator
from typing import Any

import keras_tuner as kt
import numpy as np

_TESTED = "1.4.8"


def require(owner: Any, *names: str) -> None:
    """Check that KerasTuner has attributes.

    Raises:
        RuntimeError: naming the first one that is missing, the installed version and the remedy.
    """
    for name in names:
        if not hasattr(owner, name):
            where = getattr(owner, "__name__", type(owner).__name__)
            raise RuntimeError(
                f"keras-tuner {kt.__version__} has no {where}.{name}, which deepdetect relies on; "
                f"pip install keras-tuner=={_TESTED}, or adapt trainer/sweep/keras_tuner_private.py"
            )


def silence_conditions() -> None:
    """Stop a debugging print of KerasTuner: ``conditions.Parent.to_proto`` prints each condition that it sends.

    Noticed by: ``test_a_condition_on_the_wire_prints_nothing``.
    """
    from keras_tuner.src.engine import conditions

    require(conditions, "Parent")
    require(conditions.Parent, "to_proto")
    vars(conditions)["print"] = lambda *_: None  # A global of that module, found before the built-in.


class WithoutTrialFiles:
    """A mixin for oracles: KerasTuner writes no file for each trial, since ``Durable.save`` writes one for all.

    Noticed by: ``test_an_oracle_writes_one_file``.
    """

    def __init_subclass__(cls) -> None:
        """Check that the method which this class replaces is still the one that KerasTuner calls."""
        require(kt.Oracle, "_save_trial")
        super().__init_subclass__()

    def _save_trial(self, trial: Any) -> None:
        pass


def prepare_oracle(oracle: Any) -> None:
    """Check the state that ``Durable`` saves and edits, and turn off KerasTuner's own table of trials.

    Noticed by: ``test_an_oracle_writes_one_file``, ``test_a_missing_attribute_is_an_error``.
    """
    require(oracle, "trials", "ongoing_trials", "end_order", "tuner_ids", "_display")
    oracle._display.verbose = 0


def seed_bayesian(oracle: Any, number: int) -> None:
    """Make a Bayesian oracle's randomness a function of (seed, number of the trial): KerasTuner forgets its own state.

    Noticed by: ``test_a_sweep_that_is_killed_at_every_step_is_the_undisturbed_one`` (bayesian).
    """
    require(oracle, "_random_state")
    oracle._random_state = np.random.RandomState([oracle.seed, number])


def waiting_in_hyperband(oracle: Any) -> Iterator[str]:
    """Yield the ids of trials in rounds whose next round is not full yet: one of them may be continued.

    Noticed by: ``test_hyperband_says_which_trials_may_go_on``.
    """
    require(oracle, "_brackets", "_get_size")
    for bracket in oracle._brackets:
        rounds = bracket["rounds"]
        for number, following in enumerate(rounds[1:], start=1):
            if len(following) < oracle._get_size(bracket["bracket_num"], number):
                yield from (entry["id"] for entry in rounds[number - 1])


def is_worker(tuner: Any) -> bool:
    """Return whether a tuner's oracle is in another process, the chief's.

    Noticed by: ``test_a_chief_and_two_workers_that_are_killed_end_with_the_same_trials``.
    """
    require(tuner, "_is_worker")
    return bool(tuner._is_worker())


def oracle_servicer() -> Any:
    """Return the base class of the gRPC service that the chief offers.

    KerasTuner's own ``start_server`` waits for ever for lost workers and hides that a port is in use (``chief.py``).
    Noticed by: ``test_a_chief_and_two_workers_that_are_killed_end_with_the_same_trials``.
    """
    from keras_tuner.src.distribute import oracle_chief

    require(oracle_chief, "OracleServicer")
    require(oracle_chief.OracleServicer, "CreateTrial", "UpdateTrial", "EndTrial", "GetTrial")
    return oracle_chief.OracleServicer


def add_servicer(servicer: Any, server: Any) -> None:
    """Register the chief's service with a gRPC server.

    Noticed by: ``test_a_chief_and_two_workers_that_are_killed_end_with_the_same_trials``.
    """
    from keras_tuner.src import protos

    require(protos, "get_service_grpc")
    module = protos.get_service_grpc()
    require(module, "add_OracleServicer_to_server")
    require(servicer, "stop_triggered")
    module.add_OracleServicer_to_server(servicer, server)
