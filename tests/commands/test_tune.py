"""Whole sweeps of tiny jobs: killed, stopped, continued, with failing trials, alone and by a chief and workers."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from tests.helpers import mailbox
from tests.helpers.children import Child
from tests.helpers.images import write_image_set
from tests.helpers.jobs import checkpoints_of, float32_policy, result_of, sigterm_after, without_report  # noqa: F401
from trainer import train, tune
from trainer.core import cli
from trainer.sweep import pruning

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import local_cluster  # noqa: E402

SPACE = """
- {name: learning_rate, kind: float, range: [1e-4, 1e-2], log: true}
- {name: lr_schedule, kind: choice, values: [plateau, constant]}
- {name: plateau_factor, kind: float, range: [0.1, 0.5], condition: {lr_schedule: [plateau]}}
"""
SMALL = {"image_size": 48, "batch_size": 12, "epochs": 2, "precision": "float32", "export": "none"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_image_set(tmp_path_factory.mktemp("images"), train=12, validation=6, test=6, size=48)


def words(data, folder, **changes):
    (folder.parent / "space.yaml").write_text(SPACE)
    values = {"data_dir": data, "job_dir": folder, "space": folder.parent / "space.yaml", **SMALL, **changes}
    return [f"--{name}={value}" for name, value in values.items()]


def sweep(data, folder, **changes):
    """Run a sweep in this process, without the drawings of each trial, which cost seconds."""
    with without_report():
        return cli.run_command(tune.main, words(data, folder, **changes))


def trials(folder):
    """Return the rows of trials.csv without what a clock and a place decide."""
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    return [{k: v for k, v in row.items() if k not in ("seconds", "job_dir", "worker")} for row in rows]


def stop_at_a_verdict(real):
    """Return a pruner that sends this process a SIGTERM as it finds a trial hopeless."""

    def call(self, epoch, values):
        said = real(self, epoch, values)
        if said:
            os.kill(os.getpid(), signal.SIGTERM)
        return said

    return call


def start(command, **environment):
    paths = {"PYTHONPATH": str(ROOT), "TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen(
        [sys.executable, *command], env={**os.environ, **paths, **environment}, cwd=ROOT, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def wait_for(process, path):
    """Wait until a file is there; fail with the output if the process ends before."""
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """Return the folder of a random sweep of three trials that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed") / "sweep"
    assert sweep(data, folder, max_trials=3, keep_trials=1) == 0
    return folder


def test_a_sweep_hands_over_what_it_found(data, undisturbed, capsys):
    rows = trials(undisturbed)
    assert [row["status"] for row in rows] == ["done"] * 3
    best = max(rows, key=lambda row: float(row["score"]))
    said = json.loads((undisturbed / "sweep_result.json").read_text())
    assert (said["best_trial"], said["best_score"]) == (best["trial"], float(best["score"]))
    assert [path.parent.name for path in undisturbed.glob("trials/*/checkpoints")] == [best["trial"]]
    assert len(list(undisturbed.glob("trials/*/metrics.jsonl"))) == 3
    assert len(list(undisturbed.glob("trials/*/tensorboard/hparams/*"))) == 3
    assert "<svg" in (undisturbed / "sweep.html").read_text()
    # The best settings train the same model again.
    again = undisturbed.parent / "again"
    with without_report():
        argv = [f"--config={undisturbed / 'best_config.json'}", f"--job_dir={again}"]
        assert cli.run_command(train.main, argv) == 0
    kept = result_of(undisturbed / "trials" / best["trial"])
    assert result_of(again)["weights_sha256"] == kept["weights_sha256"]
    # And a sweep that is done says so, without another trial.
    before = (undisturbed / "oracle.json").read_bytes()
    capsys.readouterr()
    assert sweep(data, undisturbed, max_trials=3, keep_trials=1) == 0
    assert f"best trial {best['trial']}" in capsys.readouterr().out
    assert json.loads(before)["trials"] == json.loads((undisturbed / "oracle.json").read_text())["trials"]


