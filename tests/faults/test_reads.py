"""Trouble of the way to an image passes: retried, then code 75 with the last finished step saved, never a bad image."""

import errno
import itertools
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from tests.helpers import faults
from tests.helpers.images import write_image_set
from tests.helpers.jobs import checkpoints_of, float32_policy, result_of, run_job, sigterm_after  # noqa: F401
from tests.helpers.tiny_export import write_export
from trainer import evaluate, predict
from trainer.core import cli
from trainer.core.config import DataConfig
from trainer.core.errors import StorageDown
from trainer.core.storage import transient
from trainer.data import decode_batch, manifest, readers
from trainer.data.audit import scan
from trainer.data.image_source import ImageSource
from trainer.data.pack import writer
from trainer.data.pack.request import PackFlags
from trainer.serving import exported_model
from trainer.serving.predictor import Predictor

PASSES = sorted(transient.TRANSIENT)
OWN = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP)
JOB = {"batch_size": 4, "epochs": 2, "checkpoint_every_steps": 100, "log_every_steps": 1}  # 4 steps an epoch.
STEPS = 8


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Retry often and not for long."""
    monkeypatch.setenv("DEEPDETECT_FILE_RETRY_SECONDS", "0.2")
    monkeypatch.setattr(transient, "_FIRST_DELAY", 0.001)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return 16 train images and 4 of validation; read only."""
    return write_image_set(tmp_path_factory.mktemp("images"), train=8, validation=2, test=0)


@pytest.fixture(scope="module")
def packed(data, tmp_path_factory):
    out = str(tmp_path_factory.mktemp("packed"))
    writer.pack(PackFlags(data_dir=data, out=out, images_per_shard=5), manifest.read_all_splits(data))
    return out


@pytest.fixture
def own(data, tmp_path):
    """Return a copy of the images that a test may change."""
    return Path(shutil.copytree(data, tmp_path / "data"))


def images_of(data_dir, **options):
    return ImageSource(manifest.read_split(str(data_dir), "Train"), DataConfig(image_size=64, **options))


ALL = np.arange(16)


@pytest.mark.parametrize("number", PASSES, ids=errno.errorcode.get)
def test_no_read_of_a_folder_takes_trouble_for_a_bad_image(data, number):
    images = images_of(data)
    plain = images.load(ALL)
    for first in range(1, 17, 5):
        with faults.injected(path="*/Train/*.jpg", first=first, count=2, number=number) as fault:
            loaded = images.load(ALL)
        assert fault.seen == 18
        assert not loaded.errors
        assert np.array_equal(loaded.images, plain.images)
    with (
        faults.injected(path="*/Train/*.jpg", first=7, count=0, number=number),
        pytest.raises(StorageDown, match=r"\.jpg"),
    ):
        images_of(data).load(ALL)


@pytest.mark.parametrize("number", OWN, ids=errno.errorcode.get)
def test_a_file_with_a_fault_of_its_own_is_a_bad_image_at_once(data, number):
    with faults.injected(path="*/Train/Real/00002.jpg", count=0, number=number) as fault:
        loaded = images_of(data).load(ALL)
    assert fault.seen == 1
    assert loaded.errors == {10: os.strerror(number)}


def failing(real, numbers):
    """Return a system call that fails with these errnos first, one after the other."""

    def call(*arguments, **options):
        number = next(numbers, 0)
        if number:
            raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    return call


def test_no_read_of_a_packed_set_takes_trouble_for_a_bad_image(data, packed, monkeypatch):
    plain = images_of(data).load(ALL)
    real = os.pread
    for first, number in itertools.product((0, 9), PASSES):
        with monkeypatch.context() as patch:
            patch.setattr(os, "pread", failing(real, iter([0] * first + [number] * 3)))
            loaded = images_of(packed).load(ALL)
        assert not loaded.errors
        assert np.array_equal(loaded.images, plain.images)
    for number in (errno.EMFILE, errno.EIO):
        with faults.injected(path="*.tfrecord", first=2, count=2, number=number) as fault:
            assert not images_of(packed).load(ALL).errors
        assert fault.seen == 6
    monkeypatch.setattr(os, "pread", failing(real, itertools.repeat(errno.EIO)))
    with pytest.raises(StorageDown, match=r"Train-00000-of-00004\.tfrecord"):
        images_of(packed).load(ALL)


