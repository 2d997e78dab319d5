"""Space files: what they may say, and one clear line for what they may not."""

import json

import pytest

from trainer.core import config as config_lib
from trainer.core.errors import RequestError
from trainer.sweep import request, space


def written(tmp_path, text):
    (tmp_path / "space.yaml").write_text(text)
    return str(tmp_path / "space.yaml")


GOOD = """
- {name: learning_rate, kind: float, range: [1e-4, 1e-2], log: true}
- name: lr_schedule
  kind: choice
  values: [plateau, constant]
- {name: plateau_factor, kind: float, range: [0.1, 0.5], points: 2, condition: {lr_schedule: [plateau]}}
- {name: batch_size, kind: int, range: [8, 32]}
- {name: xla, kind: bool}
"""


def test_a_space_file_is_read(tmp_path):
    rate, schedule, factor, batch, xla = space.read(written(tmp_path, GOOD))
    assert (rate.low, rate.high, rate.log) == (1e-4, 1e-2, True)
    assert schedule.values == ("plateau", "constant")
    assert factor.condition == (("lr_schedule", ("plateau",)),)
    assert (batch.kind, batch.low, batch.high) == ("int", 8, 32)
    assert xla.values == (False, True)


def test_json_is_read_as_well_and_a_space_can_be_kept(tmp_path):
    first = space.read(written(tmp_path, GOOD))
    assert space.read(written(tmp_path, json.dumps(space.to_entries(first)))) == first


def test_the_built_in_space_is_frozen():
    """A name that a registry gains is searched too, after these."""
    rate, dropout, model, augment, optimizer = space.built_in()
    assert (rate.name, rate.low, rate.high, rate.log, rate.points) == ("learning_rate", 1e-4, 1e-2, True, 3)
    assert (dropout.name, dropout.low, dropout.high, dropout.log, dropout.points) == ("dropout", 0.0, 0.5, False, 2)
    assert (model.name, model.values[:2]) == ("model", ("cnn", "cnn_bn"))
    assert (augment.name, augment.values[:3]) == ("augment", ("notebook", "forensic", "none"))
    assert (optimizer.name, optimizer.values[:3]) == ("optimizer", ("adam", "adamw", "sgd"))
    assert "rmsprop" not in optimizer.values


def test_the_built_in_space_fits_the_settings():
    for values in space.combinations(space.built_in()):
        config_lib.from_flat(values)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("{name: learning_rat, kind: float, range: [0.1, 0.2]}", "did you mean 'learning_rate'?"),
        ("{name: [dropout], kind: float, range: [0.1, 0.2]}", "name of a flag of trainer.train, received ['dropout']"),
        ("{name: learning_rate, kind: flaot, range: [0.1, 0.2]}", "expected a kind out of float, int, choice, bool"),
        ("{name: learning_rate, kind: int, range: [1, 2]}", "expected kind: float, received int"),
        ("{name: learning_rate, kind: float, range: [0.2, 0.1]}", "low < high"),
        ("{name: learning_rate, kind: float, range: [0.0, 0.1]}", "--learning_rate: expected a number above 0"),
        ("{name: dropout, kind: float, range: [0.0, 0.5], log: true}", "log: true with a range above 0"),
        ("{name: dropout, kind: float, range: [0.1, 0.99]}", "--dropout: expected a number at least 0 and at most"),
        ("{name: dropout, kind: float, range: [0.1]}", "range: [low, high]"),
        ("{name: dropout, kind: float, rang: [0.1, 0.2]}", "did you mean 'range'?"),
        ("{name: dropout, kind: float, range: [a, b]}", "--dropout: expected float, received 'a'"),
        ("{name: dropout, kind: float, range: [0.1, 0.2], points: 0}", "points: 1 to 1000"),
        ("{name: dropout, kind: float, range: [0.1, 0.2], points: 3000000000}", "received 3000000000"),
        ("{name: optimizer, kind: choice, values: [adam, newton]}", "--optimizer: expected one of adam"),
        ("{name: optimizer, kind: choice}", "expected values"),
        ("{name: optimizer, kind: bool}", "kind: choice"),
        ("{name: batch_size, kind: choice, values: [16, 0]}", "--batch_size: expected a number at least 1"),
        ("{name: job_dir, kind: choice, values: [a, b]}", "decides a trial's result"),
        ("{name: data_dir, kind: choice, values: [a, b]}", "decides a trial's result"),
        ("{name: seed, kind: int, range: [0, 9]}", "--retrain_best"),
        ("{name: validation_fraction, kind: float, range: [0.1, 0.2]}", "different images"),
        ("{name: xla, kind: bool, condition: {model: [cnn]}}", "an earlier choice or bool"),
        ("{name: plateau_factor, kind: float, range: [0.1, 0.5], condition: {plateau_factor: [0.1]}}", "an earlier"),
        ("just words", "expected 'name: ..., kind: ...'"),
    ],
)
def test_a_wrong_entry_gets_one_line_that_says_what_is_wrong(tmp_path, entry, said):
    with pytest.raises(RequestError) as caught:
        space.read(written(tmp_path, f"- {entry}\n"))
    assert said in str(caught.value)
    assert "space.yaml: parameter 1" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "3", "[]", "name: dropout", "- {a", "\x00"])
