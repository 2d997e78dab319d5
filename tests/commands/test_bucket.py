"""Whole commands on gs://, as processes: the README's recipe with a kill in the middle, faults, a bucket that goes."""

import csv
import io
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.children import Child
from tests.helpers.fake_gcs import NO_BUCKET, objects, request_of, upload
from tests.helpers.images import write_image_set
from tests.helpers.jobs import argv, finished_job, result_of, run_job, values_of
from trainer import prepare_data
from trainer.core import cli
from trainer.core.storage import files

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
JOB = {"epochs": 3, "batch_size": 12, "checkpoint_every_steps": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_image_set(tmp_path_factory.mktemp("data"), train=24, validation=6, test=6)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """Return the job_dir of the same job on local folders."""
    return finished_job(data, tmp_path_factory.mktemp("undisturbed"), **JOB)


def start(*words):
    module, *flags = words
    return Child(module, flags, report=True)


def run(*words):
    """Run a command to its end; return its exit code and what it said."""
    process = start(*words)
    out, err = process.communicate(timeout=300)
    assert "Traceback" not in err, err
    return process.returncode, out, err


def training(data_dir, job_dir, **changes):
    return ["trainer.train", *argv(data_dir, job_dir, **{**JOB, **changes})]


def wait_for_checkpoint(job_dir, process):
    deadline = time.monotonic() + 120
    while not any(name.endswith("COMMIT.json") for name in objects(f"{job_dir}/checkpoints")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def fetch(job_dir, tmp_path):
    for name in ("result.json", "metrics.jsonl"):
        files.write_bytes(str(tmp_path / name), files.read_bytes(f"{job_dir}/{name}"))
    return tmp_path


def assert_same(job_dir, undisturbed, tmp_path):
    mine = fetch(job_dir, tmp_path)
    for line, expected in zip(values_of(mine), values_of(undisturbed), strict=True):
        assert line == expected
    assert result_of(mine)["weights_sha256"] == result_of(undisturbed)["weights_sha256"]


def recipe(bucket):
    """Return the words of the README's commands on a bucket, on this one."""
    block = re.search(r"### A bucket\n.*?```sh\n(.*?)```", (ROOT / "docs/data.md").read_text(), re.DOTALL)[1]
    return [shlex.split(line.replace("gs://my-bucket", bucket))[2:] for line in block.splitlines()]


def test_the_recipe_with_a_kill_in_the_middle(bucket, data, undisturbed, tmp_path):
    upload(data, f"{bucket}/faces")
    job_dir = f"{bucket}/jobs/first"
    train, evaluate, predict = recipe(bucket)
    assert train == ["trainer.train", f"--data_dir={bucket}/faces", f"--job_dir={job_dir}"]
    train = training(f"{bucket}/faces", job_dir, export="best")
    killed = start(*train)
    wait_for_checkpoint(job_dir, killed)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not files.exists(f"{job_dir}/result.json")
    code, _, err = run(*train)
    assert code == 0, err
    assert "to see whether that job is alive" in err
    assert "continuing from step" in err
    assert_same(job_dir, undisturbed, tmp_path)
    names = objects(job_dir)
    assert "lock" not in names
    assert not [name for name in names if ".part-" in name or ".tmp" in name or "probe" in name]
    assert {"config.json", "report/index.html", "restarts.json"} <= set(names)
    assert [name for name in names if name.startswith("tensorboard/events")]
    assert run(*train)[0] == 0  # Finished means finished.

    code, out, err = run(*evaluate)
    assert code == 0, err
    assert "accuracy" in out
    assert json.loads(files.read_text(f"{bucket}/evaluation/metrics.json"))["n"] == 12
    assert files.exists(f"{bucket}/evaluation/report.html")

    code, _, err = run(*predict)
    assert code == 0, err
    rows = list(csv.DictReader(io.StringIO(files.read_text(f"{bucket}/scores.csv"))))
    assert len(rows) == 12
    assert {row["error"] for row in rows} == {""}


@pytest.mark.thorough
def test_a_job_in_a_bucket_is_exported_again_and_its_evaluations_are_compared(bucket, data):
    upload(data, f"{bucket}/faces")
    job_dir, out = f"{bucket}/job", f"{bucket}/exported"
    assert run(*training(f"{bucket}/faces", job_dir, export="best"))[0] == 0
    code, told, err = run("trainer.export", f"--job_dir={job_dir}", f"--out={out}", "--formats=savedmodel,tflite")
    assert code == 0, err
    assert "tflite" in told
    compared = json.loads(files.read_text(f"{out}/comparison.json"))
    assert list(compared["forms"]) == ["savedmodel", "tflite"]
    assert {"model.tflite", "deepdetect.json", "model_card.md"} <= set(objects(out))

    found = [f"{bucket}/evaluation{number}" for number in (1, 2)]
    for model, evaluation in zip((f"{job_dir}/export/best", f"{out}/savedmodel"), found, strict=True):
        words = (f"--model_dir={model}", f"--data_dir={bucket}/faces", "--split=Test", f"--out={evaluation}")
        code, _, err = run("trainer.evaluate", *words, "--bootstrap=100")
        assert code == 0, err
    code, _, err = run(
        "trainer.evaluate", f"--compare={','.join(found)}", f"--out={bucket}/compared", "--bootstrap=100"
    )
    assert code == 0, err
    first, second = json.loads(files.read_text(f"{bucket}/compared/compare.json"))["runs"]
    assert first["log_loss"] == second["log_loss"]  # The same model, exported twice.
    assert files.exists(f"{bucket}/compared/compare.html")


@pytest.mark.thorough
def test_bursts_of_faults_change_no_weight(bucket, gcs_server, data, undisturbed, tmp_path):
    upload(data, f"{bucket}/faces")
    with gcs_server.fault(status=503, every=9) as errors, gcs_server.fault(reset=True, every=14, after=True) as resets:
        code, _, err = run(*training(f"{bucket}/faces", f"{bucket}/job"))
    assert code == 0, err
    assert errors.hits > 10
    assert resets.hits > 5
    assert_same(f"{bucket}/job", undisturbed, tmp_path)
    assert not files.exists(f"{bucket}/job/skipped.jsonl")


@pytest.mark.parametrize(("fault", "code", "says"), [
    ({"status": 404, "message": NO_BUCKET}, 2, "error: expected the bucket "),
    pytest.param({"status": 503}, 75, "stopped: gs://", marks=pytest.mark.thorough),
], ids=["vanished", "outage"])  # fmt: skip
def test_a_bucket_that_goes_away_ends_in_one_line_and_nothing_torn(
    bucket, gcs_server, data, undisturbed, tmp_path, fault, code, says
):
    job_dir = f"{bucket}/job"
    command = training(data, job_dir)
    process = start(*command)
    wait_for_checkpoint(job_dir, process)
    with gcs_server.fault(match=request_of(bucket), **fault):
        _, err = process.communicate(timeout=120)
    assert process.returncode == code, err
    assert "Traceback" not in err
    assert err.splitlines()[-1].startswith(says), err
    ended, _, err = run(*command)
    assert ended == 0, err
    assert_same(job_dir, undisturbed, tmp_path)


@pytest.mark.thorough
def test_an_outage_of_the_data_ends_in_one_line_and_a_later_start_goes_on(
    bucket, gcs_server, data, undisturbed, tmp_path
):
    upload(data, f"{bucket}/faces")
    command = training(f"{bucket}/faces", tmp_path / "job")
    process = start(*command)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "job").glob("checkpoints/*/COMMIT.json")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    with gcs_server.fault(match=request_of(bucket), status=503):
        _, err = process.communicate(timeout=120)
    if process.returncode != 0:  # Otherwise all that it needed was read ahead already.
        assert process.returncode == 75, err
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith("stopped: gs://")
        assert run(*command)[0] == 0
    assert values_of(tmp_path / "job") == values_of(undisturbed)
    assert result_of(tmp_path / "job")["weights_sha256"] == result_of(undisturbed)["weights_sha256"]


def test_a_packed_set_in_a_bucket_is_read_by_blocks_and_gives_the_same_weights(
    bucket, gcs_server, data, undisturbed, tmp_path
):
    prepare = [sys.executable, "scripts/prepare_data.py", "pack", f"--data_dir={data}", f"--out={bucket}/packed"]
    done = subprocess.run(prepare, cwd=ROOT, env=os.environ.copy(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    before = len(gcs_server.requests)
    assert run_job(f"{bucket}/packed", tmp_path / "job", **JOB) == 0
    assert result_of(tmp_path / "job")["weights_sha256"] == result_of(undisturbed)["weights_sha256"]
    images = 3 * (48 + 12)
    reads = [request for request in gcs_server.requests[before:] if ".tfrecord" in request]
    assert 0 < len(reads) <= images / 4


def test_an_audit_of_a_bucket_says_what_one_of_the_folder_says(bucket, data, tmp_path):
    upload(data, f"{bucket}/faces")
    said = []
    for source, out in ((str(data), str(tmp_path / "audit")), (f"{bucket}/faces", f"{bucket}/audit")):
        words = [f"--data_dir={source}", f"--out={out}", "--workers=1"]
        assert cli.run_command(prepare_data.audit, words) == 0
        assert "</html>" in files.read_text(f"{out}/audit.html")
        said.append(json.loads(files.read_text(f"{out}/audit.json").replace(source, "DATA")))
        assert said[-1]["settings"].pop("created")
    assert said[0]["images"] == 72
    assert said[0] == said[1]