def test_a_shard_that_the_server_has_forgotten_is_opened_again(data, packed, monkeypatch):
    real, opened = os.pread, []
    images = images_of(packed)
    images.load(ALL)
    descriptors = dict(images._reader._open)

    def pread(descriptor, length, offset):
        if not opened:  # The old handle stays stale until another one takes its number.
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", pread)
    dup2 = os.dup2
    monkeypatch.setattr(os, "dup2", lambda *args, **options: opened.append(dup2(*args, **options)))
    assert not images.load(ALL).errors
    assert len(opened) == 1
    assert images._reader._open == descriptors


def test_other_bytes_are_an_images_fault_and_a_lost_shard_is_not(packed, tmp_path):
    copy = Path(shutil.copytree(packed, tmp_path / "copy"))
    shard = copy / "Train-00001-of-00004.tfrecord"
    content = bytearray(shard.read_bytes())
    content[100] ^= 1
    shard.write_bytes(content)
    assert list(images_of(copy).load(ALL).errors) == [5]
    shard.unlink()
    with pytest.raises(StorageDown, match=r"Train-00001-of-00004.*No such file.*restore it"):
        images_of(copy).load(ALL)
    images = images_of(copy)
    shutil.rmtree(copy)
    with pytest.raises(StorageDown, match="is it mounted"):
        images.load(ALL)


@pytest.mark.parametrize("left", ["nothing", "an empty folder", "a dead link", "a closed folder"])
def test_a_folder_that_is_gone_is_not_a_folder_of_bad_images(own, left):
    images, folder = images_of(own), own / "Train/Fake"
    folder.rename(own / "elsewhere")
    if left == "an empty folder":
        folder.mkdir()
    elif left == "a dead link":
        folder.symlink_to(own / "mount")
    elif left == "a closed folder":
        folder.symlink_to(own / "elsewhere")
    # The calls are open and os.scandir.
    closed = {"event": "o*", "path": "*Train/Fake*", "number": errno.EACCES, "count": 0}
    fault = closed if left == "a closed folder" else {"path": "none"}
    with faults.injected(**fault), pytest.raises(StorageDown, match=r"Train/Fake.*held images before; is it mounted"):
        images.load(ALL)
    folder.unlink() if folder.is_symlink() else folder.exists() and folder.rmdir()
    (own / "elsewhere").rename(folder)
    assert not images_of(own).load(ALL).errors


def test_no_memory_is_no_fault_of_an_image(data, monkeypatch):
    real, errors = decode_batch.load_batch, [MemoryError(), tf.errors.ResourceExhaustedError(None, None, "OOM")]

    def load_batch(*arguments):
        if errors:
            raise errors.pop()
        return real(*arguments)

    monkeypatch.setattr(decode_batch, "load_batch", load_batch)
    assert not images_of(data).load(ALL).errors
    assert not errors
    errors += [MemoryError() for _ in range(1000)]
    with pytest.raises(StorageDown, match="MemoryError"):
        images_of(data).load(ALL)


def test_audit_retries_too_and_blames_no_file(data):
    splits = manifest.read_all_splits(data)
    with faults.injected(path="*/Train/*.jpg", first=5, count=2, number=errno.ESTALE) as fault:
        assert not scan.scan(splits, workers=1, quiet=True).reasons
    assert fault.seen == 18
    with faults.injected(path="*/Train/*.jpg", first=5, count=0, number=errno.EIO), pytest.raises(StorageDown):
        scan.scan(splits, workers=1, quiet=True)
    with faults.injected(path="*/Train/Fake/00004.jpg", count=0, number=errno.EACCES):
        assert list(scan.scan(splits, workers=1, quiet=True).reasons) == [4]