def test_a_sweep_that_is_killed_in_a_trial_goes_on_at_its_step(data, undisturbed, tmp_path):
    folder = tmp_path / "sweep"
    changes = {"max_trials": 3, "keep_trials": 1, "checkpoint_every_steps": 1}
    process = Child("trainer.tune", words(data, folder, **changes))
    wait_for(process, folder / "trials" / "0001" / "checkpoints" / "0000000001" / "COMMIT.json")
    process.kill()
    process.communicate()
    assert (folder / "trials" / "0000" / "trial.json").exists()
    finished = (folder / "trials" / "0000" / "trial.json").read_bytes()
    assert not (folder / "trials" / "0001" / "trial.json").exists()
    assert sweep(data, folder, **changes) == 0
    assert trials(folder) == trials(undisturbed)
    assert (folder / "trials" / "0000" / "trial.json").read_bytes() == finished
    starts = [json.loads(line) for line in (folder / "trials" / "0001" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] >= 1 for line in starts if line["kind"] == "start"] == [False, True]
    for number in range(3):
        weights = [result_of(one / "trials" / f"000{number}")["weights_sha256"] for one in (folder, undisturbed)]
        assert weights[0] == weights[1]


@pytest.mark.thorough
def test_a_sweep_that_is_asked_to_stop_saves_and_goes_on(data, undisturbed, tmp_path):
    folder = tmp_path / "sweep"
    with sigterm_after(3):
        assert sweep(data, folder, max_trials=3) == 75
    assert 3 in checkpoints_of(folder / "trials" / "0000")
    assert sweep(data, folder, max_trials=3) == 0
    assert trials(folder) == trials(undisturbed)


def test_hyperband_continues_the_best_of_a_round(data, tmp_path):
    folder = tmp_path / "sweep"
    assert sweep(data, folder, tuner="hyperband", epochs=3, max_trials=4) == 0
    rows = list(csv.DictReader((folder / "trials.csv").open()))
    assert [row["epochs"] for row in rows] == ["1", "1", "1", "3"]
    best = max(rows[:3], key=lambda row: float(row["score"]))
    assert rows[3]["job_dir"] == best["job_dir"]
    # It ends as a job of three epochs that never was part of a sweep.
    plain = tmp_path / "plain"
    with without_report():
        argv = [f"--config={Path(best['job_dir']) / 'config.json'}", f"--job_dir={plain}"]
        assert cli.run_command(train.main, argv) == 0
    assert result_of(plain)["weights_sha256"] == result_of(best["job_dir"])["weights_sha256"]


def test_failing_trials_are_told_and_the_sweep_goes_on_until_three_are_alike(data, tmp_path, capsys):
    folder = tmp_path / "sweep"
    space = tmp_path / "failing.yaml"
    space.write_text("- {name: learning_rate, kind: choice, values: [1.0e-6, 1.0e-3, 1.0e+30]}\n")
    assert sweep(data, folder, tuner="grid", space=space) == 0
    rows = trials(folder)
    assert [row["status"] for row in rows] == ["failed", "done", "failed"]
    assert "min_learning_rate" in rows[0]["reason"]
    assert "not finite" in rows[2]["reason"]
    space.write_text("- {name: learning_rate, kind: choice, values: [1.0e-6, 2.0e-6, 3.0e-6, 1.0e-3]}\n")
    capsys.readouterr()
    assert sweep(data, tmp_path / "another", tuner="grid", space=space) == 1
    assert "3 trials in a row failed with the same reason" in capsys.readouterr().err
    assert len(trials(tmp_path / "another")) == 3


