"""Early stopping and the falling learning rate replayed against Keras's own callbacks on the same series."""

import json
import math

import keras
import numpy as np
import pytest

from trainer.training.early_stopping import PLATEAU_MIN_DELTA, EarlyStopping, Plateau, improves

FACTOR, FLOOR, RATE = 0.1, 1e-5, 1e-3


class Holder:
    """All of a model that Keras's callbacks touch."""

    optimizer = keras.optimizers.SGD()  # One for all, with a rate of float32 as in training.

    def __init__(self, rate=RATE):
        self.optimizer.learning_rate = rate
        self.stop_training = False

    def get_weights(self):
        return []

    def set_weights(self, weights):
        pass


def mode(monitor):
    return "min" if monitor.endswith("loss") else "max"


def keras_stop_epoch(monitor, patience, values):
    callback = keras.callbacks.EarlyStopping(monitor=monitor, patience=patience, mode=mode(monitor))
    holder = Holder()
    callback.set_model(holder)
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {monitor: value})
        if holder.stop_training:
            return epoch, callback.best_epoch
    return None, callback.best_epoch


def our_stop_epoch(monitor, patience, values, restart_every=None):
    stopping = EarlyStopping(monitor, patience)
    for epoch, value in enumerate(values):
        if restart_every and epoch % restart_every == 0:
            saved = json.loads(json.dumps(stopping.state()))
            stopping = EarlyStopping(monitor, patience)
            stopping.restore(saved)
        is_best = stopping.update(epoch, value)
        assert is_best == (stopping.best_step == epoch and stopping.wait == 0)
        if stopping.stopped:
            return epoch, stopping.best_step
    return None, stopping.best_step


def keras_rates(monitor, patience, values, *, factor=FACTOR, floor=FLOOR, rate=RATE):
    callback = keras.callbacks.ReduceLROnPlateau(
        monitor=monitor, patience=patience, factor=factor, min_lr=floor, mode=mode(monitor)
    )
    holder = Holder(rate)
    callback.set_model(holder)
    callback.on_train_begin()
    rates = []
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {monitor: value})
        rates.append(float(np.array(holder.optimizer.learning_rate)))
    return rates


def our_rates(monitor, patience, values, restart_every=None, *, factor=FACTOR, floor=FLOOR, rate=RATE):
    def make():
        return Plateau(monitor, patience, factor, floor, rate)

    plateau, rates = make(), []
    for epoch, value in enumerate(values):
        if restart_every and epoch % restart_every == 0:
            saved = json.loads(json.dumps(plateau.state()))
            plateau = make()
            plateau.restore(saved)
        before = plateau.rate
        fell = plateau.update(value)
        assert fell == (plateau.rate < before)
        rates.append(plateau.rate)
    return rates


NAN = math.nan
SERIES = {
    "falling": [1.0, 0.9, 0.8, 0.7, 0.6, 0.5],
    "rising": [0.5, 0.6, 0.7, 0.8, 0.9, 1.0],
    "flat": [0.5] * 12,
    "ties": [0.5, 0.4, 0.4, 0.4, 0.3, 0.3, 0.3, 0.3, 0.5, 0.3, 0.3],
    "zigzag": [0.5, 0.6, 0.4, 0.7, 0.3, 0.8, 0.2, 0.9, 0.1, 1.0],
    "recovers": [0.5, 0.6, 0.6, 0.4, 0.6, 0.6, 0.6, 0.3, 0.6, 0.6, 0.6, 0.6, 0.2],
    "tiny steps": [0.5 - 3e-5 * step for step in range(12)],
    "tiny steps up": [0.5 + 3e-5 * step for step in range(12)],
    "at the delta": [0.5, 0.5 - PLATEAU_MIN_DELTA, 0.5, 0.5 - 1.001 * PLATEAU_MIN_DELTA, 0.5, 0.5, 0.5],
    "at the delta up": [0.5, 0.5 + PLATEAU_MIN_DELTA, 0.5, 0.5 + 1.001 * PLATEAU_MIN_DELTA, 0.5, 0.5, 0.5],
    "nan in the middle": [0.5, 0.4, NAN, NAN, 0.3, NAN, NAN, NAN, NAN, NAN],
    "nan late": [0.5, 0.6, 0.4, 0.3, NAN],
    "infinite": [math.inf, 0.5, math.inf, -math.inf, 0.1, 0.2, 0.3],
    "negative": [-0.5, -0.6, -0.4, -0.7, -0.7, -0.7, -0.7],
    "zero": [0.0] * 8,
    "one": [0.5],
    "nan first": [NAN, 0.5, 0.4, 0.6, 0.3, 0.7],
    "below float32": [0.5, 0.5 - 1e-9, 0.5 + 1e-9, 0.5 - 2e-9, 0.5 + 2e-9],
}