def test_pack_retries_too_and_blames_no_file(data, packed, tmp_path):
    flags = PackFlags(data_dir=data, out=str(tmp_path / "packed"), images_per_shard=5)
    with faults.injected(path="*/Train/*.jpg", first=5, count=0, number=errno.EIO), pytest.raises(StorageDown):
        writer.pack(flags, manifest.read_all_splits(data))
    with faults.injected(path="*/Train/*.jpg", first=5, count=2, number=errno.EMFILE):
        done = writer.pack(flags, manifest.read_all_splits(data))
    assert done["bad"] == {}
    assert done["splits"] == json.loads(Path(packed, "pack.json").read_text())["splits"]


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return write_export(tmp_path_factory.mktemp("export") / "1", ["Fake", "Real"])


def command(main, *words):
    return cli.run_command(main, [str(word) for word in words])


@pytest.mark.slow
def test_predict_retries_too_and_blames_no_file(data, export, tmp_path, capsys):
    words = (f"{data}/Train", f"--model_dir={export}", f"--out={tmp_path / 'rows.jsonl'}")
    with faults.injected(path="*/Train/*.jpg", first=5, count=2, number=errno.ENOMEM):
        assert command(predict.main, *words) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["error"] for row in rows] == [None] * 16
    with faults.injected(path="*/Train/*.jpg", first=5, count=0, number=errno.EIO):
        assert command(predict.main, *words) == 75
    assert "stopped: " in capsys.readouterr().err.splitlines()[-1]
    with faults.injected(path="*/Train/Real/00002.jpg", count=0, number=errno.EACCES):
        assert command(predict.main, *words) == 1
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["error"] for row in rows] == [None] * 10 + ["Permission denied"] + [None] * 5


@pytest.mark.slow
def test_evaluate_retries_too_and_blames_no_file(data, packed, export, tmp_path, capsys, monkeypatch):
    words = (f"--model_dir={export}", "--split=Train", f"--out={tmp_path}", "--bootstrap=0", "--max_bad_fraction=1")
    with faults.injected(path="*/Train/*.jpg", first=5, count=0, number=errno.ESTALE):
        assert command(evaluate.main, f"--data_dir={data}", *words) == 75
    monkeypatch.setattr(os, "pread", failing(os.pread, itertools.repeat(errno.EIO)))
    assert command(evaluate.main, f"--data_dir={packed}", *words) == 75
    assert not (tmp_path / "skipped.jsonl").exists()


@pytest.mark.parametrize(
    "error", [OSError(errno.EMFILE, "Too many open files"), tf.errors.UnknownError(None, None, "EIO")]
)
def test_a_model_that_cannot_be_read_now_is_no_wrong_request(export, monkeypatch, error):
    monkeypatch.setattr(tf.saved_model, "load", failing_with(error))
    with pytest.raises(StorageDown, match="could not be loaded"):
        Predictor(exported_model.find_export(export))


def test_a_model_that_fails_blames_no_image(export, data, monkeypatch):
    predictor = Predictor(exported_model.find_export(export))
    failed = failing_with(tf.errors.InternalError(None, None, "the device is lost"))
    monkeypatch.setattr(predictor, "_on_device", failed)
    reader = readers.open_reader(manifest.read_split(data, "Train"))
    with pytest.raises(tf.errors.InternalError):
        list(predictor.score(16, reader.read_one, 8))


def failing_with(error):
    def fail(*_, **__):
        raise error

    return fail


def test_the_key_of_a_cache_is_the_same_in_trouble(data):
    split = manifest.read_split(data, "Train")
    stamp, real = readers.stamp(split), os.stat
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "stat", failing(real, iter([0, errno.ESTALE, 0, errno.EIO])))
        assert readers.stamp(split) == stamp