def test_a_file_that_is_no_list_of_parameters_is_refused(tmp_path, text):
    with pytest.raises(RequestError, match="--space"):
        space.read(written(tmp_path, text))


def test_a_missing_file_and_a_name_twice_are_refused(tmp_path):
    with pytest.raises(RequestError, match="absent"):
        space.read(str(tmp_path / "absent.yaml"))
    twice = "- {name: xla, kind: bool}\n" * 2
    with pytest.raises(RequestError, match=r"parameter 2 \(xla\).*once"):
        space.read(written(tmp_path, twice))


def test_conditions_in_a_circle_are_refused(tmp_path):
    text = """
- {name: xla, kind: bool, condition: {lr_schedule: [plateau]}}
- {name: lr_schedule, kind: choice, values: [plateau, constant], condition: {xla: [true]}}
"""
    with pytest.raises(RequestError, match=r"parameter 1 \(xla\): condition: expected an earlier .* 'lr_schedule'"):
        space.read(written(tmp_path, text))


def test_a_grid_has_every_combination_once_and_leaves_out_what_does_not_count(tmp_path):
    text = """
- {name: learning_rate, kind: float, range: [1e-4, 1e-2], log: true}
- {name: lr_schedule, kind: choice, values: [plateau, constant]}
- {name: plateau_factor, kind: float, range: [0.1, 0.5], points: 2, condition: {lr_schedule: [plateau]}}
"""
    found = list(space.combinations(space.read(written(tmp_path, text))))
    assert [one["learning_rate"] for one in found] == [1e-4] * 3 + [1e-3] * 3 + [1e-2] * 3
    assert found[:3] == [
        {"learning_rate": 1e-4, "lr_schedule": "plateau", "plateau_factor": 0.1},
        {"learning_rate": 1e-4, "lr_schedule": "plateau", "plateau_factor": 0.5},
        {"learning_rate": 1e-4, "lr_schedule": "constant"},
    ]


def test_a_grid_over_whole_numbers_has_no_value_twice():
    (one,) = space.from_entries([{"name": "plateau_patience", "kind": "int", "range": [1, 2], "points": 5}])
    assert one.grid() == [1, 2]


@pytest.mark.parametrize("model", ["{name: model, kind: choice, values: [cnn_bn]}", "{name: xla, kind: bool}"])
def test_images_too_small_for_a_network_of_the_space_are_refused_before_a_trial(tmp_path, model):
    words = ["--data_dir=D", f"--job_dir={tmp_path}/J"]
    for smallest, message in ((45, "--image_size: expected a number at least 46 for --model=cnn"), (46, "")):
        text = f"- {{name: image_size, kind: int, range: [{smallest}, 64]}}\n- {model}\n"
        if not message:
            assert request.parse([*words, f"--space={written(tmp_path, text)}"])
            continue
        with pytest.raises(RequestError, match=message):
            request.parse([*words, f"--space={written(tmp_path, text)}"])
