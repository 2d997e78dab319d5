"""Runs on Slurm's real daemons: exit codes decide about the queue, and a requeued run ends as an undisturbed one."""

import json
import re
import time

import pytest

from tests.helpers import jobs, slurm
from tests.helpers.commands import refusal
from tests.helpers.k8s_schemas import require_golden
from tests.helpers.kube_objects import submit
from trainer.submit import command
from trainer.submit.slurm import records, tools

ON = "--platform=slurm"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a folder for the runs of one test; their records lie below it, too."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    (tmp_path / "faces").mkdir()
    return tmp_path


@pytest.fixture(scope="module")
def daemons(tmp_path_factory):
    """Run Slurm for this module."""
    slurm.require_installed()
    folder = tmp_path_factory.mktemp("slurm")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
        patch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
        with slurm.cluster(folder):
            yield


def words_of(place, name="first", *more, data=None):
    return ["run", ON, f"--name={name}", f"--data_dir={data or place / 'faces'}", f"--job_dir={place / name}", *more]


def dry_run(place, *words, capsys):
    """Return the batch script."""
    cut = words.index("--") if "--" in words else len(words)
    assert submit(*words_of(place, "first", *words[:cut], "--dry_run", *words[cut:])) == 0
    return capsys.readouterr().out


def wait_for(what, value, seconds=60.0):
    """Wait until a function returns a true value, and return it."""
    end = time.monotonic() + seconds
    while not (got := value()):
        assert time.monotonic() < end, f"no {what}"
        time.sleep(0.1)
    return got


def listed(capsys):
    """Return what list says, by name."""
    capsys.readouterr()
    assert submit("list", ON, "-o", "json") == 0
    return {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}


def state(name, capsys):
    return listed(capsys)[name]["state"]


# Without Slurm.


def test_the_batch_script(place, capsys):
    words = ["--workers=2", "--gpus=8", "--cpus=16", "--memory=64Gi", "--queue=gpu", "--priority=high",
             "--max_hours=12", "--env=NOTE=a b", "--setup=module load cuda", "--sbatch=--account=lab -C a100",
             "--python=/opt/py/bin/python",
             "--train_images=140000", "--", "--batch_size=256"]  # fmt: skip
    text = dry_run(place, *words, capsys=capsys).replace(str(place), "/shared")
    require_golden("submit/slurm.sbatch", re.sub(r"--chdir=.*", "--chdir=/work", text))
    sweep = dry_run(place, "--sweep_workers=3", "--container=faces.sif", "--", "--max_trials=9", capsys=capsys)
    assert "#SBATCH --array=0-2\n" in sweep
    assert f"slurm.sweep_task {place}/first/slurm --data_dir=" in sweep
    assert "apptainer exec --nv faces.sif python -m trainer" in sweep
    assert '[ $SLURM_ARRAY_TASK_ID = 0 ] && scancel --quiet "${SLURM_ARRAY_JOB_ID}_[1-2]"' in sweep


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--image=a:1"], "expected --image on Kubernetes alone"),
        (["--spot"], "expected --spot on Kubernetes alone, received it with --platform=slurm; choose a partition"),
        (["--gcsfuse"], "expected --gcsfuse on Kubernetes alone"),
        (["--volume=a:/mnt"], "expected --volume on Kubernetes alone"),
        (["--gpu=l4:4"], "expected --gpu on Kubernetes alone"),
        (["--notify=https://a"], "give it after --, or set DEEPDETECT_NOTIFY"),
        (["--env_from_secret=a"], "expected --env_from_secret on Kubernetes alone"),
        (["--dry_run=server"], "received --dry_run=server"),
        (["--job_dir=gs://bucket/j"], "expected --log_dir, a folder that login and compute nodes share"),
        (["--sbatch=--comment='x"], "--sbatch: expected options of sbatch"),
        (["--queue=a b"], "--queue: expected one line"),
        (["--name=A"], "--name: expected a small letter"),
        (["--setup=a\nb"], "--setup: expected one line"),
        (["--data_dir=/absent/faces"], "'/absent/faces', which does not exist"),
        (["--", "--epochz=3"], "did you mean 'epochs'?"),
    ],
)
def test_refusals_need_no_slurm(words, says, place, capsys, monkeypatch):
    (place / "sbatch").symlink_to("/bin/true")
    monkeypatch.setenv("PATH", str(place))
    assert says in refusal(capsys, command.main, *words_of(place, "first", *words))


