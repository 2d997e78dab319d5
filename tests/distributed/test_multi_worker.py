"""Training jobs of several real processes on one machine: they agree, count every image once, and end together.

Starting TensorFlow takes longer than training here, so there are few runs with many assertions each.
"""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers.children import Child
from tests.helpers.images import write_image_set
from tests.helpers.jobs import checkpoints_of, lines_of, result_of, values_of
from trainer.core.starts import record

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

import local_cluster
from multi_worker import pause_in_save

pytestmark = pytest.mark.slow

JOB = {
    "image_size": 64, "batch_size": 32, "steps_per_epoch": 9, "model": "cnn_bn", "dropout": 0.3,
    "precision": "float32", "export": "none", "epochs": 3, "max_bad_fraction": 0.5, "plateau_patience": 1,
    "peer_timeout_seconds": 20,
}  # fmt: skip


class Run:
    """The processes of one job, and their output."""

    def __init__(self, data, job_dir, workers, **changes):
        flags = {**JOB, "data_dir": data, "job_dir": job_dir, **changes}
        environments = local_cluster.environments(workers) if workers > 1 else [{}]
        words = [f"--{name}={value}" for name, value in flags.items()]
        self.processes = [Child("trainer.train", words, environment) for environment in environments]
        self.job_dir = Path(job_dir)

    def wait(self, without=None):
        """Return exit codes and logs by worker, each with stdout behind it; ``without`` is killed at the end."""
        codes = [process.wait(300) if index != without else None for index, process in enumerate(self.processes)]
        if without is not None:
            self.processes[without].kill()
            codes[without] = self.processes[without].wait(20)
        return codes, ["".join(process.communicate()[::-1]) for process in self.processes]

    def until(self, condition):
        """Wait until a condition holds; all processes must stay alive."""
        while not condition():
            assert all(process.poll() is None for process in self.processes), self.wait()
            time.sleep(0.02)


def finished(data, job_dir, workers, **changes):
    codes, texts = Run(data, job_dir, workers, **changes).wait()
    assert codes == [0] * len(codes), texts
    return texts


