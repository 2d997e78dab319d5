"""Invariant 6: the same command resumes a job; a different one is refused, and nothing is ever deleted."""

import errno
import fcntl
import json
import os
from pathlib import Path

import pytest

from tests.helpers import faults
from trainer.core import config as config_lib
from trainer.core.config import changes, from_flat
from trainer.core.errors import RequestError
from trainer.core.job_dir import JobPaths
from trainer.core.storage import files, lock
from trainer.training import resume
from trainer.training.checkpoints.checkpoint import Checkpoint, CheckpointStore

# What a job that continues may change; everything else decides its result.  A literal list on purpose.
FREE = {
    "data_dir", "job_dir", "max_bad_fraction", "epochs", "strategy", "num_devices", "require_gpu",
    "checkpoint_every_steps", "checkpoint_every_seconds", "keep_checkpoints", "resume", "export", "max_seconds",
    "on_divergence", "max_restarts_without_progress", "cache", "cache_bytes", "peer_timeout_seconds",
    "startup_timeout_seconds", "threshold_by", "threshold_fpr", "calibrate", "tensorboard", "profile_steps",
    "data_service", "seeds", "require_auc", "xla_cache_dir", "steps_per_execution",
    "decode_processes", "trackers", "notify",
    "layout", "columns", "labels", "test_fraction", "split_seed", "split_by", "drop",
}  # fmt: skip
OTHER = {
    "blur_probability": 0.1, "jpeg_probability": 0.1, "photometric_magnitude": 0.1, "cutout_size": 0.1,
    "mixup_alpha": 0.1, "cutmix_alpha": 0.1, "sbi_probability": 0.1, "input": "pad", "test_views": 5,
    "interpolation": "bilinear", "layout": "list", "columns": "path:file", "labels": "Real:a,Fake:b",
    "test_fraction": 0.2, "split_seed": 3, "split_by": "image", "drop": "list.txt",
    "data_dir": "elsewhere", "image_size": 64, "batch_size": 64, "validation_fraction": 0.3, "max_bad_fraction": 0.5,
    "augment": "none", "dropout": 0.5, "front_end": "srm", "optimizer": "sgd", "learning_rate": 0.1,
    "lr_schedule": "constant",
    "plateau_monitor": "val_auc", "plateau_patience": 9, "plateau_factor": 0.5, "min_learning_rate": 1e-6,
    "job_dir": "other", "epochs": 50, "steps_per_epoch": 3, "min_steps_per_epoch": 3, "seed": 1, "monitor": "val_auc",
    "early_stopping_patience": 3, "log_every_steps": 7, "precision": "float32", "strategy": "mirrored",
    "num_devices": 2, "require_gpu": True,
    "xla": True, "xla_cache_dir": "none", "deterministic": True, "checkpoint_every_steps": 5,
    "steps_per_execution": 4, "decode_processes": 3, "trackers": "mlflow",
    "checkpoint_every_seconds": 9.0, "keep_checkpoints": 1, "resume": "required", "export": "all",
    "positive_class": "Real", "model": "cnn_bn", "max_seconds": 60.0, "on_divergence": "rollback",
    "max_restarts_without_progress": 0, "max_image_pixels": 10**6, "cache": "memory", "cache_bytes": 10**6,
    "allreduce_dtype": "bfloat16", "peer_timeout_seconds": 5.0, "startup_timeout_seconds": 30.0,
    "threshold_by": "eer", "threshold_fpr": 0.2, "calibrate": True, "tensorboard": "all", "profile_steps": "2,3",
    "data_service": "grpc://other:5050", "weights": "other.h5", "sampling": "balanced", "lr_warmup_steps": 7,
    "plateau_waits_for_learning": False,
    "weight_decay": 0.0, "decay_biases": True, "momentum": 0.5, "adam_beta_1": 0.5, "adam_beta_2": 0.5,
    "adam_epsilon": 1e-3, "clip_norm": 1.0, "gradient_centralization": False, "ema_decay": 0.9, "accumulate_steps": 2,
    "scale_learning_rate": True, "loss": "focal", "focal_gamma": 1.0, "label_smoothing": 0.1,
    "class_weights": "balanced", "seeds": 3, "require_auc": 0.6,
    "notify": "mailto:jo@example.com", "freeze_backbone_epochs": 2, "backbone_lr_factor": 0.5,
}  # fmt: skip


def request(tmp_path, **values):
    config = from_flat({"data_dir": "D", "job_dir": str(tmp_path / "job"), **values})
    return config, JobPaths(config.loop.job_dir)


IMAGES = {"train images": "a", "validation images": "b"}


def prepare(tmp_path, images=IMAGES, **values):
    config, paths = request(tmp_path, **values)
    Path(paths.job_dir).mkdir(exist_ok=True)
    resume.prepare(config, paths, images)
    resume.keep_settings(config, paths)


def kept(tmp_path):
    return json.loads((tmp_path / "job" / "config.json").read_text())


