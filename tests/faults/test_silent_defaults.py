"""Nothing steps in without a word: damaged files, classes without a fake, ``~``, outputs among the images, litter."""

import json
import logging
import os
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from tests.helpers import jobs
from tests.helpers.commands import refusal
from tests.helpers.images import write_image_set
from trainer import evaluate, predict, prepare_data, train
from trainer.core import checked_json, config, result
from trainer.core.config import flags
from trainer.core.errors import RequestError
from trainer.core.job_dir import JobPaths
from trainer.data import class_folders, tfrecord
from trainer.evaluation.request import EvaluateFlags
from trainer.serving import exported_model
from trainer.sweep import records
from trainer.training import resume

float32_policy = jobs.float32_policy  # Autouse.

NO_OBJECTS = [b"", b"{", b"\xff\xfe\x00", b"[1]", b"3", b"null", b'"text"', b"[" * 100_000, b'{"step": 1']


# Files that are read back.


@pytest.mark.parametrize("content", NO_OBJECTS)
def test_a_file_that_is_no_object_is_one_line(tmp_path, content):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(checked_json.Malformed) as caught:
        checked_json.read(str(path), {}, remedy="do this", flag="config")
    text = str(caught.value)
    assert text.startswith(f"--config: expected {str(path)!r} to hold a JSON object, received ")
    assert text.endswith("; do this")
    assert len(text) < 500


def test_a_file_that_cannot_be_read_is_one_line(tmp_path):
    with pytest.raises(checked_json.Malformed, match="expected a file that can be read"):
        checked_json.read(str(tmp_path), {}, remedy="")
    with pytest.raises(FileNotFoundError):
        checked_json.read(str(tmp_path / "none"), {}, remedy="")


WRONG = {
    checked_json.TEXT: [1, None, ["a"]],
    checked_json.COUNT: [-1, 1.5, True, "3", None],
    checked_json.NUMBER: [float("nan"), float("inf"), "1", True],
    checked_json.PROBABILITY: [float("nan"), 7, -0.1, "0.5"],
    checked_json.POSITIVE: [0, -1.0, float("inf")],
    checked_json.OBJECT: [[], 1],
    checked_json.OBJECTS: [{}, [1]],
    checked_json.CLASSES: [["a"], ["a", "a"], ["a", 1], "ab", ["a", ""]],
}


@pytest.mark.parametrize(("kind", "value"), [(kind, value) for kind, values in WRONG.items() for value in values])
def test_a_field_of_the_wrong_kind_is_named(kind, value):
    with pytest.raises(checked_json.Malformed, match=r"as 'field', received .*; again"):
        checked_json.check({"field": value}, {"field": kind}, name="expected it", remedy="again")
    with pytest.raises(checked_json.Malformed, match="received none"):
        checked_json.check({}, {"field": kind}, name="expected it", remedy="again")
    checked_json.check({}, {"field": checked_json.optional(kind)}, name="", remedy="")
    checked_json.check({"field": None}, {"field": checked_json.nullable(kind)}, name="", remedy="")


EXPORT = {"class_names": ["Fake", "Real"], "positive_class": "Fake", "threshold": 0.5, "temperature": 1.5}


def write_metadata(folder: Path, content: bytes) -> str:
    (folder / "assets.extra").mkdir(parents=True)
    (folder / "saved_model.pb").touch()
    (folder / "assets.extra/deepdetect.json").write_bytes(content)
    return str(folder)


@pytest.mark.parametrize(
    "change",
    [{"threshold": float("nan")}, {"threshold": 7}, {"threshold": "0.5"}, {"threshold": None}, {"temperature": 0},
     {"temperature": -1}, {"temperature": float("inf")}, {"class_names": ["Fake", "Fake"]}, {"class_names": "Fake"},
     {"class_names": {"Fake": 1, "Real": 2}}, {"class_names": ["Fake"]}, {"positive_class": "fake"},
     {"positive_class": 0}, {"config": []}],
)  # fmt: skip
def test_metadata_that_do_not_fit_are_refused(tmp_path, change):
    path = write_metadata(tmp_path / "1", json.dumps(EXPORT | change).encode())
    with pytest.raises(RequestError, match=rf"--model_dir: expected .*deepdetect.json' .*{next(iter(change))}.*again"):
        exported_model.find_export(path)


def test_metadata_that_fit_are_taken(tmp_path):
    export = exported_model.find_export(write_metadata(tmp_path / "1", json.dumps(EXPORT).encode()))
    assert (export.class_names, export.threshold) == (("Fake", "Real"), 0.5)


