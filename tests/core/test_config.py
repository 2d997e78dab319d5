"""Every check of every setting, through the one way in: ``from_flat``."""

import dataclasses
import json
import math

import pytest

from trainer.core import config as config_lib
from trainer.core.config import Config, from_flat
from trainer.core.errors import RequestError


def refused(**values):
    with pytest.raises(RequestError) as caught:
        from_flat(values)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_nothing_given_gives_the_defaults():
    assert from_flat({}) == Config()
    assert Config().flat() == {name: field.default for name, field in config_lib.settings().items()}


def test_every_default_passes_its_own_check():
    for name, field in config_lib.settings().items():
        assert config_lib.check(field, field.default) == field.default, name


def test_names_are_unique_over_all_sections():
    names = [field.name for _, field in config_lib.settings_with_section()]
    assert len(names) == len(set(names)) > 30


def test_every_setting_has_help_that_is_a_sentence():
    for name, field in config_lib.settings().items():
        assert field.metadata["help"].endswith("."), name


def test_values_land_in_their_sections():
    config = from_flat({"image_size": 64, "model": "cnn", "optimizer": "sgd", "epochs": 9, "xla": True,
                        "keep_checkpoints": 7, "export": "all"})  # fmt: skip
    assert config.data.image_size == 64
    assert config.optim.optimizer == "sgd"
    assert config.loop.epochs == 9
    assert config.runtime.xla is True
    assert config.checkpoint.keep_checkpoints == 7
    assert config.export.export == "all"


# The numbers that are refused first and accepted last on both sides of every bound.
BOUNDS = {
    "image_size": ([45, 0, -1], [46, 1024]),
    "test_views": ([0, 11], [1]),
    "test_fraction": ([-0.1, 1.1], [0.0, 1.0]),
    "split_seed": ([-1], [0, 2**40]),
    "batch_size": ([-1, -32], [1, 4096]),
    "validation_fraction": ([0.0, 1.0, -0.1, 1.5], [0.01, 0.99]),
    "max_bad_fraction": ([-0.01, 1.01], [0.0, 1.0]),
    "max_image_pixels": ([0, -1], [1, 10**12]),
    "cache_bytes": ([-1], [0, 10**15]),
    "blur_probability": ([-0.1, 1.1], [0.0, 1.0]),
    "jpeg_probability": ([-0.1, 1.1], [0.0, 1.0]),
    "photometric_magnitude": ([-0.1, 1.1], [0.0, 1.0]),
    "cutout_size": ([-0.1, 1.1], [0.0, 1.0]),
    "mixup_alpha": ([0.0, 101.0], [0.01, 100.0]),
    "cutmix_alpha": ([0.0, 101.0], [0.01, 100.0]),
    "sbi_probability": ([-0.1, 1.1], [0.0, 1.0]),
    "dropout": ([-0.1, 0.96, 1.0], [0.0, 0.95]),
    "learning_rate": ([0.0, -1.0], [1e-5, 100.0]),
    "weight_decay": ([-0.1], [-1.0, 0.0]),  # -1: auto.
    "momentum": ([-0.1, 1.0], [0.0, 0.99]),
    "adam_beta_1": ([-0.1, 1.0], [0.0, 0.99]),
    "adam_beta_2": ([-0.1, 1.0], [0.0, 0.9999]),
    "adam_epsilon": ([0.0, -1e-8], [1e-12, 1.0]),
    "ema_decay": ([-0.1, 1.0], [0.0, 0.999]),
    "accumulate_steps": ([0, -1], [1, 4]),
    "clip_norm": ([-0.1], [0.0, 1.0]),
    "lr_warmup_steps": ([-2], [-1, 0, 1000]),  # -1: auto.
    "plateau_patience": ([-1], [0, 50]),
    "plateau_factor": ([0.0, 1.0, 2.0], [0.01, 0.99]),
    "min_learning_rate": ([-1e-9], [0.0, 1e-3]),
    "focal_gamma": ([-0.1, 21.0], [0.0, 20.0]),
    "label_smoothing": ([-0.1, 1.0], [0.0, 0.9]),
    "freeze_backbone_epochs": ([-1], [0, 100]),
    "backbone_lr_factor": ([0.0, -0.1, 1.01], [1e-3, 1.0]),
    "epochs": ([0, -1], [1, 10_000]),
    "steps_per_epoch": ([-1], [0, 10_000_000]),
    "min_steps_per_epoch": ([-1], [0, 10_000_000]),
    "seed": ([-1, 2**31], [0, 2**31 - 1]),
    "seeds": ([0, -1], [1, 10]),
    "early_stopping_patience": ([-1], [0, 100]),
    "max_seconds": ([-1.0], [0.0, 3600.0]),
    "max_restarts_without_progress": ([-1], [0, 10]),
    "log_every_steps": ([0], [1, 1000]),
    "num_devices": ([-1], [0, 8]),
    "steps_per_execution": ([-1], [0, 1, 16]),
    "decode_processes": ([-1], [0, 1, 16]),
    "peer_timeout_seconds": ([0.0, -1.0], [1.0, 600.0]),
    "startup_timeout_seconds": ([0.0, 0.5], [1.0, 3600.0]),
    "checkpoint_every_steps": ([-1], [0, 10]),
    "checkpoint_every_seconds": ([-0.5], [0.0, 3600.0]),
    "keep_checkpoints": ([0, -1], [1, 100]),
    "threshold_fpr": ([0.0, 1.0, -0.1], [1e-6, 0.5]),
    "require_auc": ([-0.1, 1.1], [0.0, 0.6, 1.0]),
}