def random_series(seed):
    random = np.random.default_rng(seed)
    length = int(random.integers(1, 25))
    steps = random.choice([0.0, 1e-5, 1e-4, 1e-3, 0.1], length) * random.choice([-1, 1], length)
    values = (
        0.5 + np.cumsum(steps) if random.random() < 0.5 else random.random(length).round(int(random.integers(1, 6)))
    )
    values = np.where((random.random(length) < 0.05) & (np.arange(length) > 0), NAN, values)
    return values.tolist()


ALL = {**SERIES, **{f"random {seed}": random_series(seed) for seed in range(30)}}


@pytest.mark.parametrize(
    ("monitor", "patience"), [("val_loss", 1), ("val_loss", 3), ("val_accuracy", 2), ("val_auc", 10)]
)
def test_early_stopping_is_kerass(monitor, patience):
    for name, values in ALL.items():
        assert our_stop_epoch(monitor, patience, values) == keras_stop_epoch(monitor, patience, values), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("monitor", "patience"),
    [("val_loss", 0), ("val_loss", 2), ("val_accuracy", 1), ("val_accuracy", 2), ("val_auc", 3)],
)
def test_the_plateau_is_kerass(monitor, patience):
    for name, values in ALL.items():
        assert our_rates(monitor, patience, values) == keras_rates(monitor, patience, values), name


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting",
    [
        {"factor": 0.5},
        {"factor": 0.9, "floor": 0.0},
        {"rate": 0.3, "factor": 0.7, "floor": 0.2},
        {"floor": 1e-3},  # The floor is where it begins.
        {"rate": 1e-4, "floor": 1e-5},
    ],
)
def test_the_plateau_is_kerass_with_other_factors_and_floors(setting):
    for name, values in list(ALL.items())[::3]:
        assert our_rates("val_loss", 1, values, **setting) == keras_rates("val_loss", 1, values, **setting), name


def test_the_series_do_something():
    # Or the replays above would agree about nothing.
    stops = [our_stop_epoch("val_loss", 2, values)[0] for values in ALL.values()]
    assert sum(stop is not None for stop in stops) > 25
    assert sum(stop is None for stop in stops) > 5
    falls = [len(set(our_rates("val_loss", 2, values))) for values in ALL.values()]
    assert {1, 2, 3} <= set(falls)
    assert min(min(our_rates("val_loss", 0, values)) for values in ALL.values()) == float(np.float32(FLOOR))


@pytest.mark.parametrize("every", [1, 2, 3])
def test_saving_and_restoring_in_the_middle_changes_nothing(every):
    for values in ALL.values():
        assert our_stop_epoch("val_loss", 2, values, every) == our_stop_epoch("val_loss", 2, values)
        assert our_rates("val_accuracy", 2, values, every) == our_rates("val_accuracy", 2, values)


def test_a_patience_of_zero_never_stops():
    # Unlike Keras, whose 0 stops at the first epoch without improvement: the flag's help says never.
    assert our_stop_epoch("val_loss", 0, [0.1, *([1.0] * 100)]) == (None, 0)


def test_an_undefined_value_is_no_improvement():
    stopping, plateau = EarlyStopping("val_auc", 2), Plateau("val_auc", 2, FACTOR, FLOOR, RATE)
    assert stopping.update(1, 0.5)
    assert not plateau.update(0.5)
    for step in (2, 3):
        assert not stopping.update(step, None)
        plateau.update(None)
    assert stopping.stopped
    assert stopping.best == 0.5
    assert plateau.rate < RATE


def test_improves():
    assert improves("val_loss", 0.4, 0.5)
    assert not improves("val_loss", 0.5, 0.5)
    assert not improves("val_loss", 0.6, 0.5)
    assert improves("val_accuracy", 0.6, 0.5)
    assert not improves("val_accuracy", 0.5, 0.5)
    assert not improves("val_accuracy", 0.6, 0.5, 0.2)
    assert improves("val_loss", 5.0, None)


def test_epochs_at_chance_do_not_count_against_the_rate():
    plateau = Plateau("val_accuracy", 2, FACTOR, FLOOR, RATE)
    series = [(0.5, True), (0.5, True), (0.5, True), (0.5, True), (0.5, False), (0.5, True)]
    assert not any(plateau.update(value, at_chance=at_chance) for value, at_chance in series)
    assert plateau.rate == float(np.float32(RATE))
    assert plateau.update(0.5)  # The second that counts.
