"""The command line of ``trainer.train``: what others build on, so every change of it is a line in a diff here."""

import dataclasses
import json
import random

import pytest

from trainer import evaluate
from trainer.core import cli
from trainer.core import config as config_lib
from trainer.core.config import flags, from_flat
from trainer.core.errors import RequestError
from trainer.evaluation.request import EvaluateFlags

# Every flag and its default.  A new one, a changed default or a lost one must be changed here on purpose.
SURFACE = {
    "data_dir": "",
    "image_size": 224,
    "batch_size": 32,
    "validation_fraction": 0.1,
    "max_bad_fraction": 0.05,
    "max_image_pixels": 100_000_000,
    "cache": "none",
    "cache_bytes": 0,
    "data_service": "",
    "augment": "notebook",
    "model": "cnn",
    "dropout": 0.2,
    "front_end": "dct",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "lr_schedule": "plateau",
    "plateau_monitor": "val_accuracy",
    "plateau_patience": 2,
    "plateau_factor": 0.1,
    "min_learning_rate": 1e-5,
    "job_dir": "",
    "epochs": 5,
    "steps_per_epoch": 0,
    "seed": 0,
    "monitor": "val_loss",
    "early_stopping_patience": 10,
    "max_seconds": 0.0,
    "on_divergence": "stop",
    "max_restarts_without_progress": 3,
    "log_every_steps": 1,
    "tensorboard": "scalars",
    "profile_steps": "",
    "precision": "auto",
    "strategy": "auto",
    "num_devices": 0,
    "xla": False,
    "deterministic": False,
    "allreduce_dtype": "auto",
    "peer_timeout_seconds": 60.0,
    "startup_timeout_seconds": 600.0,
    "checkpoint_every_steps": 0,
    "checkpoint_every_seconds": 0.0,
    "keep_checkpoints": 3,
    "resume": "auto",
    "export": "best",
    "positive_class": "",
    "threshold_by": "accuracy",
    "threshold_fpr": 0.01,
    "calibrate": False,
    "config": "",
}

EVALUATE = {
    "model_dir": "", "data_dir": "", "split": "Test", "out": "", "batch_size": 64, "bootstrap": 1000, "seed": 0,
    "group_by": "auto", "groups": "", "threshold": "", "robustness": False, "robustness_images": 2000, "audit": "",
    "update_card": False, "compare": "", "max_bad_fraction": 0.05,
}  # fmt: skip

# The contract's line in DESIGN.md.
CONTRACT = {
    "image_size": 224, "batch_size": 32, "epochs": 5, "steps_per_epoch": 0, "seed": 0, "model": "cnn", "dropout": 0.2,
    "optimizer": "adam", "learning_rate": 1e-3, "lr_schedule": "plateau", "plateau_patience": 2,
    "plateau_factor": 0.1, "min_learning_rate": 1e-5, "early_stopping_patience": 10, "augment": "notebook",
    "precision": "auto", "strategy": "auto", "num_devices": 0, "xla": False, "deterministic": False,
    "keep_checkpoints": 3, "resume": "auto", "export": "best", "cache": "none",
}  # fmt: skip
CONTRACT_WITHOUT_DEFAULT = {
    "data_dir", "job_dir", "monitor", "checkpoint_every_steps", "checkpoint_every_seconds", "config",
    "max_bad_fraction", "validation_fraction",
}  # fmt: skip

PLACES = ["--data_dir=D", "--job_dir=J"]


def refused(*argv):
    with pytest.raises(RequestError) as caught:
        flags.train_config([*PLACES, *argv])
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_flag_surface_is_frozen():
    assert {name: field.default for name, field in flags.train_fields().items()} == SURFACE
    types = {name: field.type for name, field in flags.train_fields().items()}
    assert types == {name: type(default) for name, default in SURFACE.items()}


def test_the_flags_of_evaluate_are_frozen(capsys):
    assert {field.name: field.default for field in dataclasses.fields(EvaluateFlags)} == EVALUATE
    assert cli.run_command(evaluate.main, ["--help"]) == 0
    page = capsys.readouterr().out
    assert all(f"  --{name}" in page for name in EVALUATE)