def test_without_slurm_its_commands_are_named(place, capsys, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert "expected Slurm's commands, received no sbatch" in refusal(capsys, command.main, *words_of(place))
    assert not records.read_all()  # The name is free again.
    assert "has no record" in refusal(capsys, command.main, "status", "first", ON)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", "/absent")
        line = refusal(capsys, command.main, "run", "--name=a", "--image=a:1", "--data_dir=gs://bucket/d",
                       "--job_dir=gs://bucket/j", "--setup=x")  # fmt: skip
    assert "expected --setup with --platform=slurm alone" in line


# On Slurm.


def fake_trainer(place, name, text):
    """Return the flags of a run whose Python is a shell script."""
    path = place / f"{name}.sh"
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)
    return words_of(place, name, f"--python={path}", "--nofollow")


def is_over(name, capsys):
    return state(name, capsys) in ("done", "failed", "cancelled") and listed(capsys)[name]


SAVES = "trap 'echo saved >> {0}/saved; exit 75' TERM; [ -e {0}/up ] && exit 0; touch {0}/up; sleep 60 & wait"


@pytest.mark.slow
def test_the_exit_code_decides_whether_a_run_waits_again(daemons, place, capsys):
    scripts = {
        "code0": 'echo "received $*"',
        "code1": "exit 1",
        "code2": "exit 2",
        "code75": f"[ $SLURM_RESTART_COUNT ] || exit 75; echo $SLURM_RESTART_COUNT > {place}/restarts",
        "code76": "[ $SLURM_RESTART_COUNT ] || exit 76",
        # Of two workers, the one that no restart can help counts, not its peer that lost it.
        "pair": "[ $SLURM_PROCID = 0 ] && exit 2; exit 76",
    }
    for name, text in scripts.items():
        more = ["--workers=2", "--sbatch=--nodes=1 --ntasks-per-node=2"] if name == "pair" else []
        assert submit(*fake_trainer(place, name, text), *more, "--", "--epochs=3") == 0
    ends = {name: wait_for(f"end of {name}", lambda name=name: is_over(name, capsys)) for name in scripts}
    assert {name: (end["state"], end["detail"]) for name, end in ends.items()} == {
        "code0": ("done", ""), "code1": ("failed", "exit code 1"), "code2": ("failed", "exit code 2"),
        "code75": ("done", ""), "code76": ("done", ""), "pair": ("failed", "exit code 2"),
    }  # fmt: skip
    assert (place / "restarts").read_text() == "1\n"
    assert submit("logs", "code2", "-f", ON) == 2
    assert submit("logs", "code0", "-f", ON) == 0
    out = capsys.readouterr().out
    assert f"received -m trainer.train --data_dir={place}/faces --job_dir={place}/code0 --epochs=3" in out
    assert "code2: failed, exit code 2" in out
    # Slurm forgets jobs after a while, and this one has no accounting: the batch script's word remains.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools, "queue", lambda: iter(()))
        assert [listed(capsys)[name]["state"] for name in ("code0", "code2")] == ["done", "failed"]
        records.update(records.Record(**{**vars(records.read("code2")), "end": ""}))
        assert listed(capsys)["code2"]["detail"] == "exit code 2"