def without_place(lines):
    return sorted(json.dumps(line, sort_keys=True) for line in lines)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return 52 train and 15 validation images a class, of which two and one are broken."""
    root = tmp_path_factory.mktemp("images")
    write_image_set(root, train=52, validation=15, test=0)
    for name in ("Train/Fake/00007.jpg", "Train/Real/00031.jpg", "Validation/Real/00014.jpg"):
        (root / name).write_bytes(b"no image")
    return root


@pytest.fixture(scope="module")
def alone(data, tmp_path_factory):
    """Return the job_dir of an undisturbed process with two devices."""
    job_dir = tmp_path_factory.mktemp("alone")
    finished(data, job_dir, 1, num_devices=2)
    return job_dir


def assert_same_job(one, two):
    assert result_of(two)["weights_sha256"] == result_of(one)["weights_sha256"]
    assert values_of(two) == values_of(one)
    assert result_of(two)["validation"] == result_of(one)["validation"]
    assert result_of(two)["skipped"] == result_of(one)["skipped"] == {"Train": 2, "Validation": 1}
    skipped = [[json.loads(line) for line in (job / "skipped.jsonl").read_text().splitlines()] for job in (one, two)]
    assert without_place(skipped[0]) == without_place(skipped[1])


@pytest.mark.parametrize(("workers", "devices"), [(2, 1), pytest.param(2, 2, marks=pytest.mark.thorough)])
def test_topologies_agree_to_the_last_bit(data, alone, tmp_path, workers, devices):
    job = tmp_path / "job"
    export = "best" if devices == 1 else "none"
    # Nor do several steps in a call, or other processes that decode, change anything.
    texts = finished(data, job, workers, num_devices=devices, export=export, steps_per_execution=4, decode_processes=2)
    assert_same_job(alone, job)
    assert result_of(job)["num_devices"] == workers * devices
    (start,) = lines_of(job, "start")
    assert start["num_devices"] == workers * devices
    extra = {"export"} if export == "best" else set()
    assert {path.name for path in job.iterdir()} == {path.name for path in alone.iterdir()} | extra
    assert list(result_of(job)["exports"]) == sorted(extra & {"export"} and {"best"})
    assert "epoch 3/3" in texts[0]
    assert "epoch 3/3" not in texts[1]


@pytest.mark.thorough
def test_features_of_a_frozen_backbone_are_shared_out_and_gathered(data, tmp_path):
    changes = {"freeze_backbone_epochs": 2}
    finished(data, tmp_path / "alone", 1, num_devices=2, **changes)
    texts = finished(data, tmp_path / "two", 2, **changes)
    assert_same_job(tmp_path / "alone", tmp_path / "two")
    assert all("256 features of each of 104 images of Train" in text for text in texts)


@pytest.mark.thorough
def test_float16_and_fewer_validation_images_than_workers(tmp_path):
    data = write_image_set(tmp_path / "data", train=25, validation=1, test=0)
    changes = {"precision": "mixed_float16", "image_size": 46, "epochs": 2, "max_bad_fraction": 0.05}
    finished(data, tmp_path / "1x2", 1, num_devices=2, **changes)
    finished(data, tmp_path / "4x1", 4, **changes)
    assert result_of(tmp_path / "4x1")["weights_sha256"] == result_of(tmp_path / "1x2")["weights_sha256"]
    assert values_of(tmp_path / "4x1") == values_of(tmp_path / "1x2")
    assert lines_of(tmp_path / "4x1", "train")[0]["loss_scale"] == 2**15
    assert result_of(tmp_path / "4x1")["images"]["Validation"] == {"Fake": 1, "Real": 1}


def test_kills_in_the_middle_of_a_save_a_stop_of_one_and_another_number_of_devices_lose_nothing(data, alone, tmp_path):
    job = tmp_path / "job"
    run = Run(data, job, 2, checkpoint_every_steps=2)
    run.until(lambda: len(checkpoints_of(job)) > 0)
    saving = pause_in_save(run.processes[0], job)
    run.processes[1].kill()
    run.processes[0].send_signal(signal.SIGCONT)
    codes, texts = run.wait()
    assert codes == [75, -signal.SIGKILL]
    assert "stopped: lost worker 1 (127.0.0.1:" in texts[0]
    assert "Traceback" not in texts[0]
    assert saving in checkpoints_of(job)  # The chief finished it before it ended.
    ends = {start.process: start.end for start in record.read(str(job), 9)}
    assert ends["worker-1"] is None
    assert ends["worker-0"].code == 75
    assert ends["worker-0"].words.startswith("lost worker 1 (127.0.0.1:")

    run = Run(data, job, 2, checkpoint_every_steps=2)
    run.until(lambda: checkpoints_of(job)[-1] > saving)
    saving = pause_in_save(run.processes[0], job)
    run.processes[0].kill()
    codes, texts = run.wait()
    assert codes == [-signal.SIGKILL, 75]
    assert "stopped: lost chief, worker 0 (127.0.0.1:" in texts[1]
    assert saving not in checkpoints_of(job)

    run = Run(data, job, 2, checkpoint_every_steps=2)
    begun = len((job / "metrics.jsonl").read_text().splitlines())
    run.until(lambda: len((job / "metrics.jsonl").read_text().splitlines()) > begun + 3)
    run.processes[1].send_signal(signal.SIGTERM)
    codes, texts = run.wait()
    assert codes == [75, 75], texts
    assert f"{saving:010d} was never finished: skipped" in texts[0]
    assert "SIGTERM of worker 1: saving step" in texts[0]
    saved = [next(line for line in text.splitlines() if "saving step" in line).split(";")[0] for text in texts]
    assert saved[0] == saved[1]
    assert checkpoints_of(job)[-1] == int(saved[0].split()[-1])

    finished(data, job, 1, num_devices=1)
    assert_same_job(alone, job)


@pytest.mark.parametrize("victim", [0, pytest.param(1, marks=pytest.mark.thorough)])
def test_a_process_that_hangs_is_named(data, tmp_path, victim):
    run = Run(data, tmp_path / "job", 2, checkpoint_every_steps=1, peer_timeout_seconds=6, epochs=50)
    run.until(lambda: len(checkpoints_of(tmp_path / "job")) > 1)
    run.processes[victim].send_signal(signal.SIGSTOP)
    codes, texts = run.wait(without=victim)
    assert codes[1 - victim] == 75
    assert f"{victim} (127.0.0.1:" in texts[1 - victim].splitlines()[-1]
    assert "silent for" in texts[1 - victim]


@pytest.mark.thorough
def test_all_go_back_alike_after_a_divergence_and_pass_over_a_damaged_checkpoint(data, tmp_path):
    wild = {"model": "cnn", "optimizer": "sgd", "lr_schedule": "constant", "dropout": 0.0, "learning_rate": 16.0,
            "on_divergence": "rollback", "checkpoint_every_steps": 1, "epochs": 1}  # fmt: skip
    codes, texts = Run(data, tmp_path / "wild", 2, **wild).wait()
    assert codes == [1, 1]  # Too wild for five halvings: both give up at the same point, too.
    ends = [[line.split("; ")[-1] for line in text.splitlines() if "; back to step" in line] for text in texts]
    assert len(ends[0]) == 5
    assert ends[0] == ends[1]

    job = tmp_path / "job"
    finished(data, job, 2, epochs=1, checkpoint_every_steps=4)
    newest, before = checkpoints_of(job)[-1], checkpoints_of(job)[-2]
    arrays = job / "checkpoints" / f"{newest:010d}" / "arrays.npz"
    content = bytearray(arrays.read_bytes())
    content[len(content) // 2] ^= 1
    arrays.write_bytes(content)
    texts = finished(data, job, 2, epochs=2, checkpoint_every_steps=4)
    assert f"{newest:010d} is damaged" in texts[0]
    for text in texts:
        assert f"continuing from step {before} " in text


def test_other_data_and_a_job_dir_of_its_own_are_refused(data, tmp_path):
    words = [f"--{name}={value}" for name, value in JOB.items()]

    def started(jobs, sets):
        processes = [
            Child("trainer.train", [*words, f"--job_dir={job}", f"--data_dir={images}"], environment)
            for environment, job, images in zip(local_cluster.environments(2), jobs, sets, strict=True)
        ]
        return [(process.communicate()[1], process.returncode) for process in processes]

    other = write_image_set(tmp_path / "other", train=9, validation=3, test=0)
    for text, code in started([tmp_path / "job"] * 2, [data, other]):
        assert code == 2, text
        assert "received different train images (chief: " in text
    for text, code in started([tmp_path / "job", tmp_path / "own"], [data, data]):
        assert code == 2, text
        assert "job_dir must be a folder that all processes share" in text


def test_the_launcher_prefixes_logs_passes_stops_on_and_tells_the_worst_code(data, tmp_path):
    words = [f"--{name}={value}" for name, value in {**JOB, "epochs": 500}.items()]
    command = [sys.executable, local_cluster.__file__, "-n", "2", "--", f"--data_dir={data}",
               f"--job_dir={tmp_path / 'job'}", *words]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    lines = []
    for line in process.stdout:
        lines.append(line)
        if "epoch 1/500" in line:
            process.send_signal(signal.SIGINT)
    assert process.wait(60) == 75, lines
    assert lines[-1] == "exit codes: worker 0: 75, worker 1: 75\n"
    assert any(line.startswith("[worker 1] ") and "devices: 2 x CPU" in line for line in lines)
    wrong = subprocess.run(
        [sys.executable, local_cluster.__file__, "-n", "2", "--", "--data_dir=x", "--epochz=1"], capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert wrong.returncode == 2
    assert "[worker 1] error: expected a known flag, received --epochz" in wrong.stdout
