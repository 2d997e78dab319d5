"""KerasTuner's private attributes are used in one file, and a version without one of them is refused by name."""

import contextlib
import io
import re
from pathlib import Path

import keras_tuner as kt
import pytest
from keras_tuner.src import protos
from keras_tuner.src.distribute import oracle_chief
from keras_tuner.src.engine import conditions

from tests.sweep.test_sweep import bound, request
from trainer.sweep import keras_tuner_private as private

SWEEP = Path(private.__file__).parent
PRIVATE = re.compile(
    r"keras_tuner\.src|\._(display|brackets|random_state|run_times|retry_queue|seed_state|tried_so_far|is_worker|get_size)\b"
)


def test_no_other_file_uses_privates():
    files = {path.name for path in SWEEP.parent.rglob("*.py") if PRIVATE.search(path.read_text())}
    assert files == {"keras_tuner_private.py"}


def hyperband(tmp_path):
    return bound(request(tmp_path, tuner="hyperband"))


@pytest.mark.parametrize(
    ("use", "owner", "name"),
    [
        (lambda path: private.silence_conditions(), lambda oracle: conditions.Parent, "to_proto"),
        (lambda path: type("Another", (private.WithoutTrialFiles,), {}), lambda oracle: kt.Oracle, "_save_trial"),
        (lambda path: private.oracle_servicer(), lambda oracle: oracle_chief, "OracleServicer"),
        (lambda path: private.oracle_servicer(), lambda oracle: oracle_chief.OracleServicer, "GetTrial"),
        (lambda path: private.add_servicer(None, None), lambda oracle: protos, "get_service_grpc"),
        (private.prepare_oracle, lambda oracle: oracle, "_display"),
        (private.prepare_oracle, lambda oracle: oracle, "tuner_ids"),
        (lambda oracle: list(private.waiting_in_hyperband(oracle)), lambda oracle: oracle, "_brackets"),
    ],
)
def test_a_missing_attribute_is_an_error(use, owner, name, tmp_path, monkeypatch):
    oracle = hyperband(tmp_path)
    place = owner(oracle)
    for base in getattr(place, "__mro__", [place]):  # GetTrial is inherited as well.
        monkeypatch.delattr(base, name, raising=False)
    with pytest.raises(RuntimeError, match=rf"keras-tuner {kt.__version__} has no \w+.*\.{name}, .* pip install"):
        use(oracle)


def test_a_tuner_or_a_bayesian_oracle_of_another_version_is_an_error(tmp_path):
    for use in (private.is_worker, lambda oracle: private.seed_bayesian(oracle, 1)):
        with pytest.raises(RuntimeError, match="which deepdetect relies on"):
            use(object())


def test_a_condition_on_the_wire_prints_nothing():
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        conditions.Parent("lr_schedule", ["plateau"]).to_proto()
    assert out.getvalue() == ""


def test_an_oracle_writes_one_file(tmp_path, capsys):
    oracle = hyperband(tmp_path)
    oracle.create_trial("tuner0")
    assert [path.name for path in tmp_path.rglob("*")] == ["oracle.json"]
    assert capsys.readouterr().out == ""  # Nor does it print a table of its own.
