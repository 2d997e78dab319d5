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
    "input": "resize",
    "interpolation": "nearest",
    "test_views": 1,
    "batch_size": 32,
    "validation_fraction": 0.1,
    "max_bad_fraction": 0.05,
    "max_image_pixels": 100_000_000,
    "cache": "none",
    "cache_bytes": 0,
    "data_service": "",
    "decode_processes": 0,
    "augment": "notebook",
    "sampling": "none",
    "layout": "auto",
    "columns": "",
    "labels": "",
    "test_fraction": 0.1,
    "split_seed": 0,
    "split_by": "source",
    "drop": "",
    "blur_probability": 0.5,
    "jpeg_probability": 0.5,
    "photometric_magnitude": 0.5,
    "cutout_size": 0.25,
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "sbi_probability": 0.5,
    "model": "cnn",
    "dropout": 0.2,
    "front_end": "dct",
    "weights": "none",
    "optimizer": "adam",
    "learning_rate": 1e-3,
    "weight_decay": -1.0,
    "decay_biases": False,
    "momentum": 0.9,
    "adam_beta_1": 0.9,
    "adam_beta_2": 0.999,
    "adam_epsilon": 1e-7,
    "clip_norm": 0.0,
    "gradient_centralization": True,
    "ema_decay": 0.0,
    "accumulate_steps": 1,
    "scale_learning_rate": False,
    "lr_schedule": "plateau",
    "lr_warmup_steps": -1,
    "plateau_monitor": "val_accuracy",
    "plateau_patience": 2,
    "plateau_factor": 0.1,
    "plateau_waits_for_learning": True,
    "min_learning_rate": 1e-5,
    "freeze_backbone_epochs": 0,
    "backbone_lr_factor": 1.0,
    "loss": "crossentropy",
    "focal_gamma": 2.0,
    "label_smoothing": 0.0,
    "class_weights": "none",
    "job_dir": "",
    "epochs": 5,
    "steps_per_epoch": 0,
    "min_steps_per_epoch": 0,
    "seed": 0,
    "seeds": 1,
    "monitor": "auto",
    "early_stopping_patience": 10,
    "max_seconds": 0.0,
    "on_divergence": "stop",
    "max_restarts_without_progress": 3,
    "log_every_steps": 1,
    "tensorboard": "scalars",
    "trackers": "none",
    "profile_steps": "",
    "precision": "auto",
    "strategy": "auto",
    "num_devices": 0,
    "require_gpu": False,
    "xla": "auto",
    "xla_cache_dir": "auto",
    "deterministic": False,
    "allreduce_dtype": "auto",
    "steps_per_execution": 0,
    "peer_timeout_seconds": 60.0,
    "startup_timeout_seconds": 600.0,
    "notify": "",
    "checkpoint_every_steps": 0,
    "checkpoint_every_seconds": 0.0,
    "keep_checkpoints": 3,
    "resume": "auto",
    "export": "best",
    "positive_class": "",
    "threshold_by": "accuracy",
    "threshold_fpr": 0.01,
    "calibrate": False,
    "require_auc": 0.0,
    "config": "",
    "print_config": False,
}

EVALUATE = {
    "layout": "auto",
    "columns": "",
    "labels": "",
    "test_fraction": 0.1,
    "split_seed": 0,
    "split_by": "source",
    "drop": "",
    "model_dir": "", "data_dir": "", "split": "Test", "out": "", "batch_size": 64, "bootstrap": 1000, "seed": 0,
    "group_by": "auto", "groups": "", "threshold": "", "robustness": False, "robustness_images": 2000, "audit": "",
    "update_card": False, "compare": "", "max_bad_fraction": 0.05,
}  # fmt: skip

