"""Settings that a job settles at its first start and keeps."""

import json
import re
import shutil
from pathlib import Path

import pytest

from tests.helpers.jobs import float32_policy, lines_of, result_of, run_job  # noqa: F401
from trainer.core import config as config_lib
from trainer.core.config import from_flat
from trainer.core.job_dir import JobPaths
from trainer.data import manifest
from trainer.distributed.process_group import SingleProcess
from trainer.training import resume, settle


@pytest.fixture(scope="module")
def uneven(image_set, tmp_path_factory):
    """Return data_dir of 15 Fake and 33 Real images in Train."""
    root = tmp_path_factory.mktemp("uneven")
    shutil.copytree(image_set, root, dirs_exist_ok=True)
    for name, count in (("Fake", 15), ("Real", 33)):
        for path in sorted((root / "Train" / name).iterdir())[count:]:
            path.unlink()
    return str(root)


def settled(data, job_dir, **values):
    config = from_flat({"data_dir": data, "job_dir": str(job_dir), **values})
    return settle.settle(config, manifest.read_split(data, "Train"), SingleProcess(), JobPaths(str(job_dir)))


@pytest.mark.parametrize(
    ("counts", "monitor"), [((15, 31), "val_auc"), ((16, 31), "val_loss"), ((31, 15), "val_auc"), ((9, 9), "val_loss")]
)
def test_the_monitor_follows_the_sizes_of_the_classes(tmp_path, counts, monitor):
    for name, count in zip(("Fake", "Real"), counts, strict=True):
        (tmp_path / "Train" / name).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "Train" / name / f"{number}.jpg").touch()
    assert settled(str(tmp_path), tmp_path / "job").loop.monitor == monitor
    assert settled(str(tmp_path), tmp_path / "job", monitor="val_accuracy").loop.monitor == "val_accuracy"


@pytest.mark.parametrize("how", ["auto", "never"])
def test_a_job_keeps_what_auto_meant_when_it_began(image_set, uneven, tmp_path, how):
    paths = JobPaths(str(tmp_path))
    before = settled(uneven, tmp_path, resume=how)
    resume.keep_settings(before, paths)
    # Other images are refused elsewhere; here they show that nobody asks again.
    data = image_set if how == "auto" else uneven
    assert settled(data, tmp_path, resume=how) == before.replace(data_dir=data)
    Path(paths.config).write_text(json.dumps(before.flat() | {"monitor": "val_accuracy"}))
    assert settled(uneven, tmp_path, resume=how).loop.monitor == "val_accuracy"
    Path(paths.config).write_text("damaged")
    if how == "never":
        assert settled(uneven, tmp_path, resume=how) == before


def test_a_new_job_by_resume_never_settles_anew(uneven, tmp_path):
    other = settled(uneven, tmp_path, resume="never", seed=5).replace(monitor="val_accuracy")
    resume.keep_settings(other, JobPaths(str(tmp_path)))
    assert settled(uneven, tmp_path, resume="never", seed=6).loop.monitor == "val_auc"
    (tmp_path / "result.json").touch()
    assert settled(uneven, tmp_path, resume="never", seed=5).loop.monitor == "val_auc"


@pytest.mark.parametrize(("before", "xla"), [("auto", "auto"), (True, True), (False, False), (None, False)])
def test_a_begun_job_stays_compiled_or_not(image_set, tmp_path, before, xla):
    """``None`` is a job of a version without the setting."""
    new = settled(image_set, tmp_path)
    assert new.runtime.xla == "auto"
    settings = {
        name: value for name, value in (new.flat() | {"xla": before}).items() if (name, before) != ("xla", None)
    }
    Path(JobPaths(str(tmp_path)).config).write_text(json.dumps(settings))
    again = settled(image_set, tmp_path)
    assert again.runtime.xla == xla
    resume.refuse_other_settings(again, settings, str(tmp_path))


def test_every_word_auto_is_known_by_its_field():
    automatic = {name for name, field in config_lib.settings().items() if field.metadata["auto"] is not None}
    # The machine of each start settles the steps of a call and the processes.
    assert automatic - {"steps_per_execution", "decode_processes"} | {"monitor"} == {"batch_size", *settle.AUTOMATIC}


@pytest.mark.slow
def test_a_job_with_uneven_classes_says_so_and_selects_by_auc(uneven, tmp_path, capsys):
    assert run_job(uneven, tmp_path / "job", steps_per_epoch=1) == 0
    kept = json.loads((tmp_path / "job" / "config.json").read_text())
    assert kept["monitor"] == "val_auc"
    assert result_of(tmp_path / "job")["monitor"] == "val_auc"
    best = max(line["val_auc"] for line in lines_of(tmp_path / "job", "validation"))
    assert result_of(tmp_path / "job")["validation"]["auc"] == best
    lines = capsys.readouterr().err.splitlines()
    (changed,) = [line for line in lines if line.startswith("settings that differ from the defaults: ")]
    names = re.findall(r"(\w+)=", changed)
    assert "image_size" in names
    assert names == list(kept)[: len(names)]
    (warning,) = [line for line in lines if "classes differ" in line]
    assert warning.startswith("Train: the classes differ by 2.2 to 1 (Fake 15, Real 33), ")
    assert "--sampling=balanced" in warning
    assert run_job(uneven, tmp_path / "balanced", steps_per_epoch=1, epochs=1, sampling="balanced") == 0
    assert "classes differ" not in capsys.readouterr().err