def test_a_new_job_keeps_its_settings(tmp_path):
    prepare(tmp_path, epochs=3, learning_rate=0.25)
    assert os.listdir(tmp_path / "job") == ["config.json"]
    assert from_flat(kept(tmp_path)) == request(tmp_path, epochs=3, learning_rate=0.25)[0]


def test_what_differs_from_the_defaults_is_on_top_of_the_file(tmp_path):
    config, paths = request(tmp_path, epochs=3, learning_rate=0.25)
    Path(paths.job_dir).mkdir()
    for _ in range(2):  # A resumed job, too.
        resume.prepare(config, paths, IMAGES)
        resume.keep_settings(config, paths, changes.differing(config))
        assert list(kept(tmp_path))[:3] == ["learning_rate", "epochs", "data_dir"]
    assert list(kept(tmp_path).items()) != list(config.flat().items())
    assert kept(tmp_path) == config.flat()


def test_the_same_request_again_is_allowed(tmp_path):
    for _ in range(3):
        prepare(tmp_path, seed=4, xla=True, dropout=0.1 + 0.2)


def test_the_free_settings_are_these(tmp_path):
    fixed = {name for name, field in config_lib.settings().items() if field.metadata["fixed"]}
    assert set(config_lib.settings()) - fixed == FREE


def test_the_table_of_other_values_is_complete():
    assert set(OTHER) == set(config_lib.settings())


@pytest.mark.parametrize("name", sorted(FREE - {"job_dir"}))
def test_a_free_setting_may_change_and_is_kept(tmp_path, name):
    prepare(tmp_path)
    prepare(tmp_path, **{name: OTHER[name]})
    assert kept(tmp_path)[name] == OTHER[name]


# Of positive_class the meaning counts: tests/data/test_positive_class.py.
@pytest.mark.parametrize("name", sorted(set(OTHER) - FREE - {"positive_class"}))
def test_a_setting_that_decides_the_result_may_not(tmp_path, name):
    needed = {"input": "crop"} if name == "test_views" else {}
    prepare(tmp_path, **needed)
    before = kept(tmp_path)
    with pytest.raises(RequestError) as caught:
        prepare(tmp_path, **needed, **{name: OTHER[name]})
    message = str(caught.value)
    assert f"--{name} (was {before[name]}, now {OTHER[name]})" in message
    assert message.count("(was ") == 1
    assert "--resume=never" in message
    assert kept(tmp_path) == before


def test_every_differing_flag_is_named(tmp_path):
    prepare(tmp_path)
    with pytest.raises(RequestError) as caught:
        prepare(tmp_path, seed=9, batch_size=8, epochs=99)
    assert "--batch_size (was 32, now 8)" in str(caught.value)
    assert "--seed (was 0, now 9)" in str(caught.value)
    assert "--epochs" not in str(caught.value)


def test_a_cosine_schedule_depends_on_the_epochs(tmp_path):
    prepare(tmp_path, lr_schedule="cosine")
    with pytest.raises(RequestError, match=r"--epochs \(was 5, now 6\)"):
        prepare(tmp_path, lr_schedule="cosine", epochs=6)


def test_settings_of_an_older_version_that_did_not_know_a_flag_are_taken(tmp_path):
    prepare(tmp_path)
    older = kept(tmp_path)
    del older["positive_class"]
    (tmp_path / "job" / "config.json").write_text(json.dumps({**older, "gone": 1}))
    prepare(tmp_path, positive_class="Real")
    assert kept(tmp_path)["positive_class"] == "Real"


@pytest.mark.parametrize("content", ["", "not json", "3", "[1]", '"text"', "\x00"])
def test_a_config_that_is_none_is_refused(tmp_path, content):
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "config.json").write_text(content)
    with pytest.raises(RequestError, match=r"config.json.*use another --job_dir"):
        prepare(tmp_path)
    assert (tmp_path / "job" / "config.json").read_text() == content