def test_the_table_of_bounds_is_complete():
    numbers = {name for name, field in config_lib.settings().items() if field.type in (int, float)}
    assert numbers == BOUNDS.keys()


@pytest.mark.parametrize("name", BOUNDS)
def test_bounds(name):
    bad, good = BOUNDS[name]
    for value in bad:
        message = refused(**{name: value})
        assert message.startswith(f"--{name}: expected a number ")
        assert message.endswith(f"received {value}")
    for value in good:
        assert from_flat({name: value}).flat()[name] == value


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", [name for name, field in config_lib.settings().items() if field.type is float])
def test_numbers_that_are_not_finite_are_refused(name, value):
    assert refused(**{name: value}).startswith(f"--{name}: expected a number ")


def test_auto_is_the_number_behind_it_and_only_the_word_is_allowed():
    field = config_lib.settings()["batch_size"]
    assert from_flat({"batch_size": "auto"}) == from_flat(from_flat({"batch_size": "auto"}).flat())
    assert config_lib.is_auto(field, config_lib.check_written(field, "auto"))
    assert not config_lib.is_auto(field, config_lib.check_written(field, 1))
    with pytest.raises(RequestError, match="--batch_size: expected a number at least 1; received 0"):
        config_lib.check_written(field, 0)


def test_a_bound_is_told_with_its_sense():
    assert "at least 1; received -1" in refused(batch_size=-1)
    assert "above 0 and below 1; received 1" in refused(plateau_factor=1.0)
    assert "at least 0 and at most 0.95; received 0.99" in refused(dropout=0.99)


CHOICES = {
    "sampling": {"none", "balanced"},
    "input": {"resize", "crop", "pad"},
    "interpolation": {"nearest", "bilinear"},
    "layout": {"auto", "exact", "folders", "list", "ffpp", "celebdf", "dfdc", "deepfakebench", "webdataset"},
    "split_by": {"source", "image"},
    "augment": {"notebook", "forensic", "none", *config_lib.AUGMENTATIONS},
    "model": {"cnn", "cnn_bn", *config_lib.NETWORKS},
    "front_end": {"rgb", "srm", "dct"},
    "optimizer": {"adam", "adamw", "sgd", "rmsprop", *config_lib.OPTIMIZERS},
    "lr_schedule": {"plateau", "constant", "cosine"},
    "plateau_monitor": {"val_loss", "val_accuracy", "val_auc"},
    "monitor": {"auto", "val_loss", "val_accuracy", "val_auc"},
    "loss": {"crossentropy", "focal"},
    "precision": {"auto", "float32", "mixed_float16", "mixed_bfloat16"},
    "strategy": {"auto", "single", "mirrored", "multi_worker"},
    "allreduce_dtype": {"auto", "float32", "float16", "bfloat16"},
    "resume": {"auto", "never", "required"},
    "on_divergence": {"stop", "rollback"},
    "export": {"best", "last", "all", "none"},
    "tensorboard": {"scalars", "all"},
    "trackers": {"none", "mlflow", "wandb"},
    "threshold_by": {"accuracy", "balanced_accuracy", "eer", "fpr", "none"},
}