@pytest.mark.slow
def test_cancel_and_requeue_let_the_trainer_save(daemons, place, capsys):
    for name in ("cancelled", "requeued"):
        (place / name).mkdir()
        assert submit(*fake_trainer(place, name, SAVES.format(place / name)), "--cpus=1") == 0
        wait_for(f"start of {name}", (place / name / "up").exists)
    assert submit(*fake_trainer(place, "wide", ""), "--cpus=4", "--max_hours=1") == 0  # Waits for the others' CPUs.
    capsys.readouterr()
    assert submit("status", "requeued", ON) == 0
    out = capsys.readouterr().out
    assert re.search(r"requeued +running .*\njob \d+: RUNNING \(localhost\)\nlog /.*requeued-\d+\.log", out)
    assert "expected one that no live run uses" in refusal(
        capsys, command.main, *words_of(place, "third"), f"--job_dir={place}/requeued"
    )
    waiting = listed(capsys)["wide"]
    assert (waiting["state"], waiting["gpus"]) == ("queued", 1)
    assert waiting["detail"] in ("Resources", "Priority", "None")
    assert submit("cancel", "cancelled", ON) == 0
    slurm.call("scontrol", "requeue", records.read("requeued").job)
    for name in ("cancelled", "requeued"):
        wait_for(f"checkpoint of {name}", (place / name / "saved").exists)
    assert wait_for("end of the other", lambda: is_over("requeued", capsys))["state"] == "done"
    assert wait_for("end of the third", lambda: is_over("wide", capsys))["state"] == "done"
    assert state("cancelled", capsys) == "cancelled"  # After the time in which the other one started again.
    assert submit("resume", "cancelled", ON, "--cpus=2", "--", "--epochs=7") == 0  # The file "up" lets it end.
    again = records.read("cancelled-r2")
    assert (again.run["job_dir"], again.run["cpus"], again.trainer[-1]) == (f"{place}/cancelled", 2.0, "--epochs=7")
    assert submit("cancel", "cancelled", "--forget", ON) == 0
    assert "cancelled" not in listed(capsys)
    assert submit(*words_of(place, "fourth", "--queue=absent")) == 2
    assert re.search("expected a run that Slurm takes, received from sbatch: .*invalid partition",
                     capsys.readouterr().err)  # fmt: skip
    assert "fourth" not in listed(capsys)


def real_job(place, image_set, name, *more, **changes):
    """Return the words of a run that trains."""
    cut = more.index("--") if "--" in more else len(more)
    trainer = jobs.argv(image_set, place, epochs=4, **changes)[2:]
    return [*words_of(place, name, data=image_set), "--env=DEEPDETECT_GPUS=0,TF_CPP_MIN_LOG_LEVEL=3", "--nofollow",
            *more[:cut], "--", *trainer, *more[cut + 1:]]  # fmt: skip


def interrupt(place, name):
    """Send a run's trainer SIGTERM in the middle, as Slurm does before the end of the time."""
    metrics = place / name / "metrics.jsonl"
    wait_for("step", lambda: metrics.exists() and '"train"' in metrics.read_text())
    slurm.call("scancel", "--signal=TERM", records.read(name).job)


@pytest.mark.slow
def test_a_run_that_is_stopped_in_the_middle_ends_as_an_undisturbed_one(daemons, place, image_set, capsys):
    assert submit(*real_job(place, image_set, "first")) == 0
    interrupt(place, "first")
    assert jobs.run_job(image_set, place / "local", epochs=4) == 0  # Meanwhile.
    assert submit("logs", "first", "-f", ON) == 0
    out = capsys.readouterr().out
    assert "exit code 75, everything is saved: the run waits in the queue again" in out
    first, local = jobs.result_of(place / "first"), jobs.result_of(place / "local")
    assert first["weights_sha256"] == local["weights_sha256"]
    assert len(jobs.lines_of(place / "first", "start")) == 2
    entry = listed(capsys)["first"]
    assert (entry["state"], entry["step"], entry["starts"]) == ("done", first["step"], 2)


@pytest.mark.thorough
def test_two_workers_by_srun_are_stopped_and_continue(daemons, place, image_set, capsys):
    words = real_job(place, image_set, "pair", "--workers=2", "--sbatch=--nodes=1 --ntasks-per-node=2")
    assert submit(*words) == 0
    interrupt(place, "pair")
    assert jobs.run_job(image_set, place / "local", epochs=4) == 0
    assert submit("logs", "pair", "-f", ON) == 0
    assert jobs.result_of(place / "pair")["weights_sha256"] == jobs.result_of(place / "local")["weights_sha256"]
    assert len(jobs.lines_of(place / "pair", "start")) == 2


@pytest.mark.thorough
def test_a_sweeps_tasks_find_the_chief_and_continue(daemons, place, image_set, capsys):
    words = real_job(place, image_set, "sweep", "--sweep_workers=2", "--", "--max_trials=4")
    assert submit(*words) == 0
    job = records.read("sweep").job
    wait_for("trial", lambda: list((place / "sweep").glob("trials/*/metrics.jsonl")))
    slurm.call("scancel", "--signal=TERM", f"{job}_0")  # The chief and its worker.
    assert submit("logs", "sweep", "-f", ON) == 0
    out = capsys.readouterr().out
    assert "[0] exit code 75" in out
    assert json.loads((place / "sweep" / "sweep_result.json").read_text())
    entry = listed(capsys)["sweep"]
    assert (entry["state"], entry["trials"], entry["max_trials"]) == ("done", 4, 4)
