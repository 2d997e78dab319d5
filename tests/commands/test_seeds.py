"""``trainer.train --seeds``: one job for each seed, which resume and are told with mean and spread."""

import dataclasses
import json
import math
import re
import shutil
import signal
import statistics
import time
from pathlib import Path

import pytest

from tests.helpers.children import Child
from tests.helpers.commands import refusal
from tests.helpers.images import write_image_set
from tests.helpers.jobs import argv, lines_of, result_of
from tests.helpers.tiny_export import write_export, write_image
from trainer import train, tune
from trainer.commands.demo import summary as demo_summary
from trainer.core import errors, result
from trainer.core.config import from_flat
from trainer.distributed.cluster import Cluster
from trainer.reports import seeds as page
from trainer.sweep import seeds, spread

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_image_set(tmp_path_factory.mktemp("images"), train=12, validation=6, test=6)


JOB = {"epochs": 1, "batch_size": 12, "checkpoint_every_steps": 1, "seed": 3, "seeds": 2}


def start(data, folder, **changes):
    words = argv(data, folder, **{**JOB, **changes})
    return Child("trainer.train", words, report=True)


@pytest.mark.slow
def test_seeds_resume_and_are_told_with_their_spread(data, tmp_path, capsys):
    folder = tmp_path / "job"
    process = start(data, folder)
    while not (folder / "seed-4" / "lock").exists():  # The first seed is done.
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    done = (folder / "seed-3" / "metrics.jsonl").read_bytes()
    assert json.loads((folder / "seeds.json").read_text())["status"] == "running"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 75, err
    assert "stopped: " in err
    assert not (folder / "seed-4" / "result.json").exists()

    process = start(data, folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert (folder / "seed-3" / "metrics.jsonl").read_bytes() == done
    assert [line["step"] for line in lines_of(folder / "seed-4", "train")] == [1, 2]
    content = json.loads((folder / "seeds.json").read_text())
    assert (content["status"], content["seeds"]) == ("done", [3, 4])
    results = [result_of(folder / f"seed-{seed}") for seed in (3, 4)]
    assert results[0]["weights_sha256"] != results[1]["weights_sha256"]
    losses = [result["validation"]["loss"] for result in results]
    summary = content["Validation"]["loss"]
    assert summary == {
        "mean": statistics.fmean(losses), "std": statistics.stdev(losses), "min": min(losses), "max": max(losses),
        "n": 2,
    }  # fmt: skip
    assert re.search(rf"^mean +{summary['mean']:.4f}", out, re.MULTILINE)
    assert re.search(rf"^4 +{losses[1]:.4f}", out, re.MULTILINE)
    report = (folder / "report" / "index.html").read_text()
    for link in re.findall(r'href="(\.\./[^"]+)"', report):
        assert (folder / "report" / link).resolve().exists(), link
    assert f"{summary['std']:.4f}" in report
    demo = demo_summary.summary(tmp_path)
    accuracy = content["Validation"]["accuracy"]
    assert "{mean:.4f} +- {std:.4f} ({min:.4f}..{max:.4f})".format(**accuracy) in demo


@pytest.mark.slow
def test_each_export_is_scored_once_on_test(tmp_path, capsys):
    job, data = tmp_path / "seed-5", tmp_path / "data"
    for name, red in (("Fake", 200), ("Real", 90)):
        write_image(data / "Test" / name / "0.png", (red, 40, 60))
    config = from_flat({"data_dir": str(data), "job_dir": str(job), "seed": 5})
    write_export(job / "export" / "best" / "120", ["Fake", "Real"], threshold=0.5)
    outcome = outcome_of(threshold=0.5)
    figures = spread.on_test(config, outcome)
    loss = -math.log(200 / 255 * 165 / 255) / 2
    assert figures == {"loss": pytest.approx(loss, rel=1e-4), "accuracy": 1.0, "auc": 1.0}
    assert spread.on_test(config, outcome) == figures
    assert capsys.readouterr().out.count("Test: 2 images") == 1
    shutil.rmtree(job / "export")  # More epochs, or another rule, have made another one.
    write_export(job / "export" / "best" / "120", ["Fake", "Real"], threshold=0.9)
    assert spread.on_test(config, outcome_of(threshold=0.9)) == figures | {"accuracy": 0.5}
    assert spread.on_test(config, dataclasses.replace(outcome, exports={})) == {}
    text = page.render("J", group(tmp_path / "job", entry(5, 0.75, Test=figures))[1])
    assert 'href="../seed-5/test/report.html"' in text
    assert "Test AUC" in text


def outcome_of(threshold):
    """Return the result of a job whose best step is 120."""
    empty = {field.name: {} for field in dataclasses.fields(result.Result)}
    return result.Result(**{**empty, "best_step": 120, "exports": {"best": "E"}, "thresholds": {"best": threshold}})


def group(folder, *jobs):
    """Return what seeds.json holds after these seeds."""
    config = from_flat({"data_dir": "D", "job_dir": str(folder), "seeds": len(jobs), "seed": 5})
    folder.mkdir(exist_ok=True)
    return config, seeds._write(config, seeds.SeedPaths(str(folder)), jobs, "done")


def entry(seed, auc, **more):
    return {"seed": seed, "job_dir": "J", "status": "done", "reason": "", "learned": True, "learned_because": "",
            "Validation": {"loss": 0.5, "accuracy": 0.75} | ({} if auc is None else {"auc": auc}), **more}  # fmt: skip


def test_the_spread_of_what_is_known(tmp_path):
    failed = {"seed": 7, "job_dir": "J", "status": "failed", "reason": "out of <memory>"}
    _, content = group(tmp_path / "job", entry(5, 0.75), entry(6, 0.25, learned=False), failed, entry(8, None))
    assert content["Validation"]["auc"] == pytest.approx({"mean": 0.5, "std": 0.125**0.5, "min": 0.25, "max": 0.75,
                                                          "n": 2})  # fmt: skip
    assert content["Validation"]["loss"]["n"] == 3
    assert "Test" not in content
    lines = [line.split() for line in page.as_text(content).splitlines()]
    assert lines[:2] == [["Validation"], ["seed", "loss", "accuracy", "AUC"]]
    lines = lines[2:]
    assert lines[0] == ["5", "0.5000", "0.7500", "0.7500"]
    assert lines[2:5] == [["7", "-", "-", "-"], ["8", "0.5000", "0.7500", "-"], ["mean", "0.5000", "0.7500", "0.5000"]]
    text = page.render("J", content)
    assert "1 of 4 seeds learned nothing: 6;" in text
    assert "out of &lt;memory&gt;" in text
    assert "Validation AUC 0.500, from 0.250 to 0.750" in text
    assert spread.of_splits({"Validation": [{"auc": 0.5}]})["Validation"]["auc"]["std"] == 0.0


def test_the_table_fits_a_terminal_of_80_columns(tmp_path):
    test = {"loss": 12.25, "accuracy": 0.5, "auc": 0.625}
    largest = 2**32 - 1
    text = page.as_text(group(tmp_path / "job", entry(5, 0.75, Test=test), entry(largest, 0.25, Test=test))[1])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["Validation", "Test"]
    assert lines[1].split() == ["seed", *["loss", "accuracy", "AUC"] * 2]
    assert lines[3].split() == ["4294967295", "0.5000", "0.7500", "0.2500", "12.2500", "0.5000", "0.6250"]
    ends = [[match.end() for match in re.finditer(r"\S+", line)][1:] for line in lines[1:]]
    assert all(each == ends[0] for each in ends)  # Columns stand below each other.
    assert lines[0].index("Test") > ends[0][2] - 1  # Above the figures of its own.


def test_a_table_without_any_figure(tmp_path):
    failed = {"seed": 5, "job_dir": "J", "status": "failed", "reason": "killed"}
    _, content = group(tmp_path / "job", failed)
    assert page.as_text(content).split() == ["seed", "5"]
    assert "killed" in page.render("J", content)


def test_a_failed_seed_fails_the_group_and_is_named(tmp_path):
    failed = {"seed": 7, "job_dir": "J", "status": "failed", "reason": "killed"}
    config, content = group(tmp_path / "job", entry(5, 0.75), failed)
    with pytest.raises(errors.JobFailed, match="1 of 2 seeds failed: seed 7: killed"):
        seeds._refuse_failures(content, seeds.SeedPaths(config.loop.job_dir))


def test_groups_jobs_and_sweeps_are_kept_out_of_each_others_folder(data, tmp_path, capsys):
    job = tmp_path / "job"
    job.mkdir()
    words = [f"--data_dir={data}", f"--job_dir={job}"]
    for kept, command, more, said in (
        ("config.json", train.main, ["--seeds=2"], "holds a single job"),
        ("sweep.json", train.main, ["--seeds=2"], "holds a sweep"),
        ("seeds.json", train.main, [], "holds jobs of several seeds; give --seeds again"),
        ("seeds.json", tune.main, [], "holds a job of trainer.train"),
    ):
        path = job / kept
        path.write_text("{}")
        assert said in refusal(capsys, command, *words, *more)
        assert sorted(one.name for one in job.iterdir() if one.name != "lock") == [kept]
        path.unlink()


def test_wrong_requests_are_one_line_and_write_nothing(data, tmp_path, capsys):
    job = tmp_path / "job"
    assert "--seeds: expected a number at least 1" in refusal(capsys, train.main, *argv(data, job, seeds=0))
    assert "absent" in refusal(capsys, train.main, *argv(tmp_path / "absent", job, seeds=2))
    assert "--resume=required" in refusal(capsys, train.main, *argv(data, job, seeds=2, resume="required"))
    assert "--seed: expected" in refusal(capsys, train.main, *argv(data, job, seeds=2, seed=2**31 - 1))
    assert not job.exists() or [path.name for path in job.iterdir()] == ["lock"]
    config = from_flat({"data_dir": data, "job_dir": str(job), "seeds": 2})
    with pytest.raises(errors.RequestError, match="received a cluster of 2"):
        seeds.run(config, Cluster(addresses=("a:1", "b:1"), worker_index=0, source="TF_CONFIG"))


def test_never_starts_a_group_over_once(tmp_path):
    config, _ = group(tmp_path / "job", entry(5, 0.75))
    paths = seeds.SeedPaths(config.loop.job_dir)
    never = config.replace(resume="never")
    assert not seeds._is_begun(never, paths)  # Another request, and done.
    seeds._write(never, paths, [], "failed")
    assert seeds._is_begun(never, paths)  # Unfinished: a scheduler repeats it.
    seeds._write(never, paths, [], "done")
    assert not seeds._is_begun(never, paths)
    Path(paths.group).write_text('{"status"')
    assert not seeds._is_begun(never, paths)


def test_the_time_limit_is_for_all_seeds(tmp_path):
    job = from_flat({"data_dir": "D", "job_dir": "J", "max_seconds": 100.0})
    assert 39.0 < seeds._within(job, time.monotonic() - 60.0).loop.max_seconds <= 40.0
    with pytest.raises(errors.StoppedEarly, match="max_seconds"):
        seeds._within(job, time.monotonic() - 101.0)
    unlimited = job.replace(max_seconds=0.0)
    assert seeds._within(unlimited, time.monotonic() - 101.0) == unlimited