@pytest.mark.thorough  # What it decides has fast tests in test_pruning.py.
def test_hopeless_trials_are_pruned_and_an_interruption_changes_nothing(data, tmp_path, capsys):
    space = tmp_path / "rates.yaml"
    space.write_text("- {name: learning_rate, kind: choice, values: [1.0e-3, 8.0e-4, 6.0e-4, 1.0e-8]}\n")
    changes = {
        "tuner": "grid", "space": space, "objective": "loss", "prune": "median", "prune_warmup_epochs": 1,
        "min_learning_rate": 1e-9, "augment": "none", "max_failures": 1,
    }  # fmt: skip
    folder, again = tmp_path / "sweep", tmp_path / "again"
    assert sweep(data, folder, max_trials=3, **changes) == 0
    shutil.copytree(folder, again)
    capsys.readouterr()
    assert sweep(data, folder, max_trials=4, **changes) == 0
    rows, table = trials(folder), capsys.readouterr().out
    assert [(row["status"], row["epochs"]) for row in rows] == [("done", "2")] * 3 + [("pruned", "1")]
    assert rows[3]["reason"].startswith("pruned after epoch 1: best loss 0.6")
    assert rows[3]["reason"] in table
    result = result_of(folder / "trials" / "0003")
    assert (result["stopped_by"], result["reason"]) == ("pruned", rows[3]["reason"])
    oracle = json.loads((folder / "oracle.json").read_text())
    assert oracle["trials"][3]["score"] == pytest.approx(float(rows[3]["score"]))
    assert oracle["trials"][3]["status"] == "COMPLETED"
    # Stopped as the verdict falls, and continued: as a job of its own, which has no pruner, and as a sweep.
    with mock.patch.object(pruning.MedianPruner, "__call__", stop_at_a_verdict(pruning.MedianPruner.__call__)):
        assert sweep(data, again, max_trials=4, **changes) == 75
    job = again / "trials" / "0003"
    assert not (job / "result.json").exists()
    with without_report():
        assert cli.run_command(train.main, [f"--config={job / 'config.json'}"]) == 0
    assert sweep(data, again, max_trials=4, **changes) == 0
    assert trials(again) == rows
    assert {**result_of(job), "images_per_second": 0} == {**result, "images_per_second": 0}


@pytest.mark.thorough  # test_hopeless_trials_... in processes of their own, by workers.
def test_workers_prune_isolated_trials_and_a_kill_right_after_a_prune_changes_nothing(data, tmp_path):
    folder = tmp_path / "sweep"
    space = tmp_path / "rates.yaml"
    space.write_text("- {name: learning_rate, kind: choice, values: [1e-3, 9e-4, 8e-4, 7e-4, 1e-8, 2e-8]}\n")
    changes = {
        "tuner": "grid", "space": space, "objective": "loss", "prune": "median", "prune_warmup_epochs": 1,
        "min_learning_rate": 1e-9, "augment": "none", "isolate_trials": "true", "keep_trials": 1,
    }  # fmt: skip
    command = ["scripts/local_cluster.py", "-n", "2", "--sweep", "--", *words(data, folder, **changes)]
    process = start(command)
    while not any('"pruned"' in path.read_text() for path in folder.glob("trials/*/result.json")):
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.02)
    process.kill()  # Between result.json and trial.json, or soon after.
    process.communicate()
    known = {path: path.read_bytes() for path in folder.glob("trials/*/trial.json")}
    assert len(known) >= 3
    pruned = {path: path.read_bytes() for path in folder.glob("trials/*/result.json") if '"pruned"' in path.read_text()}
    process = start(command)
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert {path: path.read_bytes() for path in [*known, *pruned]} == {**known, **pruned}
    rows = trials(folder)
    assert [row["status"] for row in rows[:3] + rows[4:]] == ["done"] * 3 + ["pruned"] * 2
    assert all(row["reason"].startswith("pruned after epoch 1: best loss 0.") for row in rows[4:])
    assert [path.parent.name for path in folder.glob("trials/*/checkpoints")] == [
        min(rows, key=lambda row: float(row["score"]))["trial"]
    ]


@pytest.mark.thorough
def test_the_best_settings_are_trained_again_with_other_seeds_once_and_the_end_is_told_once(data, tmp_path):
    folder = tmp_path / "sweep"
    with mailbox.serve(mailbox.Http) as server:
        url = f"http://127.0.0.1:{server.port}/services-T00-B00"
        changes = {"max_trials": 1, "epochs": 1, "retrain_best": 2, "notify": url}
        require_retrained(data, folder, changes)
    (notice,) = map(json.loads, server.received)  # Of the sweep alone: not of its trials, and not of the second start.
    assert (notice["state"], notice["job_dir"]) == ("done", str(folder))
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert not [path for path in files if b"services-T00-B00" in path.read_bytes()]