def test_choices():
    declared = {name: set(field.metadata["choices"]) for name, field in config_lib.settings().items()}
    assert {name: choices for name, choices in declared.items() if choices} == CHOICES
    for name, choices in CHOICES.items():
        for choice in choices:
            assert from_flat({name: choice}).flat()[name] == choice
        message = refused(**{name: "nonsense"})
        assert message.startswith(f"--{name}: expected one of ")
        assert all(choice in message for choice in choices)
        assert "'nonsense'" in message


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("batch_size", "32", "int"),
        ("batch_size", 32.0, "int"),
        ("batch_size", True, "int"),
        ("batch_size", None, "int"),
        ("learning_rate", "0.1", "float"),
        ("learning_rate", True, "float"),
        ("xla", 1, "bool"),
        ("xla", "true", "bool"),
        ("data_dir", 3, "str"),
        ("augment", ["none"], "str"),
    ],
)
def test_a_wrong_type_is_refused(name, value, wanted):
    assert refused(**{name: value}) == f"--{name}: expected {wanted}, received {value!r}"


def test_a_whole_number_is_a_float_where_one_is_wanted():
    rate = from_flat({"learning_rate": 1}).optim.learning_rate
    assert type(rate) is float
    assert rate == 1.0


def test_an_unknown_name_is_refused_with_the_nearest_known_one():
    message = refused(batchsize=3)
    assert "'batchsize'" in message
    assert message.endswith("did you mean 'batch_size'?")
    assert refused(completely_other=3).endswith("received 'completely_other'")


def test_a_floor_above_the_learning_rate_is_refused_unless_nothing_falls():
    message = refused(learning_rate=1e-6)
    assert "--min_learning_rate" in message
    assert "--lr_schedule=constant" in message
    assert refused(learning_rate=1e-6, lr_schedule="cosine") == message
    assert from_flat({"learning_rate": 1e-6, "lr_schedule": "constant"}).optim.learning_rate == 1e-6
    assert from_flat({"learning_rate": 1e-5}).optim.min_learning_rate == 1e-5  # Equal is no contradiction.


def test_single_means_one_device():
    assert "--strategy=mirrored" in refused(strategy="single", num_devices=2)
    for number in (0, 1):
        assert from_flat({"strategy": "single", "num_devices": number}).runtime.num_devices == number


def test_the_batch_must_divide_among_the_devices():
    message = refused(batch_size=31, num_devices=2)
    assert message.endswith("use --batch_size=32")
    assert refused(batch_size=1, num_devices=8).endswith("use --batch_size=8")
    assert from_flat({"batch_size": 30, "num_devices": 3}).data.batch_size == 30
    assert from_flat({"batch_size": 31}).data.batch_size == 31  # 0 devices: all, known only later.


def test_replace_returns_a_checked_copy():
    config = from_flat({"epochs": 7})
    changed = config.replace(seed=4, data_dir="d")
    assert (changed.loop.seed, changed.data.data_dir, changed.loop.epochs) == (4, "d", 7)
    assert config == from_flat({"epochs": 7})
    for changes in ({"epochs": 0}, {"epochz": 1}, {"strategy": "single", "num_devices": 2}):
        with pytest.raises(RequestError):
            config.replace(**changes)


def test_a_config_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().loop.epochs = 3
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().loop = None


def test_json_round_trip():
    config = from_flat({"learning_rate": 0.1 + 0.2, "data_dir": 'ä "quoted" \n', "xla": True, "augment": "none"})
    again = json.loads(json.dumps(config.flat()))
    assert from_flat(again) == config
    assert list(again) == list(config_lib.settings())


@pytest.mark.parametrize("address", ["localhost:5050", "grpc://", "grpc://host", "http://host:5050", "grpc://a b:1"])
def test_a_data_service_is_an_address(address):
    assert refused(data_service=address).startswith("--data_service: expected grpc://host:port")


def test_a_data_service_and_a_cache_exclude_each_other():
    assert from_flat({"data_service": "grpc://[::1]:5050"}).data.data_service == "grpc://[::1]:5050"
    assert "--cache=none with --data_service" in refused(data_service="grpc://host:5050", cache="memory")
