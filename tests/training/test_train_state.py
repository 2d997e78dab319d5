"""Everything that decides a job's future goes into a checkpoint, and comes back out of it."""

import dataclasses

import keras
import numpy as np
import pytest

from trainer.core.config import from_flat
from trainer.core.errors import RequestError
from trainer.training.checkpoints.checkpoint import CheckpointStore
from trainer.training.early_stopping import EarlyStopping
from trainer.training.optimizers import make_optimizer
from trainer.training.schedule import Schedule
from trainer.training.step.train_step import LossScale
from trainer.training.step.weight_average import WeightAverage
from trainer.training.train_state import TrainState

CONFIG = from_flat({"data_dir": "D", "job_dir": "J", "lr_schedule": "plateau", "plateau_patience": 1})


def fresh(units=2):
    inputs = keras.Input([3])
    model = keras.Model(inputs, keras.layers.Dense(units, name="logits", kernel_initializer="zeros")(inputs))
    optimizer = make_optimizer(CONFIG.optim)
    optimizer.build(model.trainable_variables)
    return TrainState(
        model, optimizer, LossScale(), Schedule(CONFIG.optim, 100), EarlyStopping("val_loss", patience=2),
        WeightAverage(model, 0.9),
    )  # fmt: skip


def changed():
    """Return a state in which nothing is as it was at the start."""
    state = fresh()
    for number, variable in enumerate(state._variables().values()):
        variable.assign(np.full(variable.shape, number + 3))
    for value in (0.5, 0.75, 0.75):
        state.schedule.update({"val_accuracy": -value})
        state.stopping.update(4, value)
    state.schedule.lower()
    state.step, state.validated, state.pruned_because = 6, 4, "hopeless"
    state.best, state.last = {"val_loss": 0.5}, {"val_loss": 0.75}
    return state


def contents(state):
    """Return all that must survive, apart from the objects that hold it."""
    plain = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    for name in ("model", "optimizer", "loss_scale", "schedule", "stopping", "average"):
        del plain[name]
    arrays = {name: np.array(variable).tolist() for name, variable in state.snapshot().arrays.items()}
    return plain, arrays, state.schedule.state(), state.stopping.state(), [state.schedule.rate(n) for n in (0, 6, 90)]


def test_all_of_it_is_restored_from_the_files(tmp_path):
    state, other = changed(), fresh()
    before, plain = contents(fresh()), contents(state)[0]
    assert all(plain[name] != before[0][name] for name in plain)  # The test forgets no field.
    store = CheckpointStore(str(tmp_path), keep=1)
    store.save(state.snapshot(inputs={}))
    other.restore(store.newest())
    assert contents(other) == contents(state)
    assert other.stop_reason is state.stop_reason is not None


def test_a_checkpoint_of_another_model_is_refused_before_anything_changes():
    other = fresh()
    before = contents(other)
    checkpoint = changed().snapshot()
    del checkpoint.arrays["loss_scale/scale"]
    with pytest.raises(RequestError, match="received one that differs in"):
        other.restore(checkpoint)
    assert contents(other) == before