# The contract's line in DESIGN.md.
CONTRACT = {
    "image_size": 224, "batch_size": 32, "epochs": 5, "steps_per_epoch": 0, "seed": 0, "model": "cnn", "dropout": 0.2,
    "optimizer": "adam", "learning_rate": 1e-3, "lr_schedule": "plateau", "plateau_patience": 2,
    "plateau_factor": 0.1, "min_learning_rate": 1e-5, "early_stopping_patience": 10, "augment": "notebook",
    "precision": "auto", "strategy": "auto", "num_devices": 0, "xla": "auto", "deterministic": False,
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
    types = {name: config_lib.kind(field) for name, field in flags.train_fields().items()}
    assert types == {name: type(default) for name, default in SURFACE.items()} | {"xla": bool}


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
    fields = flags.train_fields()
    defaults = {name: "auto" if config_lib.is_auto(fields[name], default) else default
                for name, default in SURFACE.items() if name not in ("config", "print_config")}  # fmt: skip
    words = [f"--{name}={default}" for name, default in defaults.items()]
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
            assert f"default: {'auto' if field.default == meta['auto'] else field.default}" in head
    assert len(heads) == len(SURFACE)
    assert "--config" in page
    assert "exit code" in page.lower()


UNITS = {
    "image_size": "pixels", "batch_size": "images", "plateau_patience": "epochs", "steps_per_epoch": "steps",
    "min_steps_per_epoch": "steps",
    "early_stopping_patience": "epochs", "log_every_steps": "steps", "checkpoint_every_steps": "steps",
    "checkpoint_every_seconds": "seconds", "max_seconds": "seconds", "max_image_pixels": "pixels",
    "lr_warmup_steps": "steps", "steps_per_execution": "steps", "decode_processes": "processes",
    "cache_bytes": "bytes", "peer_timeout_seconds": "seconds", "startup_timeout_seconds": "seconds",
    "freeze_backbone_epochs": "epochs",
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


def test_several_augmentations_are_one_value():
    config = flags.train_config([*PLACES, "--augment=flip,sbi,cutout"])
    assert config.data.augment == "flip,sbi,cutout"
    assert config.self_blended == ""
    assert flags.train_config([*PLACES, "--augment=sbi", "--positive_class=Forged"]).self_blended == "Forged"
    assert flags.train_config(PLACES).self_blended is None


def test_forms_of_a_flag():
    config = flags.train_config([*PLACES, "--epochs", "3", "-seed=5", "--xla", "--nodeterministic", "--dropout=0"])
    assert (config.loop.epochs, config.loop.seed) == (3, 5)
    assert (config.runtime.xla, config.runtime.deterministic) == (True, False)
    assert config.model.dropout == 0.0
    for words, value in (("--xla=true", True), ("--xla=auto", "auto"), ("--xla=false", False), ("--noxla", False)):
        read = flags.train_config([*PLACES, words])
        assert read.runtime.xla is value or read.runtime.xla == value == "auto"
        assert flags.train_config([*PLACES, *flags.to_argv(read)]) == read  # As submit passes it on.
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
        ("--xla=perhaps", ["--xla", "expected auto, true or false", "'perhaps'"]),
        ("--epochs=0", ["--epochs", "at least 1", "received 0"]),
        ("--batch_size=0", ["--batch_size", "at least 1", "received 0"]),
        ("--learning_rate=nan", ["--learning_rate", "nan"]),
        ("--augment=heavy", ["--augment", "notebook, forensic, none", "'heavy'"]),
        ("--augment=flip,heavy", ["--augment", "notebook, forensic, none", "'heavy'"]),
        ("--augment=flip,", ["--augment", "notebook, forensic, none", "''"]),
        ("--model=cnn,cnn", ["--model", "'cnn,cnn'"]),
        ("--sbi_probability=1.5", ["--sbi_probability", "at most 1", "1.5"]),
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
    config = flags.train_config([*PLACES, "--epochs=3", "--weight_decay=0", "--lr_warmup_steps=0"])  # As it settled.
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


def written(tmp_path, text, suffix="yaml"):
    file = tmp_path / f"recipe.{suffix}"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return f"--config={file}"


@pytest.mark.parametrize("suffix", ["yaml", "yml"])
def test_a_yaml_file_gives_values_too(tmp_path, suffix, package_log):
    recipe = """
        description: |
            What it is for,
            and what it costs.
        epochs: 9          # As long as it takes.
        learning_rate: 1e-4
        plateau_factor: 0.25
        dropout: 0
        xla: yes
        deterministic: false
        augment: none
        cache: "memory"
        profile_steps: 10,20
    """
    config = flags.train_config([*PLACES, written(tmp_path, recipe, suffix), "--epochs=4"])
    assert (config.loop.epochs, config.optim.learning_rate, config.optim.plateau_factor) == (4, 1e-4, 0.25)
    assert (config.model.dropout, config.runtime.xla, config.runtime.deterministic) == (0.0, True, False)
    assert (config.data.augment, config.data.cache, config.loop.profiled) == ("none", "memory", (10, 20))
    (line,) = package_log.messages
    assert line.endswith(f"recipe.{suffix}: What it is for, and what it costs.")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("epochz: 1", ["'epochz'", "did you mean 'epochs'?"]),
        ("epochs: '3'", ["--epochs: expected int, received '3'"]),
        ("xla: 1", ["--xla: expected bool, received 1"]),
        ("epochs:", ["--epochs", "received None"]),
        ("epochs: 0", ["--epochs", "at least 1", "received 0"]),
        ("batch_size: 0", ["--batch_size", "at least 1", "received 0"]),
        ("optim: {learning_rate: 1}", ["'optim'"]),
        ("config: other.yaml", ["'config'"]),
        ("epochs: 1\nseed: 2\nepochs: 3", ["line 3, column 1", "'epochs' is there twice"]),
        ("epochs: 1\n  seed: 2", ["line 2, column 7", "mapping values"]),
        ("seed: [1, 2\nepochs: 1", ["line 2, column 7"]),
        ("one: &a {x: 1}\ntwo: *a", ["line 2, column 6", "aliases"]),
        ("seed: !!python/object:os.system 1", ["line 1, column 7", "python/object"]),
        ("on: 1", ["True is not text"]),
        ("- epochs: 1", ["the list"]),
        ("2026-01-01", ["2026-01-01"]),
        ("# nothing", ["an empty file"]),
        ("---\nseed: 1\n---\nseed: 2", ["line 3"]),
        (b"\xff\xfe\x00", ["settings in YAML"]),
        ("[" * 2000, ["settings in YAML"]),
        ("description: [1]", ["text as 'description'"]),
    ],
)
def test_a_wrong_yaml_file_is_refused_with_its_place(tmp_path, content, words):
    message = refused(written(tmp_path, content))
    assert all(word in message for word in words), message


def test_a_description_is_no_setting_of_the_command_line_and_stands_in_json_too(tmp_path, package_log):
    assert flags.train_config([*PLACES, written(tmp_path, '{"description": "d", "seed": 2}', "json")]).loop.seed == 2
    assert package_log.messages[0].endswith("recipe.json: d")
    assert "received --description" in refused("--description=x")


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


def test_auto_travels_as_a_word():
    config = flags.train_config([*PLACES, "--batch_size=auto", "--num_devices=3"])
    words = flags.to_argv(config)
    assert "--batch_size=auto" in words
    assert flags.train_config(words) == config


def test_parsing_leaves_no_trace_in_the_process():
    from absl import flags as absl_flags

    flags.train_config(PLACES)
    flags.train_config([*PLACES, "--epochs=3"])
    assert "epochs" not in absl_flags.FLAGS
    assert flags.train_config(PLACES).loop.epochs == 5
