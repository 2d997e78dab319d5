"""Whole jobs: what they leave behind, how they go on, and how they refuse."""

import itertools
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import mailbox
from tests.helpers.children import Child
from tests.helpers.commands import refusal
from tests.helpers.images import write_image_set
from tests.helpers.jobs import (
    SMALL,
    argv,
    checkpoints_of,
    finished_job,
    float32_policy,  # noqa: F401  (a fixture)
    lines_of,
    result_of,
    run_job,
    sigterm_after,
    values_of,
)
from trainer import train
from trainer.core.errors import RequestError
from trainer.core.starts import mirror, record
from trainer.data.bad_images import BadImages

ROOT = Path(__file__).resolve().parents[2]
HANDLERS = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return data_dir of 48 + 47 images in Train (one of them is text), 20 in Validation."""
    data_dir = write_image_set(tmp_path_factory.mktemp("data"), train=48, validation=10, test=0)
    Path(data_dir, "Train", "Real", "00007.jpg").write_text("this is no image")
    return data_dir


# Five steps an epoch; the fifth has 15 images and one bad one.  Dropout and augmentation are the defaults.
JOB = {"epochs": 3, "keep_checkpoints": 1, "monitor": "val_loss"}


@pytest.fixture(scope="module")
def job(data, tmp_path_factory):
    """Return the job_dir of a finished, undisturbed job, report included; read only."""
    with mailbox.serve(mailbox.Http) as server:
        target = f"http://127.0.0.1:{server.port}/{SECRET}"
        done = finished_job(data, tmp_path_factory.mktemp("jobs") / "undisturbed", report=True, notify=target, **JOB)
    (done.parent / "notices").write_text("\n".join(server.received))
    return done


SECRET = "services-T00-B00"  # Of the job's --notify.


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Return content and time of every file but the lock, which every start takes."""
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "lock"}  # fmt: skip


# What a finished job leaves.


def test_config_json_holds_the_request(job, data):
    config = json.loads((job / "config.json").read_text())
    assert config.items() >= {**SMALL, **JOB, "data_dir": data, "job_dir": str(job), "dropout": 0.2}.items()


def test_the_end_was_told_and_where_to_is_stored_nowhere(job):
    (notice,) = map(json.loads, (job.parent / "notices").read_text().splitlines())
    assert (notice["state"], notice["exit_code"], notice["step"]) == ("done", 0, 15)
    assert notice["metrics"] == result_of(job)["validation"]
    assert Path(notice["report"]).is_file()
    assert not [name for name, (content, _) in tree(job).items() if SECRET.encode() in content]