# --- jobs -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    job = tmp_path_factory.mktemp("jobs") / "undisturbed"
    assert run_job(data, job, **JOB) == 0
    return result_of(job)["weights_sha256"]


@pytest.mark.slow
def test_a_job_whose_reads_fail_for_a_while_has_the_same_weights(data, packed, undisturbed, tmp_path, monkeypatch):
    with faults.injected(path="*/*.jpg", first=9, count=3, number=errno.ENOTCONN) as fault:
        assert run_job(data, tmp_path / "folder", **JOB) == 0
    assert fault.seen > 9
    assert result_of(tmp_path / "folder")["weights_sha256"] == undisturbed
    assert not (tmp_path / "folder/skipped.jsonl").exists()
    monkeypatch.setattr(os, "pread", failing(os.pread, iter([0] * 20 + [errno.EIO, errno.ENOMEM])))
    assert run_job(packed, tmp_path / "packed", **JOB) == 0
    assert result_of(tmp_path / "packed")["weights_sha256"] == undisturbed
    assert not (tmp_path / "packed/skipped.jsonl").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "number"), [(1, errno.ESTALE), (10, errno.EIO), (18, errno.EMFILE), (30, errno.ETIMEDOUT)]
)
def test_a_job_whose_reads_stay_broken_saves_its_last_step_and_goes_on(
    data, undisturbed, tmp_path, capsys, first, number
):
    with faults.injected(path="*/*.jpg", first=first, count=0, number=number):
        assert run_job(data, tmp_path, **JOB) == 75
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("stopped:")]
    assert os.strerror(number) in line
    done = int(line.split("stopped at step ")[1].split()[0])
    assert f"stopped at step {done} of {STEPS} with everything saved" in line
    assert checkpoints_of(tmp_path)[-1:] == ([done] if done else [])
    assert done >= (first - 1) // 4 - 4  # A few batches are read in advance.
    assert not (tmp_path / "skipped.jsonl").exists()
    assert run_job(data, tmp_path, **JOB) == 0
    assert result_of(tmp_path)["weights_sha256"] == undisturbed


@pytest.mark.slow
def test_data_that_goes_away_is_code_75_until_it_is_back(own, undisturbed, tmp_path, capsys):
    with sigterm_after(3):
        assert run_job(own, tmp_path / "job", **JOB) == 75
    (own / "Train").rename(tmp_path / "elsewhere")
    capsys.readouterr()
    for prepare in (lambda: None, (own / "Train").mkdir):
        prepare()
        assert run_job(own, tmp_path / "job", **JOB) == 75
        (line,) = capsys.readouterr().err.splitlines()
        assert "was started with the images there; mount or restore it" in line
    # A folder that never was is a wrong request; and so is another one.
    assert run_job(own, tmp_path / "new", **JOB) == 2
    assert run_job(tmp_path / "typo", tmp_path / "job", **JOB) == 2
    (own / "Train").rmdir()
    (tmp_path / "elsewhere").rename(own / "Train")
    assert run_job(own, tmp_path / "job", **JOB) == 0
    assert result_of(tmp_path / "job")["weights_sha256"] == undisturbed


@pytest.mark.slow
def test_an_image_that_decodes_again_leaves_the_list_and_the_result(own, tmp_path):
    bad = own / "Train/Real/00003.jpg"
    content = bad.read_bytes()
    bad.write_bytes(b"no image")
    with sigterm_after(4):
        assert run_job(own, tmp_path / "job", max_bad_fraction=0.5, **JOB) == 75
    listed = tmp_path / "job/skipped.jsonl"
    assert json.loads(listed.read_text())["path"] == "Train/Real/00003.jpg"
    with listed.open("a") as file:  # And a kill while another line was appended.
        file.write('{"split": "Tra')
    bad.write_bytes(content)
    assert run_job(own, tmp_path / "job", max_bad_fraction=0.5, **JOB) == 0
    assert listed.read_text() == ""
    assert result_of(tmp_path / "job")["skipped"] == {"Train": 0, "Validation": 0}