def test_the_contracts_flags_exist_with_the_contracts_defaults():
    assert CONTRACT.items() <= SURFACE.items()
    assert SURFACE.keys() >= CONTRACT_WITHOUT_DEFAULT
    assert SURFACE["validation_fraction"] == 0.1
    assert SURFACE["max_bad_fraction"] == 0.05


def test_every_flag_of_the_surface_is_taken_on_the_command_line(tmp_path):
    file = tmp_path / "c.json"
    file.write_text("{}")
    words = [f"--{name}={'' if default is None else default}" for name, default in SURFACE.items() if name != "config"]
    config = flags.train_config([*words, *PLACES, f"--config={file}"])
    assert config == from_flat({"data_dir": "D", "job_dir": "J"})


def help_page():
    with pytest.raises(flags.HelpRequested) as caught:
        flags.train_config(["--help"])
    return str(caught.value)


def test_help_tells_each_flag_with_unit_default_choices_and_meaning():
    page = help_page()
    heads = {line.split("=")[0].split()[0]: line for line in page.splitlines() if line.startswith("  --")}
    words = " ".join(page.split())
    for name, field in flags.train_fields().items():
        head = heads[f"--{name}"]
        meta = field.metadata
        assert " ".join(meta["help"].split()) in words, name
        assert meta["unit"] in head, name
        assert all(choice in head for choice in meta["choices"]), name
        if field.type is bool:
            assert f"--no{name}" in head
        elif field.default != "":
            assert f"default: {field.default}" in head
    assert len(heads) == len(SURFACE)
    assert "--config" in page
    assert "exit code" in page.lower()


UNITS = {
    "image_size": "pixels", "batch_size": "images", "plateau_patience": "epochs", "steps_per_epoch": "steps",
    "early_stopping_patience": "epochs", "log_every_steps": "steps", "checkpoint_every_steps": "steps",
    "checkpoint_every_seconds": "seconds", "max_seconds": "seconds", "max_image_pixels": "pixels",
    "cache_bytes": "bytes", "peer_timeout_seconds": "seconds", "startup_timeout_seconds": "seconds",
}  # fmt: skip


def test_units():
    assert {name: field.metadata["unit"] for name, field in flags.train_fields().items()
            if field.metadata["unit"]} == UNITS  # fmt: skip


@pytest.mark.parametrize("word", ["--help", "-h", "-help", "--helpfull"])
def test_help_wins_over_everything_else(word):
    with pytest.raises(flags.HelpRequested):
        flags.train_config(["--nonsense=1", word])


def test_both_places_are_needed():
    for given, missing in (("data_dir", "job_dir"), ("job_dir", "data_dir")):
        with pytest.raises(RequestError, match=f"expected --{missing}, received none"):
            flags.train_config([f"--{given}=x"])


def test_forms_of_a_flag():
    config = flags.train_config([*PLACES, "--epochs", "3", "-seed=5", "--xla", "--nodeterministic", "--dropout=0"])
    assert (config.loop.epochs, config.loop.seed) == (3, 5)
    assert (config.runtime.xla, config.runtime.deterministic) == (True, False)
    assert config.model.dropout == 0.0
    assert flags.train_config([*PLACES, "--xla=true"]).runtime.xla
    assert flags.train_config([*PLACES, "--epochs=2", "--epochs=4"]).loop.epochs == 4


def test_an_unknown_flag_is_refused_with_the_nearest_known_one():
    message = refused("--epoch=3")
    assert "received --epoch;" in message
    assert "did you mean 'epochs'?" in message
    assert "--help" in message
    assert "did you mean" not in refused("--qqqqqqq=3")


@pytest.mark.parametrize(
    ("word", "words"),
    [
        ("--epochs=many", ["--epochs", "expected a whole number", "'many'"]),
        ("--epochs=1.5", ["--epochs", "expected a whole number", "'1.5'"]),
        ("--epochs=", ["--epochs", "expected a whole number", "''"]),
        ("--learning_rate=fast: x", ["--learning_rate", "expected a number", "'fast: x'"]),
        ("--xla=perhaps", ["--xla", "expected true or false", "'perhaps'"]),
        ("--epochs=0", ["--epochs", "at least 1", "received 0"]),
        ("--batch_size=0", ["--batch_size", "at least 1", "received 0"]),
        ("--learning_rate=nan", ["--learning_rate", "nan"]),
        ("--augment=heavy", ["--augment", "notebook, forensic, none", "'heavy'"]),
        ("--epochs", ["--epochs", "Missing value"]),
        ("--noxla=1", ["--noxla", "does not take an argument"]),
    ],
)
def test_a_wrong_value_is_refused_with_words_that_help(word, words):
    message = refused(word)
    assert all(part in message for part in words), message