def require_retrained(data, folder, changes):
    assert sweep(data, folder, **changes) == 0
    said = json.loads((folder / "retrain.json").read_text())
    jobs = sorted((folder / "retrain").iterdir())
    assert [json.loads((job / "config.json").read_text())["seed"] for job in jobs] == said["seeds"] == [1, 2]
    scores = [result_of(job)["validation"]["auc"] for job in jobs]
    assert said["Validation"]["auc"]["mean"] == pytest.approx(sum(scores) / 2)
    assert said["Validation"]["auc"]["std"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
    assert "Test" not in said  # Nothing was exported.
    before = [(job / "metrics.jsonl").read_bytes() for job in jobs]
    assert sweep(data, folder, **changes) == 0
    assert [(job / "metrics.jsonl").read_bytes() for job in jobs] == before


@pytest.mark.thorough
def test_isolated_trials_give_the_same_and_stop_as_well(data, undisturbed, tmp_path):
    folder = tmp_path / "sweep"
    argv = [*words(data, folder, max_trials=3, keep_trials=1), "--isolate_trials"]
    process = start(["-m", "trainer.tune", *argv])
    wait_for(process, folder / "trials" / "0000" / "lock")
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 75, output
    assert cli.run_command(tune.main, argv) == 0
    assert trials(folder) == trials(undisturbed)


def test_a_chief_and_two_workers_that_are_killed_end_with_the_same_trials(data, undisturbed, tmp_path):
    folder = tmp_path / "sweep"
    changes = {"max_trials": 3, "keep_trials": 1, "checkpoint_every_steps": 1}
    argv = words(data, folder, **changes)
    killed = [Child("trainer.tune", argv, environment) for environment in local_cluster.sweep_environments(2).values()]
    wait_for(killed[0], folder / "trials" / "0001" / "checkpoints" / "0000000001" / "COMMIT.json")
    for process in killed:
        process.kill()
    for process in killed:
        process.communicate()
    process = start(["scripts/local_cluster.py", "-n", "2", "--sweep", "--", *argv])
    output, _ = process.communicate(timeout=400)
    assert process.returncode == 0, output
    assert "exit codes: chief: 0, worker 0: 0, worker 1: 0" in output
    assert trials(folder) == trials(undisturbed)


@pytest.mark.thorough
def test_random_kills_of_chief_and_workers_change_nothing():
    """A short run of the script that anyone can run for longer; docs/measured/sweeps.md keeps its table."""
    process = start(["scripts/chaos_sweep.py", "--max_trials=4", "--image_size=48", "--images=40", "--epochs=1"])
    output, _ = process.communicate()
    assert process.returncode == 0, output
    assert output.count("identical") == 4
    assert all(f"| {name} |" in output for name in ("chief", "worker 0", "worker 1"))


FULL_DISK = """
import subprocess, sys
from trainer import tune
from trainer.core import cli
disk, out, *words = sys.argv[1:]
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=True)
print(cli.run_command(tune.main, words), file=open(f"{out}/codes", "a"))
subprocess.run(["mount", "-o", "remount,size=99m", disk], check=True)
print(cli.run_command(tune.main, words), file=open(f"{out}/codes", "a"))
subprocess.run(["cp", f"{disk}/sweep/trials.csv", out], check=True)
"""


@pytest.mark.thorough  # A sweep of its own; test_faults.py has a job's full disk.
def test_a_full_disk_ends_the_sweep_in_one_line_and_costs_no_trial(data, undisturbed, tmp_path):
    """On a real tmpfs that holds no checkpoint, in a mount namespace of its own; then with room."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("this machine allows no mount namespace")
    disk = tmp_path / "disk"
    disk.mkdir()
    argv = [*words(data, disk / "sweep", max_trials=1, keep_trials=1), f"--space={tmp_path / 'space.yaml'}"]
    (tmp_path / "space.yaml").write_text(SPACE)
    done = subprocess.run(
        ["unshare", "-rm", sys.executable, "-c", FULL_DISK, str(disk), str(tmp_path), *argv], cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "codes").read_text().split() == ["1", "0"], done.stderr
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("failed: ")]
    assert "the disk is full" in line
    assert "No space left" in line
    assert "Traceback" not in done.stderr
    assert trials(tmp_path) == trials(undisturbed)[:1]


def test_a_taken_port_is_one_line(data, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        oracle = {"IP": "127.0.0.1", "PORT": str(taken.getsockname()[1])}
        variables = {f"KERASTUNER_ORACLE_{name}": value for name, value in oracle.items()}
        process = start(
            ["-m", "trainer.tune", *words(data, tmp_path / "sweep")], **variables, KERASTUNER_TUNER_ID="chief"
        )
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 2, output
    assert [line for line in output.splitlines() if "expected a free address" in line], output
