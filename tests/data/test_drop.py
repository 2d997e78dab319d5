"""The drop list: the same images are left out by every command, and a list that does not fit is refused."""

import logging
import os

import pytest

from tests.helpers.commands import refusal
from tests.helpers.images import write_image_set
from tests.helpers.jobs import result_of, run_job
from trainer import prepare_data
from trainer.core import cli
from trainer.core.config import LayoutConfig
from trainer.core.errors import RequestError
from trainer.data import manifest, split_report
from trainer.data.layouts import drop, mounted

NAMES = ["Train/Fake/00001.jpg", "Train/Real/00000.jpg", "Test/Fake/00000.jpg"]


@pytest.fixture
def data(tmp_path):
    return write_image_set(tmp_path / "data", train=8, validation=0, test=3)


def written(path, *lines, end="\n"):
    path.write_text("".join(f"{line}{end}" for line in lines), newline="")
    return LayoutConfig(drop=str(path))


def test_a_folder_without_its_dropped_images(data, tmp_path):
    layout = written(tmp_path / "list.txt", "", *NAMES, end="\r\n")
    whole, less = manifest.read_all_splits(data), manifest.read_all_splits(data, layout)
    for before, after in zip(whole, less, strict=True):
        assert list(after.names) == [name for name in before.names if name not in NAMES]
        assert after.fingerprint != before.fingerprint
    # Test is never read, but its names are known; it keeps the split, and the job its images.
    train, validation = manifest.read_train_and_validation(data, 0.25, 0, layout=layout)
    assert not {*train.names, *validation.names} & set(NAMES)
    line = split_report.of_training(data, train, validation)
    assert line.endswith("left out by --drop: Train 2")
    assert split_report.of_splits(data, less).count("left out by --drop: Train 2, Test 1") == 1
    assert split_report.of_one(less[1]).endswith("left out by --drop: Test 1")
    only_test = written(tmp_path / "test.txt", NAMES[2])
    assert manifest.read_split(data, "Train", layout=only_test).fingerprint == whole[0].fingerprint


def test_a_list_of_images_keeps_the_test_that_was_drawn(tmp_path):
    write_image_set(tmp_path, train=12, validation=0, test=0)
    rows = [f"Train/{name}/{n:05d}.jpg,{name}" for name in ("Fake", "Real") for n in range(12)]
    (tmp_path / "list.csv").write_text("\n".join(["path,label", *rows]))
    source = str(tmp_path / "list.csv")
    settings = {"test_fraction": 0.25, "split_seed": 3}
    whole = manifest.read_all_splits(source, LayoutConfig(**settings))
    names = [whole[0].names[0], whole[-1].names[0]]
    layout = LayoutConfig(drop=written(tmp_path / "list.txt", *names).drop, **settings)
    less = manifest.read_all_splits(source, layout)
    assert [list(split.names) for split in less] == [list(split.names)[1:] for split in whole]
    assert split_report.of_splits(source, less).count("left out by --drop: Train 1, Test 1") == 1
    assert list(manifest.read_split(source, "Test", layout=layout).names) == list(less[-1].names)
    with pytest.raises(RequestError, match=r"list.csv'?, received 'Train/Fake/no.jpg', which it lacks"):
        manifest.read_split(source, "Test", layout=written(tmp_path / "other.txt", "Train/Fake/no.jpg"))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([NAMES[0], "Test/Fake/no.jpg", "no"], "received 'Test/Fake/no.jpg' and 1 others, which it lacks"),
        ([f"Train/Fake/{n:05d}.jpg" for n in range(8)], "images of every class in Train, received a list with all"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(data, tmp_path, lines, message):
    layout = written(tmp_path / "list.txt", *lines)
    with pytest.raises(RequestError, match=message):
        manifest.read_train_and_validation(data, 0.25, 0, layout=layout)


def test_a_list_that_is_not_there(data, tmp_path, capsys):
    words = (f"--data_dir={data}", f"--out={tmp_path}/out", f"--drop={tmp_path}/none.txt")
    assert "--drop: expected a text file" in refusal(capsys, prepare_data.pack, *words)
    assert "none.txt" in mounted.missing(data, LayoutConfig(drop=f"{tmp_path}/none.txt"))  # Of a job that began.
    assert not mounted.missing(data, LayoutConfig())


def test_every_name_is_one_line_of_its_own(data, tmp_path):
    odd = ["a\nb.jpg", "a\\x0ab.jpg", "#c.jpg", "d\u2028.jpg", os.fsdecode(b"e\xe9.jpg")]
    assert len({drop.line_of(name) for name in odd}) == len(odd)
    for name in odd:
        os.link(f"{data}/Train/Fake/00000.jpg", f"{data}/Train/Fake/{name}")
    layout = written(tmp_path / "list.txt", *(drop.line_of(f"Train/Fake/{name}") for name in odd))
    assert len(manifest.read_split(data, "Train", layout=layout)) == 16


def test_packing_and_training_leave_out_the_same(data, tmp_path, capfd):
    layout = written(tmp_path / "list.txt", *NAMES)
    out = str(tmp_path / "packed")
    words = [f"--data_dir={data}", f"--out={out}", f"--drop={layout.drop}"]
    assert cli.run_command(prepare_data.pack, words) == 0
    assert "left out by --drop: Train 2, Test 1" in capfd.readouterr().err
    expected = [split.fingerprint for split in manifest.read_train_and_validation(data, 0.25, 0, layout=layout)]
    for given in (LayoutConfig(), layout):  # What the set lacks already may be named again.
        found = manifest.read_train_and_validation(out, 0.25, 0, layout=given)
        assert [split.fingerprint for split in found] == expected
    more = written(tmp_path / "more.txt", "Train/Fake/00002.jpg", "Test/Real/00000.jpg")
    assert manifest.read_train_and_validation(out, 0.25, 0, layout=more)[0].dropped == 1


@pytest.mark.slow
def test_a_job_keeps_its_list_and_refuses_another(data, tmp_path, caplog, capsys):
    job, path = tmp_path / "job", str(tmp_path / "list.txt")
    written(tmp_path / "list.txt", *NAMES)
    assert run_job(data, job, epochs=1, validation_fraction=0.25, drop=path) == 0
    assert "left out by --drop: Train 2" in capsys.readouterr().err
    assert run_job(data, job, epochs=2, validation_fraction=0.25) == 0  # The job knows its list.
    assert run_job(data, tmp_path / "whole", epochs=2, validation_fraction=0.25, drop=path) == 0
    assert result_of(job)["weights_sha256"] == result_of(tmp_path / "whole")["weights_sha256"]
    written(tmp_path / "other.txt", *NAMES[1:])
    capsys.readouterr()
    with caplog.at_level(logging.ERROR):
        assert run_job(data, job, epochs=3, validation_fraction=0.25, drop=str(tmp_path / "other.txt")) == 2
    assert "images" in capsys.readouterr().err
    (tmp_path / "list.txt").unlink()
    (job / "result.json").unlink()  # As before the end.
    assert run_job(data, job, epochs=3, validation_fraction=0.25) == 75  # It may come back.