def test_words_that_are_no_flags_are_refused():
    assert "'D'" in refused("D")
    assert "'--epochs=3'" in refused("--", "--epochs=3")


def test_a_config_file_gives_values_and_flags_override_it(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"epochs": 9, "seed": 3, "data_dir": "from_file", "xla": True, "learning_rate": 1}))
    config = flags.train_config(["--job_dir=J", f"--config={file}", "--seed=4", "--noxla"])
    assert (config.loop.epochs, config.loop.seed, config.data.data_dir) == (9, 4, "from_file")
    assert config.runtime.xla is False
    assert config.optim.learning_rate == 1.0


def test_a_flag_given_its_default_still_overrides_the_file(tmp_path):
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"epochs": 9, "xla": True}))
    config = flags.train_config([*PLACES, f"--config={file}", "--epochs=5", "--xla=false"])
    assert (config.loop.epochs, config.runtime.xla) == (5, False)


def test_the_config_file_of_a_job_is_one_that_config_takes(tmp_path):
    config = flags.train_config([*PLACES, "--epochs=3", "--augment=none"])
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config.flat()))
    assert flags.train_config([f"--config={file}"]) == config


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"not json", "JSON"),
        (b"[1, 2]", "list"),
        (b"\xff\xfe", "JSON"),
        (b'{"epochz": 1}', "epochs"),
        (b'{"epochs": "3"}', "--epochs"),
        (b'{"epochs": 0}', "at least 1"),
        (b'{"config": "other.json"}', "config"),
    ],
)
def test_a_wrong_config_file_is_refused(tmp_path, content, word):
    file = tmp_path / "c.json"
    file.write_bytes(content)
    assert word in refused(f"--config={file}")


def test_a_missing_config_file_is_refused(tmp_path):
    message = refused(f"--config={tmp_path / 'absent.json'}")
    assert "--config" in message
    assert "absent.json" in message
    assert "--config" in refused(f"--config={tmp_path}")  # A folder.


def random_value(field, rng):
    meta = field.metadata
    if meta["choices"]:
        return rng.choice(meta["choices"])
    if field.type is bool:
        return rng.random() < 0.5
    if field.type is str:
        return rng.choice(["x", "--x=1", "a b", "ä=ö", "-", "'\"", "line\nbreak", "gs://bucket/path", "{}", "0"])
    low = max(meta["minimum"], 0)
    high = min(meta["maximum"], 2000)
    if field.type is int:
        return rng.randint(int(low), int(high))
    return low + (high - low) * rng.uniform(0.001, 0.999)


@pytest.mark.parametrize("seed", range(40))
def test_to_argv_round_trip(seed):
    rng = random.Random(seed)
    fields = config_lib.settings()
    while True:
        names = rng.sample(sorted(fields), rng.randint(0, len(fields)))
        values = {name: random_value(fields[name], rng) for name in {*names, "data_dir", "job_dir"}}
        try:
            config = from_flat(values)
        except RequestError:  # Settings that contradict each other: draw again.
            continue
        break
    words = flags.to_argv(config)
    assert flags.train_config(words) == config
    # Only what differs from the defaults is spelled.
    assert len(words) == sum(value != SURFACE[name] for name, value in config.flat().items())


def test_to_argv_spells_switches():
    assert flags.to_argv(from_flat({"xla": True, "epochs": 6})) == ["--epochs=6", "--xla"]


def test_parsing_leaves_no_trace_in_the_process():
    from absl import flags as absl_flags

    flags.train_config(PLACES)
    flags.train_config([*PLACES, "--epochs=3"])
    assert "epochs" not in absl_flags.FLAGS
    assert flags.train_config(PLACES).loop.epochs == 5
