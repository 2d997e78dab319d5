"""Jobs with augmentations: one result on one device and on two, after a stop, and from real images alone."""

import json

import numpy as np
import pytest

from tests.helpers.images import write_image_set
from tests.helpers.jobs import float32_policy, lines_of, result_of, run_job, sigterm_after  # noqa: F401  (a fixture)


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """Return data_dir of 10 images a class in Train and 3 in Validation."""
    return write_image_set(tmp_path_factory.mktemp("few"), train=10, validation=3, test=0)


def short(few, job_dir, **changes):
    return run_job(few, job_dir, **{"batch_size": 8, "epochs": 1, "steps_per_epoch": 2, **changes})


@pytest.mark.slow
@pytest.mark.parametrize("names", ["notebook,cutout", "mixup", "cutmix", "sbi"])
def test_one_device_and_two_give_the_same_weights(few, tmp_path, names):
    weights = set()
    for devices in (1, 2):
        assert short(few, tmp_path / str(devices), augment=names, num_devices=devices) == 0
        weights.add(result_of(tmp_path / str(devices))["weights_sha256"])
    assert len(weights) == 1


@pytest.mark.slow
def test_a_stopped_job_goes_on_as_if_nothing_had_happened_in_float16(few, tmp_path):
    settings = {"augment": "sbi,photometric,mixup", "precision": "mixed_float16", "steps_per_epoch": 3}
    assert short(few, tmp_path / "whole", **settings) == 0
    with sigterm_after(2):
        assert short(few, tmp_path / "stopped", **settings) == 75
    assert short(few, tmp_path / "stopped", **settings) == 0
    whole, stopped = (result_of(tmp_path / name) for name in ("whole", "stopped"))
    assert whole["weights_sha256"] == stopped["weights_sha256"]
    assert short(few, tmp_path / "stopped", **{**settings, "mixup_alpha": 0.5}) == 2


@pytest.mark.slow
def test_real_images_alone_are_enough_to_train_and_export(tmp_path, capsys):
    data = write_image_set(tmp_path / "data", train=12, validation=0, test=2, classes=["Real"])
    settings = {"augment": "sbi,flip", "validation_fraction": 0.5, "export": "best", "tensorboard": "all"}
    job = tmp_path / "job"
    assert short(data, job, report=True, **settings) == 0
    result = result_of(job)
    assert result["images"] == {"Train": {"Fake": 0, "Real": 6}, "Validation": {"Fake": 3, "Real": 3}}
    (validation,) = lines_of(job, "validation")
    assert 0.0 <= validation["val_auc"] <= 1.0  # There are two classes.
    assert "forgeries: 3 made by blending images with themselves" in capsys.readouterr().err
    card = next(job.glob("export/best/*/assets.extra/model_card.md")).read_text()
    assert "| Forgeries in Validation | 3 made by blending images with themselves" in card
    details = json.loads(next(job.glob("export/best/*/assets.extra/deepdetect.json")).read_text())
    assert details["class_names"] == ["Fake", "Real"]
    assert details["positive_class"] == "Fake"
    assert (job / "report" / "samples.png").stat().st_size > 10_000
    assert np.isfinite(result["validation"]["loss"])


@pytest.mark.parametrize("classes", [["Fake"], ["Fake", "Other", "Real"]])
def test_other_classes_are_a_wrong_request(tmp_path, capsys, classes):
    data = write_image_set(tmp_path / "data", train=3, validation=0, test=0, classes=classes, size=8)
    assert run_job(data, tmp_path / "job", augment="sbi") == 2
    assert "--augment=sbi: expected two classes" in capsys.readouterr().err
    assert not (tmp_path / "job").exists()