PACK: dict[str, Any] = {
    "format": tfrecord.FORMAT, "version": 1, "class_names": ["Fake", "Real"],
    "splits": {"Train": {"index": "Train.index.npz", "index_crc32c": 1, "shards": [{"path": "a"}]}},
}  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [{"class_names": None}, {"class_names": [1, 2]}, {"splits": []}, {"splits": {"Train": 1}},
     {"splits": {"Train": {}}}, {"splits": {"Train": PACK["splits"]["Train"] | {"index": 3}}},
     {"splits": {"Train": PACK["splits"]["Train"] | {"shards": [{}]}}}, {"version": 2}],
)  # fmt: skip
def test_a_damaged_packed_set_is_refused(tmp_path, change):
    (tmp_path / "pack.json").write_text(json.dumps(PACK))
    assert tfrecord.read_manifest(str(tmp_path)) == PACK
    (tmp_path / "pack.json").write_text(json.dumps(PACK | change))
    with pytest.raises(RequestError, match=r"expected .*pack\.json.* again"):
        tfrecord.read_manifest(str(tmp_path))


@pytest.mark.parametrize("content", NO_OBJECTS)
def test_every_file_that_is_read_back_survives_damage(tmp_path, capsys, caplog, content):
    data, job = str(tmp_path / "data"), tmp_path / "job"
    for path in ("job/config.json", "job/result.json", "job/trials/1/trial.json", "data/pack.json", "c.json"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    export = write_metadata(tmp_path / "1", content)
    out = f"--out={tmp_path / 'out'}"
    assert "pack.json" in refusal(capsys, train.main, f"--data_dir={data}", f"--job_dir={job}")
    assert "pack.json" in refusal(capsys, prepare_data.main, "audit", f"--data_dir={data}", out)
    assert "deepdetect.json" in refusal(capsys, predict.main, f"--model_dir={export}", "x.jpg")
    assert "deepdetect.json" in refusal(capsys, evaluate.main, f"--model_dir={export}", f"--data_dir={data}", out)
    assert "c.json" in refusal(capsys, train.main, f"--config={tmp_path / 'c.json'}")
    with pytest.raises(RequestError, match="job's settings"):
        resume.settings_of(JobPaths(str(job)))
    with pytest.raises(RequestError, match="record of a trial"):
        records.read(records.SweepPaths(str(job)), "1")
    with caplog.at_level(logging.WARNING):  # The job can write it again.
        assert result.read(str(job / "result.json")) is None


# Paths of flags.


def test_every_flag_that_names_a_path_is_declared_as_one():
    from trainer.data.audit.request import AuditFlags
    from trainer.data.pack.request import PackFlags
    from trainer.serving.predict_request import PredictFlags
    from trainer.submit.request import RunFlags
    from trainer.sweep.request import SweepConfig
    from trainer.training.exports.export_request import ExportFlags
    from trainer.training.selftest import SelfTestFlags

    forms = (AuditFlags, PackFlags, PredictFlags, RunFlags, SweepConfig, ExportFlags, SelfTestFlags, EvaluateFlags)
    fields = [*flags.train_fields().values(), *(field for form in forms for field in flags.fields_of(form).values())]
    paths = {field.name for field in fields if field.metadata["path"]}
    assert paths == {"data_dir", "job_dir", "cache", "config", "out", "explain", "frames_out", "model_dir", "groups",
                     "audit", "compare", "space", "samples", "accelerators", "weights", "xla_cache_dir",
                     "drop", "evaluation", "report", "log_dir"}  # fmt: skip
    words = ("Folder or", " folder", " file of", "File with", "CSV")
    by_help = {one.name for one in fields if one.type is str and any(word in config.help_of(one) for word in words)}
    assert by_help - paths <= {"split", "layout", "labels"}  # Names of folders in data_dir, and what they mean.


def test_a_home_folder_in_a_flag(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    job = flags.train_config(["--data_dir=~/faces", "--job_dir=~", "--cache=~/c"])
    assert job.data.data_dir == f"{tmp_path}/home/faces"
    assert (job.loop.job_dir, job.data.cache) == (f"{tmp_path}/home", f"{tmp_path}/home/c")
    request = flags.parse_request(["--compare=~/a,b,~/c"], EvaluateFlags, usage="")
    assert request.compare == f"{tmp_path}/home/a,b,{tmp_path}/home/c"
    with pytest.raises(RequestError, match=r"--job_dir: expected the home folder of a user, received '~no-such-user'"):
        flags.train_config(["--data_dir=d", "--job_dir=~no-such-user/x"])
    (tmp_path / "~/old").mkdir(parents=True)  # What older versions made of it.
    with caplog.at_level(logging.WARNING, logger="trainer"):
        assert flags.train_config(["--data_dir=d", "--job_dir=~/old"]).loop.job_dir == f"{tmp_path}/home/old"
    assert "write ./~/old" in caplog.text


def test_a_home_folder_among_predicts_paths(tmp_path, monkeypatch):
    from trainer.core import globs

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    for path in ("home/a.jpg", "home/d/b.jpg", "~x.jpg"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    home = f"{tmp_path}/home"
    assert globs.expand(["~/a.jpg", "~/d", "~/*.jpg", "~x.jpg"], ()) == [f"{home}/a.jpg", f"{home}/d/b.jpg", "~x.jpg"]


@pytest.mark.parametrize("split", ["Train", "Validation", "Test"])
def test_outputs_among_the_images_are_refused_at_the_first_start(tmp_path, capsys, split):
    data = tmp_path / "data"
    (data / "Train/Fake").mkdir(parents=True)
    (tmp_path / "link").symlink_to(data)
    inside = f"{tmp_path}/link/{split}/Fake/job"
    base = [f"--data_dir={data}", f"--job_dir={tmp_path / 'job'}"]
    assert "--job_dir: expected a folder outside" in refusal(capsys, train.main, base[0], f"--job_dir={inside}")
    assert "--cache: expected a folder outside" in refusal(capsys, train.main, *base, f"--cache={inside}")
    for command in ("audit", "pack"):
        line = refusal(capsys, prepare_data.main, command, base[0], f"--out={inside}")
        assert "--out: expected a folder outside" in line
    line = refusal(capsys, evaluate.main, "--model_dir=m", base[0], f"--out={inside}")
    assert "--out: expected a folder outside" in line
    assert os.listdir(data) == ["Train"]
    flags.train_config([base[0], f"--job_dir={data}/job"])  # Beside the splits nothing is taken for an image.
    flags.train_config([base[0], f"--job_dir={data}/Trainings"])
    bucket = ["--data_dir=gs://b/d", f"--job_dir=gs://b/d/{split}/j"]
    assert "--job_dir: expected a folder outside" in refusal(capsys, train.main, *bucket)


def test_starting_over_does_not_move_the_images_aside(tmp_path, capsys):
    words = [f"--data_dir={tmp_path}/all/data", f"--job_dir={tmp_path}/all"]
    flags.train_config(words)
    assert "--resume=never: expected a job_dir without" in refusal(capsys, train.main, *words, "--resume=never")


# Jobs.


@pytest.fixture(scope="module")
def forged(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a set whose first class is the one of real images."""
    return write_image_set(tmp_path_factory.mktemp("forged"), train=20, validation=0, test=0,
                           classes=("0_real", "1_fake"))  # fmt: skip


@pytest.mark.slow
def test_p_fake_is_of_the_class_that_says_fake_and_stays(forged, tmp_path, capsys):
    job = tmp_path / "job"
    assert jobs.run_job(forged, job, epochs=1, export="last") == 0
    (details,) = job.glob("export/last/*/assets.extra/deepdetect.json")
    assert json.loads(details.read_text())["positive_class"] == "1_fake"
    assert json.loads((job / "config.json").read_text())["positive_class"] == "1_fake"
    line = "Validation: 0.1 of Train held out by seed 0: 0_real 2, 1_fake 2"
    assert line in capsys.readouterr().err
    # A job of an older version, whose p_fake is of the first class, keeps it.
    settings = json.loads((job / "config.json").read_text())
    (job / "config.json").write_text(json.dumps(settings | {"positive_class": ""}))
    assert jobs.run_job(forged, job, epochs=2) == 0
    assert json.loads((job / "config.json").read_text())["positive_class"] == "0_real"
    # result.json torn by a crash: the end is made again, with the same weights.
    whole = jobs.result_of(job)
    (job / "result.json").write_text('{"status": "do')
    assert jobs.run_job(forged, job, epochs=2) == 0
    assert jobs.result_of(job)["weights_sha256"] == whole["weights_sha256"]
    # config.json torn: one line, nothing is lost.
    (job / "config.json").write_text('{"data_dir": ')
    assert jobs.run_job(forged, job, epochs=2) == 2
    assert "remove it to go on" in capsys.readouterr().err


@pytest.mark.slow
def test_a_job_that_began_with_litter_keeps_its_order(tmp_path, capsys):
    data = write_image_set(tmp_path / "data", train=15, validation=5, test=0)
    clean = jobs.finished_job(data, tmp_path / "clean", epochs=2)
    (tmp_path / "data/Train/Fake/Thumbs.db").write_bytes(b"x")
    real = class_folders.read
    with mock.patch.object(class_folders, "read", lambda root, **_: real(root, keep_litter=True)):  # An older version.
        whole = jobs.finished_job(data, tmp_path / "whole", epochs=2, max_bad_fraction=0.5)
        jobs.finished_job(data, tmp_path / "job", epochs=1, max_bad_fraction=0.5)
    capsys.readouterr()
    jobs.finished_job(data, tmp_path / "job", epochs=2, max_bad_fraction=0.5)
    assert "files of other programs count as images" in capsys.readouterr().err
    assert jobs.result_of(tmp_path / "job")["weights_sha256"] == jobs.result_of(whole)["weights_sha256"]
    # A new job is that of the images alone.
    jobs.finished_job(data, tmp_path / "new", epochs=2)
    assert "1 left by other programs (such as 'Train/Fake/Thumbs.db')" in capsys.readouterr().err
    assert jobs.result_of(tmp_path / "new")["weights_sha256"] == jobs.result_of(clean)["weights_sha256"]