def test_metrics_have_every_step_once_with_all_fields(job):
    lines = lines_of(job)
    assert {line["kind"] for line in lines} == {"start", "train", "validation", "checkpoint", "end"}
    assert all(isinstance(line["step"], int) and isinstance(line["epoch"], int) for line in lines)
    training = lines_of(job, "train")
    assert [(line["step"], line["epoch"]) for line in training] == [(k + 1, k // 5 + 1) for k in range(15)]
    for line in training:
        assert line.keys() >= {"loss", "accuracy", "learning_rate", "images_per_second"}
        assert line["loss"] > 0
        assert 0 <= line["accuracy"] <= 1
        assert line["learning_rate"] == 0.001
        assert line["images_per_second"] > 0
    # 96 images in steps of 20, less the bad one, in every epoch.
    epochs = [sum(line["examples"] for line in training if line["epoch"] == epoch) for epoch in (1, 2, 3)]
    assert epochs == [95, 95, 95]
    validations = lines_of(job, "validation")
    assert [line["step"] for line in validations] == [5, 10, 15]
    assert all(line.keys() >= {"val_loss", "val_accuracy", "val_auc", "best"} for line in validations)
    assert [line["step"] for line in lines_of(job, "checkpoint")] == [5, 10, 15]
    assert (lines[0]["kind"], lines[-1]["kind"]) == ("start", "end")


def test_result_json_keeps_the_contract(job):
    result = result_of(job)
    assert result.keys() >= {
        "status", "step", "best_step", "monitor", "validation", "images_per_second", "weights_sha256",
    }  # fmt: skip
    assert (result["status"], result["stopped_by"], result["step"], result["epoch"]) == ("done", "epochs", 15, 3)
    validations = {line["step"]: line for line in lines_of(job, "validation")}
    best = min(validations.values(), key=lambda line: line["val_loss"])
    assert result["monitor"] == "val_loss"
    assert (result["best_step"], result["best_epoch"]) == (best["step"], best["epoch"])
    assert result["validation"] == {name: best[f"val_{name}"] for name in ("loss", "accuracy", "auc")}
    assert result["last_validation"]["loss"] == validations[15]["val_loss"]
    assert len(result["weights_sha256"]) == 64
    assert result["images_per_second"] > 0
    assert result["images"] == {"Train": {"Fake": 48, "Real": 48}, "Validation": {"Fake": 10, "Real": 10}}
    assert result["skipped"] == {"Train": 1, "Validation": 0}


def test_the_newest_checkpoints_and_the_best_are_kept(job):
    assert checkpoints_of(job) == sorted({15, result_of(job)["best_step"]})


def test_a_bad_image_is_named_once(job):
    skipped = [json.loads(line) for line in (job / "skipped.jsonl").read_text().splitlines()]
    assert [(entry["split"], entry["path"]) for entry in skipped] == [("Train", "Train/Real/00007.jpg")]
    assert skipped[0]["reason"]


def test_tensorboard_and_report_are_there(job):
    assert list((job / "tensorboard").glob("events.*"))
    assert (job / "report" / "index.html").stat().st_size > 1000


# The same command again.


def test_a_finished_job_says_so_and_touches_nothing(job, data, package_log):
    before = tree(job)
    assert run_job(data, job, **JOB) == 0
    assert any("already done" in record.message for record in package_log.records)
    after = tree(job)
    assert {name: content for name, (content, _) in after.items()} == {name: c for name, (c, _) in before.items()}
    touched = [name for name in after if after[name][1] != before[name][1]]
    assert touched in ([], ["config.json"])  # Written anew with the same content.


@pytest.mark.slow
def test_a_stopped_job_goes_on_as_if_nothing_had_happened(job, data, tmp_path, capsys):
    """Stopped in the middle of an epoch and of the job, with dropout and augmentation."""
    with sigterm_after(7):
        assert run_job(data, tmp_path / "job", **JOB) == 75
    err = capsys.readouterr().err
    assert "SIGTERM at step 7 of 15" in err
    (line,) = [line for line in err.splitlines() if line.startswith("settings that differ from the defaults: ")]
    assert set(line.partition(": ")[2].split(", ")) == {
        "image_size=64", "batch_size=20", "epochs=3", "precision=float32", "export=none", "keep_checkpoints=1",
        "monitor=val_loss",
    }  # fmt: skip
    assert not (tmp_path / "job" / "result.json").exists()
    assert 7 in checkpoints_of(tmp_path / "job")
    assert run_job(data, tmp_path / "job", **JOB) == 0
    assert values_of(tmp_path / "job") == values_of(job)  # No step is missing, none stands there twice.
    assert result_of(tmp_path / "job")["weights_sha256"] == result_of(job)["weights_sha256"]
    assert result_of(tmp_path / "job")["validation"] == result_of(job)["validation"]
    assert [line["step"] for line in lines_of(tmp_path / "job", "start")] == [0, 7]
    assert (tmp_path / "job" / "skipped.jsonl").read_text() == (job / "skipped.jsonl").read_text()


def test_signal_handlers_are_put_back(job):
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == HANDLERS


@pytest.mark.slow
def test_two_runs_give_the_same_weights_and_another_seed_gives_others(job, data, tmp_path):
    assert run_job(data, tmp_path / "again", **JOB) == 0
    assert run_job(data, tmp_path / "other", seed=1, **JOB) == 0
    hashes = [result_of(folder)["weights_sha256"] for folder in (job, tmp_path / "again", tmp_path / "other")]
    assert hashes[0] == hashes[1]
    assert hashes[0] != hashes[2]
    assert values_of(job) == values_of(tmp_path / "again")


@pytest.mark.slow
def test_more_epochs_continue_a_finished_job_even_on_other_devices(job, data, tmp_path):
    assert run_job(data, tmp_path / "job", **{**JOB, "epochs": 2}) == 0
    assert result_of(tmp_path / "job")["step"] == 10
    assert run_job(data, tmp_path / "job", **JOB, num_devices=2) == 0
    assert result_of(tmp_path / "job")["step"] == 15
    assert result_of(tmp_path / "job")["weights_sha256"] == result_of(job)["weights_sha256"]
    assert [line["step"] for line in lines_of(tmp_path / "job", "train")] == list(range(1, 16))
    assert len(lines_of(tmp_path / "job", "end")) == 1


@pytest.mark.slow
def test_a_damaged_newest_checkpoint_costs_steps_and_nothing_else(job, data, tmp_path):
    with sigterm_after(8):
        assert run_job(data, tmp_path / "job", **{**JOB, "keep_checkpoints": 3}) == 75
    damaged = tmp_path / "job" / "checkpoints" / f"{8:010d}" / "arrays.npz"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    assert run_job(data, tmp_path / "job", **{**JOB, "keep_checkpoints": 3}) == 0
    assert values_of(tmp_path / "job") == values_of(job)
    assert result_of(tmp_path / "job")["weights_sha256"] == result_of(job)["weights_sha256"]


@pytest.mark.slow
def test_resume_never_moves_a_job_aside_and_starts_over(job, data, tmp_path):
    job_dir = tmp_path / "job"
    shutil.copytree(job, job_dir)
    changed = {**JOB, "epochs": 1, "steps_per_epoch": 1, "learning_rate": 0.002, "resume": "never"}
    assert run_job(data, job_dir, **changed) == 0
    (aside,) = job_dir.glob("before-*")
    kept, original = tree(aside), tree(job)
    assert {name: content for name, (content, _) in kept.items()} == {name: c for name, (c, _) in original.items()}
    assert result_of(job_dir)["step"] == 1
    assert [line["step"] for line in lines_of(job_dir, "train")] == [1]


# Other shapes of a job.


@pytest.mark.slow
def test_many_settings_at_once(tmp_path):
    """Three classes, no Validation, forensic augmentation, cosine, steps_per_epoch, log_every_steps, checkpoints."""
    classes = ("Fake", "Real", "Swapped")
    data_dir = write_image_set(tmp_path / "data", train=20, validation=0, test=3, classes=classes)
    settings = {
        "augment": "forensic", "lr_schedule": "cosine", "steps_per_epoch": 4, "log_every_steps": 3,
        "checkpoint_every_steps": 3, "keep_checkpoints": 9, "validation_fraction": 0.2, "precision": "mixed_bfloat16",
    }  # fmt: skip
    assert run_job(data_dir, tmp_path / "job", **settings) == 0
    result = result_of(tmp_path / "job")
    assert result["images"] == {
        "Train": dict.fromkeys(classes, 16),
        "Validation": dict.fromkeys(classes, 4),
    }
    assert result["precision"] == "mixed_bfloat16"
    training = lines_of(tmp_path / "job", "train")
    # 48 images are 3 steps of 20 a pass (8 in the last); an epoch of 4 steps ends a line of its own.
    assert [(line["step"], line["epoch"]) for line in training] == [(3, 1), (4, 1), (6, 2), (8, 2)]
    assert [line["examples"] for line in training] == [48, 20, 28, 40]
    rates = [line["learning_rate"] for line in training]
    assert all(one > two for one, two in itertools.pairwise(rates))
    # Step 3 is the third of 8: arXiv:1608.03983, eq. 5, at 2/8 between 1e-3 and 1e-5.
    assert rates[0] == pytest.approx(1e-5 + 0.5 * (1e-3 - 1e-5) * (1 + 2**-0.5), rel=1e-5)
    # That of step 6 may be skipped while that of step 4 is still being written.
    assert {3, 4, 8} <= set(checkpoints_of(tmp_path / "job")) <= {3, 4, 6, 8}
    assert [line["step"] for line in lines_of(tmp_path / "job", "validation")] == [4, 8]


@pytest.fixture
def misleading(tmp_path):
    """Return data_dir whose Validation has its classes exchanged, so that validation worsens with every epoch."""
    data_dir = write_image_set(tmp_path / "misleading", train=30, validation=10, test=0)
    validation = Path(data_dir, "Validation")
    (validation / "Fake").rename(validation / "x")
    (validation / "Real").rename(validation / "Fake")
    (validation / "x").rename(validation / "Real")
    return data_dir


@pytest.mark.slow
def test_early_stopping_ends_a_job_for_good(misleading, tmp_path):
    settings = {
        "epochs": 40, "early_stopping_patience": 2, "plateau_patience": 1, "plateau_monitor": "val_loss",
        "augment": "none", "keep_checkpoints": 1,
    }  # fmt: skip
    assert run_job(misleading, tmp_path / "job", **settings) == 0
    result = result_of(tmp_path / "job")
    assert result["stopped_by"] == "early_stopping"
    validations = lines_of(tmp_path / "job", "validation")
    losses = [line["val_loss"] for line in validations]
    assert result["epoch"] == len(losses) == losses.index(min(losses)) + 1 + 2
    assert result["best_epoch"] == result["epoch"] - 2
    assert result["validation"]["loss"] == min(losses)
    assert checkpoints_of(tmp_path / "job") == [result["best_step"], result["step"]]
    # The epoch after the first one without improvement has a lower rate.
    assert validations[-1]["learning_rate"] == pytest.approx(1e-4)

    before = tree(tmp_path / "job")
    assert run_job(misleading, tmp_path / "job", **{**settings, "epochs": 50}) == 0
    after = tree(tmp_path / "job")
    assert [name for name in after if after[name][0] != before[name][0]] in ([], ["config.json"])
    # Also when the stop came between the last checkpoint and the end.
    (tmp_path / "job" / "result.json").unlink()
    assert run_job(misleading, tmp_path / "job", **settings) == 0
    assert result_of(tmp_path / "job")["step"] == result["step"]
    assert result_of(tmp_path / "job")["stopped_by"] == "early_stopping"
    assert len(lines_of(tmp_path / "job", "train")) == result["step"]


@pytest.mark.slow
@pytest.mark.parametrize("steps_per_epoch", [0, 1])
def test_divergence_fails_with_the_steps_named(data, tmp_path, capsys, steps_per_epoch):
    settings = {"learning_rate": 1e30, "lr_schedule": "constant", "augment": "none", "epochs": 1}
    assert run_job(data, tmp_path / "job", steps_per_epoch=steps_per_epoch, **settings) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("failed: ")
    assert "not finite" in last
    assert "step 1" in last
    assert not (tmp_path / "job" / "result.json").exists()
    assert checkpoints_of(tmp_path / "job") == []


@pytest.mark.thorough  # tests/training/test_execution.py stops such a job, too.
def test_a_job_in_float16_on_two_devices_goes_on_after_a_stop(data, tmp_path):
    settings = {"precision": "mixed_float16", "num_devices": 2}
    assert run_job(data, tmp_path / "whole", **settings) == 0
    with sigterm_after(3):
        assert run_job(data, tmp_path / "halves", **settings) == 75
    assert run_job(data, tmp_path / "halves", **settings) == 0
    assert values_of(tmp_path / "whole") == values_of(tmp_path / "halves")
    assert result_of(tmp_path / "whole")["weights_sha256"] == result_of(tmp_path / "halves")["weights_sha256"]
    assert all(line["loss_scale"] == 2**15 for line in lines_of(tmp_path / "whole", "train"))


# Wrong requests: exit code 2 and one line that helps.


def refused(words: list[str], capsys) -> str:
    """Return the line that says why."""
    return refusal(capsys, train.main, *words)


def test_an_unknown_flag(data, tmp_path, capsys):
    line = refused([*argv(data, tmp_path), "--epoch=3"], capsys)
    assert "--epoch" in line
    assert "epochs" in line


def test_no_data_dir(tmp_path, capsys):
    assert "--data_dir" in refused([f"--job_dir={tmp_path}"], capsys)


def test_a_data_dir_that_is_not_there(tmp_path, capsys):
    line = refused(argv(tmp_path / "nowhere", tmp_path / "job"), capsys)
    assert "--data_dir" in line
    assert "nowhere" in line
    assert not (tmp_path / "job").exists()


def test_an_empty_class(tmp_path, capsys):
    data_dir = Path(write_image_set(tmp_path / "data", train=2, validation=2, test=0))
    (data_dir / "Train" / "Other").mkdir()
    line = refused(argv(data_dir, tmp_path / "job"), capsys)
    assert "empty class" in line
    assert "Train/Other" in line


def test_one_class_only(tmp_path, capsys):
    data_dir = write_image_set(tmp_path / "data", train=2, validation=2, test=0, classes=("Fake",))
    line = refused(argv(data_dir, tmp_path / "job"), capsys)
    assert "at least two class folders" in line
    assert "Fake" in line


def test_batch_size_zero(data, tmp_path, capsys):
    line = refused(argv(data, tmp_path, batch_size=0), capsys)
    assert "--batch_size" in line
    assert "at least 1" in line


def test_a_batch_that_does_not_divide(data, tmp_path, capsys):
    line = refused(argv(data, tmp_path, batch_size=21, num_devices=2), capsys)
    assert "--batch_size=22" in line


def test_a_positive_class_that_is_none(data, tmp_path, capsys):
    line = refused(argv(data, tmp_path, positive_class="Forged"), capsys)
    assert "--positive_class" in line
    assert "Fake, Real" in line


def test_a_job_dir_below_a_file(data, tmp_path, capsys):
    (tmp_path / "file").write_text("")
    line = refused(argv(data, tmp_path / "file" / "job"), capsys)
    assert "--job_dir" in line
    assert "file/job" in line


def test_a_job_dir_of_other_settings_names_them_all(job, data, capsys):
    before = tree(job)
    line = refused(argv(data, job, **{**JOB, "learning_rate": 0.01, "seed": 3, "epochs": 9}), capsys)
    assert "--learning_rate (was 0.001, now 0.01)" in line
    assert "--seed (was 0, now 3)" in line
    assert "--epochs" not in line  # May differ.
    assert tree(job) == before


def test_resume_required_without_a_checkpoint(data, tmp_path, capsys):
    line = refused(argv(data, tmp_path / "job", resume="required"), capsys)
    assert "--resume=required" in line
    assert "checkpoint" in line


def test_other_images_than_the_job_was_begun_with(job, data, tmp_path, capsys):
    shutil.copytree(job, tmp_path / "job")
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "Train" / "Fake" / "00001.jpg").unlink()
    line = refused(argv(tmp_path / "data", tmp_path / "job", **{**JOB, "epochs": 4}), capsys)
    assert "train images" in line
    assert "validation images" not in line


@pytest.mark.parametrize("content", [None, "{", "[1]", '{"epoch": 3}', '{"seed": "many"}'])
def test_a_broken_config_file(data, tmp_path, capsys, content):
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    refused([*argv(data, tmp_path / "job"), f"--config={path}"], capsys)
    assert not (tmp_path / "job").exists()


def test_too_many_bad_images_are_refused_after_a_restart_too(tmp_path):
    for _ in range(2):  # The second one finds the images in the file.
        skipped = BadImages(str(tmp_path / "skipped.jsonl"), 0.1)
        skipped.report("Train", 10, "Train/Fake/a.jpg", "broken")
        skipped.report("Train", 10, "Train/Fake/b.jpg", "broken")
        with pytest.raises(RequestError, match="--max_bad_fraction"):
            skipped.check_limit()
        assert skipped.count("Train") == 2
    assert len((tmp_path / "skipped.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_job_with_too_many_bad_images_is_refused_every_time(tmp_path, capsys):
    data_dir = write_image_set(tmp_path / "data", train=10, validation=5, test=0)
    for number in range(3):
        Path(data_dir, "Train", "Real", f"{number:05d}.jpg").write_text("this is no image")
    settings = {"augment": "none", "epochs": 1}
    for _ in range(2):  # A restart must not let it pass because the images are known by now.
        assert run_job(data_dir, tmp_path / "job", **settings) == 2
        last = capsys.readouterr().err.splitlines()[-1]
        assert "error: " in last
        assert "--max_bad_fraction" in last
    assert len((tmp_path / "job" / "skipped.jsonl").read_text().splitlines()) == 3


# In processes of their own.


def command(words: list[str], **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, **options
    )


@pytest.mark.slow
def test_a_wrong_request_exits_with_2_and_no_traceback(data, tmp_path):
    done = command(["-m", "trainer.train", f"--data_dir={tmp_path}/nowhere", f"--job_dir={tmp_path}/job"])
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_help_and_refusals_need_no_tensorflow(data, tmp_path):
    script = (
        "import sys; from trainer import train; from trainer.core import cli; "
        "code = cli.run_command(train.main, sys.argv[1:]); "
        "sys.exit(99 if 'tensorflow' in sys.modules else code)"
    )
    done = command(["-c", script, "--help"])
    assert done.returncode == 0
    assert "--data_dir" in done.stdout
    assert command(["-c", script, *argv(data, tmp_path / "job", batch_size=0)]).returncode == 2
    assert command(["-c", script, *argv(tmp_path, tmp_path / "job")]).returncode == 2


@pytest.mark.slow
def test_a_killed_process_and_a_terminated_one_lose_nothing(job, data, tmp_path):
    """SIGTERM ends with 75; SIGKILL at any moment costs at most the steps since the last checkpoint."""
    words = argv(data, tmp_path / "job", **JOB, checkpoint_every_steps=2)
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    for number, at_least, more in ((signal.SIGKILL, 2, {}), (signal.SIGTERM, 4, pod)):
        process = Child("trainer.train", words, more)
        try:
            deadline = time.monotonic() + 200
            while max(checkpoints_of(tmp_path / "job"), default=0) < at_least and process.poll() is None:
                assert time.monotonic() < deadline, "no checkpoint"
                time.sleep(0.002)
            process.send_signal(number)
            code = process.wait(timeout=200)
        finally:
            process.kill()
        _, text = process.communicate()
        if (tmp_path / "job" / "result.json").exists():
            pytest.skip("the job was faster than the signal")
        assert code == (-signal.SIGKILL if number == signal.SIGKILL else 75), text
        assert "Traceback" not in text
    assert [start.end and start.end.code for start in record.read(str(tmp_path / "job"), 9)] == [None, 75]
    assert mirror.lines(str(tmp_path / "job"))[1:] == text.splitlines()  # Of the pod, to its last line.
    assert "stopped: SIGTERM at step " in text
    last = Child("trainer.train", words)
    _, text = last.communicate()
    assert last.returncode == 0, text
    assert "continuing from step" in text
    assert values_of(tmp_path / "job") == values_of(job)
    assert result_of(tmp_path / "job")["weights_sha256"] == result_of(job)["weights_sha256"]
