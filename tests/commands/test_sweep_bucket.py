"""A whole sweep on gs://: killed, continued, trained again, and its best settings handed to trainer.train."""

import csv
import io
import json
import signal
import time
from pathlib import Path

import pytest

from tests.helpers.children import Child
from tests.helpers.fake_gcs import objects, upload
from tests.helpers.images import write_image_set
from tests.helpers.jobs import float32_policy, without_report  # noqa: F401
from trainer import train, tune
from trainer.core import cli
from trainer.core.storage import files

ROOT = Path(__file__).resolve().parents[2]
JOB = {
    "image_size": 48, "batch_size": 12, "epochs": 2, "precision": "float32", "export": "none", "log_every_steps": 1,
    "checkpoint_every_steps": 1, "max_trials": 2, "keep_trials": 1, "retrain_best": 1,
}  # fmt: skip
pytestmark = pytest.mark.slow


def command(main, argv):
    """Run a command in this process, without the drawings of each job, which cost seconds."""
    with without_report():
        return cli.run_command(main, argv)


def lines(job_dir, kind):
    records = [json.loads(line) for line in files.read_text(f"{job_dir}/metrics.jsonl").splitlines()]
    return [record["step"] for record in records if record["kind"] == kind]


def test_a_sweep_that_is_killed_in_a_bucket_goes_on_and_its_best_settings_train_the_same(bucket, tmp_path, capsys):
    data, folder = f"{bucket}/faces", f"{bucket}/sweep"
    upload(write_image_set(tmp_path / "faces", train=12, validation=6, test=0, size=48), data)
    words = [f"--{name}={value}" for name, value in {"data_dir": data, "job_dir": folder, **JOB}.items()]
    process = Child("trainer.tune", words)
    while not files.exists(f"{folder}/trials/0001/checkpoints/0000000001/COMMIT.json"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finished = files.read_text(f"{folder}/trials/0000/trial.json")

    assert command(tune.main, words) == 0
    assert "1 other seeds: Validation auc" in capsys.readouterr().out
    assert files.read_text(f"{folder}/trials/0000/trial.json") == finished
    rows = list(csv.DictReader(io.StringIO(files.read_text(f"{folder}/trials.csv"))))
    assert [(row["status"], row["epochs"], row["job_dir"]) for row in rows] == [
        ("done", "2", f"{folder}/trials/000{number}") for number in range(2)
    ]
    assert lines(f"{folder}/trials/0001", "train") == [1, 2, 3, 4]
    assert len(lines(f"{folder}/trials/0001", "start")) == 2
    best = json.loads(files.read_text(f"{folder}/sweep_result.json"))["best_trial"]
    names = objects(folder)
    assert {name.split("/")[1] for name in names if "/checkpoints/" in name and name.startswith("trials/")} == {best}
    assert {"sweep.html", f"retrain/{best}-seed-1/result.json", "retrain.json"} <= set(names)
    assert len([name for name in names if "/tensorboard/hparams/events" in name]) == 2
    assert not [name for name in names if name.endswith("lock")]

    assert command(train.main, [f"--config={folder}/best_config.json", f"--job_dir={bucket}/again"]) == 0
    weights = [json.loads(files.read_text(f"{job_dir}/result.json"))["weights_sha256"]
               for job_dir in (f"{bucket}/again", f"{folder}/trials/{best}")]  # fmt: skip
    assert weights[0] == weights[1]