def everything(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_never_moves_aside_and_deletes_nothing(tmp_path):
    prepare(tmp_path, seed=1)
    job = tmp_path / "job"
    (job / "checkpoints" / "0000000004").mkdir(parents=True)
    (job / "checkpoints" / "0000000004" / "state.json").write_text("{}")
    (job / "result.json").write_text("{}")
    (job / "notes of mine.txt").write_text("keep")
    before = everything(job)
    prepare(tmp_path, seed=2, resume="never")
    (aside,) = [path for path in job.iterdir() if path.name.startswith("before-")]
    assert everything(aside) == before
    assert sorted(path.name for path in job.iterdir()) == [aside.name, "config.json"]
    assert kept(tmp_path)["seed"] == 2


def test_never_twice_in_a_second_still_deletes_nothing(tmp_path):
    contents = []
    for seed in range(3):
        prepare(tmp_path, seed=seed, resume="never")
        (tmp_path / "job" / "result.json").write_text(f"{seed}")
        contents.append(f"{seed}".encode())
    found = [content for name, content in everything(tmp_path / "job").items() if name.endswith("result.json")]
    assert sorted(found) == contents


def test_never_leaves_the_lease_that_stands_in_for_a_lock(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    paths = JobPaths(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with lock.hold(paths):
        before = {path.name for path in tmp_path.glob("lock*")}
        resume.move_aside(paths)
        assert {path.name for path in tmp_path.glob("lock*")} == before == {"lock", "lock.1"}
        assert not (tmp_path / "config.json").exists()


def test_never_on_an_empty_or_absent_folder_moves_nothing(tmp_path):
    prepare(tmp_path, resume="never")
    assert os.listdir(tmp_path / "job") == ["config.json"]


def save(tmp_path, step, **inputs):
    """Save a checkpoint that was made from these inputs."""
    store = CheckpointStore(str(tmp_path / "job" / "checkpoints"), keep=3)
    store.save(Checkpoint(step, {}, {"inputs": {**IMAGES, **inputs}}))


def asides(tmp_path):
    return [path.name for path in (tmp_path / "job").glob("before-*")]


@pytest.mark.parametrize("is_saved", [False, True])
def test_never_starts_over_once_and_then_continues(tmp_path, package_log, is_saved):
    prepare(tmp_path, seed=1)
    for start in range(4):  # As a scheduler repeats a command.
        prepare(tmp_path, seed=2, resume="never")
        assert len(asides(tmp_path)) == 1
        if is_saved and not start:
            save(tmp_path, 4)
    assert (tmp_path / "job" / "checkpoints").exists() == is_saved
    assert package_log.text.count("continuing the unfinished job") == 3
    (tmp_path / "job" / "config.json").unlink()  # What the log says.
    prepare(tmp_path, seed=2, resume="never")
    assert len(asides(tmp_path)) == 1 + is_saved


@pytest.mark.parametrize("change", ["finished", "a flag", "a free flag", "other images", "no config", "begun without"])
def test_never_starts_over_from_a_job_that_it_did_not_begin_or_that_is_done(tmp_path, change):
    values = {"seed": 2, "resume": "never"}
    prepare(tmp_path, **values | ({"resume": "auto"} if change == "begun without" else {}))
    save(tmp_path, 4)
    if change == "finished":
        (tmp_path / "job" / "result.json").write_text("{}")
    elif change == "no config":
        (tmp_path / "job" / "config.json").write_text("torn")
    values |= {"a flag": {"seed": 3}, "a free flag": {"max_seconds": 9.0}}.get(change, {})
    prepare(tmp_path, images={**IMAGES, "train images": "c"} if change == "other images" else IMAGES, **values)
    assert len(asides(tmp_path)) == 1
    assert not (tmp_path / "job" / "checkpoints").exists()


def test_never_is_safe_to_kill_while_it_moves(tmp_path):
    """Each start is killed one rename later than the one before; none continues the finished job."""
    values = {"seed": 2, "resume": "never"}
    prepare(tmp_path, **values)
    save(tmp_path, 4)
    (tmp_path / "job" / "result.json").write_text("{}")
    before = everything(tmp_path / "job")
    with faults.injected(event="os.rename", path="*/job/*", first=2, count=0, number=errno.EACCES):
        for _ in range(2):
            with pytest.raises(OSError, match="Permission"):
                prepare(tmp_path, **values)
    prepare(tmp_path, **values)
    assert not (tmp_path / "job" / "checkpoints").exists()
    moved = {name.split("/", 1)[1]: content for name, content in everything(tmp_path / "job").items() if "/" in name}
    assert moved == before


def test_a_refusal_says_how_to_start_over(tmp_path):
    config, paths = request(tmp_path, resume="never")
    save(tmp_path, 4)
    match = r"damaged .*to start over, remove .*config.json"
    with pytest.raises(RequestError, match=match), resume.explained(config, paths):
        raise RequestError("damaged")


def test_the_inputs_of_the_newest_checkpoint_that_can_be_read(tmp_path):
    _, paths = request(tmp_path)
    assert resume.checkpoint_inputs(paths) == {}
    save(tmp_path, 4, precision="float32")
    save(tmp_path, 8, precision="mixed_bfloat16")
    assert resume.checkpoint_inputs(paths) == {**IMAGES, "precision": "mixed_bfloat16"}
    (tmp_path / "job" / "checkpoints" / f"{8:010d}" / "state.json").write_text("torn")
    assert resume.checkpoint_inputs(paths)["precision"] == "float32"


@pytest.mark.parametrize("below", ["file", "file/x"])
def test_a_job_dir_that_cannot_be_written_is_refused(tmp_path, below):
    # Tests may run as root, whom no permission stops; a path below a file stops everybody.
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="--job_dir: expected a folder that can be written"):
        files.require_writable(str(tmp_path / below), "job_dir")
