"""The parts of a sweep that need no training: requests, oracles that are killed, records, disk, importance."""

import dataclasses
import json
import socket
from pathlib import Path

import keras_tuner as kt
import numpy as np
import pytest

from tests.helpers import browser
from tests.helpers.images import write_image_set
from trainer import train, tune
from trainer.core import cli, errors
from trainer.core.config import from_flat
from trainer.core.job_dir import JobPaths
from trainer.core.signals import StopRequest
from trainer.core.storage import lock
from trainer.sweep import importance, oracles, records, trial
from trainer.sweep import report as sweep_report
from trainer.sweep import request as request_lib
from trainer.sweep import run as sweep_run
from trainer.sweep.records import Record
from trainer.sweep.request import Request, SweepConfig
from trainer.sweep.space import from_entries

SPACE = from_entries(
    [
        {"name": "learning_rate", "kind": "float", "range": [1e-4, 1e-2], "log": True},
        {"name": "lr_schedule", "kind": "choice", "values": ["plateau", "constant"]},
        {"name": "plateau_factor", "kind": "float", "range": [0.1, 0.5], "condition": {"lr_schedule": ["plateau"]}},
        {"name": "batch_size", "kind": "int", "range": [8, 64]},
    ]
)


def request(tmp_path, epochs=9, **sweep):
    base = from_flat({"data_dir": "D", "job_dir": str(tmp_path), "epochs": epochs})
    return Request(SweepConfig(**sweep), base, SPACE)


def bound(wanted, on_end=lambda trial: None):
    oracle = oracles.make(wanted)
    oracle.bind(wanted, on_end)
    return oracle


def score(values):
    return float(np.float32(-abs(np.log10(values["learning_rate"]) + 3) - values.get("plateau_factor", 0.4)))


def end(oracle, chosen, status="COMPLETED"):
    if status == "COMPLETED":
        oracle.update_trial(chosen.trial_id, {"auc": score(chosen.hyperparameters.values)}, step=1)
    chosen.status = status
    oracle.end_trial(chosen)


def course(wanted, killed):
    """Return (id, values, score) of all trials; with ``killed`` every step is done by a new oracle."""
    oracle = bound(wanted)
    while True:
        chosen = oracle.create_trial("tuner0")
        if chosen.status == "STOPPED":
            break
        if killed:
            oracle = bound(wanted)
            again = oracle.create_trial("tuner0")
            assert again.hyperparameters.values == chosen.hyperparameters.values
            chosen = again
        end(oracle, chosen)
        if killed:
            oracle = bound(wanted)
    return [(one.trial_id, one.hyperparameters.values, one.score) for one in oracle.trials.values()]


BAYESIAN = pytest.param("bayesian", 5, marks=pytest.mark.slow)  # Seconds for each Gaussian process.


@pytest.mark.parametrize(("tuner", "trials"), [("random", 8), BAYESIAN, ("hyperband", 18), ("grid", 36)])
def test_a_sweep_that_is_killed_at_every_step_is_the_undisturbed_one(tmp_path, tuner, trials):
    limit = 0 if tuner == "grid" else trials
    undisturbed = course(request(tmp_path / "a", tuner=tuner, max_trials=limit), killed=False)
    assert len(undisturbed) == trials
    assert course(request(tmp_path / "b", tuner=tuner, max_trials=limit), killed=True) == undisturbed
    assert [one[0] for one in undisturbed] == [f"{number:04d}" for number in range(trials)]


@pytest.mark.parametrize("tuner", ["random", "hyperband", "grid"])
@pytest.mark.parametrize("switch", [{"kind": "bool"}, {"kind": "bool", "values": [True]},
                                    {"kind": "choice", "values": [True, False]}])  # fmt: skip
def test_switches_stay_switches_also_on_the_wire(tmp_path, tuner, switch):
    entries = [
        {"name": "xla", **switch},
        {"name": "dropout", "kind": "choice", "values": [0, 0.5]},
        {"name": "model", "kind": "choice", "values": ["cnn", "cnn_bn"], "condition": {"xla": [True]}},
    ]
    wanted = request(tmp_path, tuner=tuner, max_trials=3)
    wanted = Request(wanted.sweep, wanted.base, from_entries(entries))
    oracle = bound(wanted)
    for number in range(3):
        chosen = oracle.create_trial(f"worker{number}")
        values = oracles.values_of(kt.engine.trial.Trial.from_proto(chosen.to_proto()))
        assert values == oracles.values_of(chosen)
        config = wanted.trial(values, "J")
        assert (type(config.runtime.xla), "model" in values) == (bool, config.runtime.xla)


def test_of_a_grid_that_is_too_large_the_first_trials_can_be_had(tmp_path):
    names = ("dropout", "learning_rate", "plateau_factor")
    wide = [{"name": name, "kind": "float", "range": [0.1, 0.5], "points": 1000} for name in names]
    wanted = request(tmp_path, tuner="grid", max_trials=2)
    wanted = Request(wanted.sweep, wanted.base, from_entries(wide))
    assert wanted.expected_trials == 2
    assert [values["plateau_factor"] for _, values, _ in course(wanted, killed=False)] == [0.1, 0.1004]


def test_another_seed_makes_another_sweep_and_zero_is_a_seed(tmp_path):
    first = course(request(tmp_path / "a", max_trials=3), killed=False)
    assert course(request(tmp_path / "b", max_trials=3), killed=False) == first
    other = request(tmp_path / "c", max_trials=3)
    assert course(Request(other.sweep, other.base.replace(seed=1), SPACE), killed=False) != first


def test_more_trials_continue_a_finished_sweep(tmp_path):
    few = course(request(tmp_path, max_trials=3), killed=False)
    more = course(request(tmp_path, max_trials=12), killed=False)
    assert more[:3] == few
    assert len(more) == 12
    assert bound(request(tmp_path, max_trials=12)).is_over()
    assert not bound(request(tmp_path, max_trials=13)).is_over()


def test_hyperband_says_which_trials_may_go_on(tmp_path):
    oracle = bound(request(tmp_path, tuner="hyperband"))
    first = [oracle.create_trial("tuner0")]
    while True:
        end(oracle, first[-1])
        following = oracle.create_trial("tuner0")
        if "tuner/trial_id" in following.hyperparameters.values:
            break
        first.append(following)
    best = max(first, key=lambda one: score(one.hyperparameters.values))
    assert following.hyperparameters.values["tuner/trial_id"] == best.trial_id
    assert {one.trial_id for one in first} | {following.trial_id} == oracle.needed()
    while "tuner/trial_id" in following.hyperparameters.values:
        end(oracle, following)
        following = oracle.create_trial("tuner0")
    # The next bracket has begun: nothing of the first one is continued any more.
    assert not {one.trial_id for one in first} & oracle.needed()


def test_failed_trials_alike_end_the_sweep_and_others_do_not(tmp_path):
    wanted = request(tmp_path, max_trials=30)
    oracle = bound(wanted)

    def fail(kinds):
        for kind in kinds:
            chosen = oracle.create_trial("tuner0")
            assert chosen.status == "RUNNING"
            end(oracle, chosen, "FAILED" if kind else "COMPLETED")
            oracle.note_failure(kind)

    fail(["a", "a", "b", "a", "a", "", "a", "a"])
    assert not oracle.given_up
    fail(["a"])
    assert oracle.given_up == "a"
    assert oracle.create_trial("tuner0").status == "STOPPED"
    assert bound(wanted).create_trial("tuner0").status == "RUNNING"  # Started again, it tries again.


def test_a_worker_gets_its_own_trial_back_and_a_lost_one_is_taken_over(tmp_path):
    wanted = request(tmp_path, max_trials=2)
    oracle = bound(wanted)
    mine, other = oracle.create_trial("worker0"), oracle.create_trial("worker1")
    oracle = bound(wanted)
    assert oracle.create_trial("worker1").trial_id == other.trial_id
    end(oracle, oracle.trials[other.trial_id])
    assert oracle.create_trial("worker1").status == "IDLE"  # worker0 may still come.
    oracle.heard[mine.trial_id] -= 1000
    assert oracle.create_trial("worker1").trial_id == mine.trial_id
    end(oracle, oracle.trials[mine.trial_id])
    assert oracle.create_trial("worker0").status == oracle.create_trial("worker1").status == "STOPPED"
    assert not oracle.tuner_ids


def test_an_end_that_is_reported_twice_counts_once(tmp_path):
    ended = []
    oracle = bound(request(tmp_path, max_trials=2), ended.append)
    chosen = oracle.create_trial("worker0")
    for _ in range(2):
        end(oracle, chosen)
    assert oracle.end_order == ["0000"]
    assert len(ended) == 1


def test_a_damaged_state_is_refused_in_one_line(tmp_path):
    course(request(tmp_path, max_trials=2), killed=False)
    (tmp_path / "oracle.json").write_text('{"oracle": ')
    with pytest.raises(errors.RequestError, match="sweep's state"):
        bound(request(tmp_path, max_trials=2))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--objective=f1"], "--objective"),
        (["--tuner=genetic"], "--tuner"),
        (["--max_trial=3"], "did you mean 'max_trials'?"),
        (["--keep_trials=0"], "--keep_trials: expected a number at least 1"),
        (["--space={space}", "--learning_rate=0.1"], "expected --learning_rate as a flag or in --space"),
        (["--tuner=hyperband", "--lr_schedule=cosine"], "expected lr_schedule plateau or constant"),
        (["--tuner=hyperband", "--space={epochs}"], "hyperband sets it"),
        (["--tuner=grid", "--space={many}"], "expected at most 100000 combinations, received 1000000000"),
        (["--space={absent}"], "expected a readable YAML or JSON file"),
        (["--max_seconds=5"], "stop a sweep by a signal"),
        (["--seeds=2"], "use --retrain_best"),
        (["--tuner=hyperband", "--prune=median"], "expected no --prune, as it stops bad trials early itself"),
        (["--prune=median", "--epochs=2"], "--prune_warmup_epochs: expected fewer than --epochs (2)"),
        (["--prune=mean"], "--prune: expected one of none, median"),
        (["--data_dir="], "expected --data_dir"),
        (["words"], "expected only flags"),
        ([], "absent"),  # data_dir is not there.
    ],
)
def test_a_wrong_request_is_one_line_and_writes_nothing(tmp_path, capsys, words, said):
    places = {name: str(tmp_path / f"{name}.yaml") for name in ("space", "epochs", "many", "absent")}
    Path(places["space"]).write_text("- {name: learning_rate, kind: float, range: [0.1, 0.2]}")
    Path(places["epochs"]).write_text("- {name: epochs, kind: int, range: [1, 2]}")
    wide = ("learning_rate", "dropout", "min_learning_rate")
    entries = [f"- {{name: {name}, kind: float, range: [1e-4, 1e-3], points: 1000}}" for name in wide]
    Path(places["many"]).write_text("\n".join(entries))
    words = [f"--data_dir={tmp_path / 'absent'}", f"--job_dir={tmp_path / 'job'}", *words]
    assert cli.run_command(tune.main, [word.format(**places) for word in words]) == errors.EXIT_REQUEST
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line
    assert not (tmp_path / "job").exists()


def test_flags_win_over_the_built_in_space_and_decide_the_rest(tmp_path):
    words = ["--data_dir=D", "--job_dir=J", "--optimizer=sgd", "--objective=val_loss", "--seed=3"]
    parsed = request_lib.parse(words)
    assert "optimizer" not in [one.name for one in parsed.space]
    (tmp_path / "base.yaml").write_text("description: a base\noptimizer: sgd\nseed: 3\nmonitor: auto\n")
    assert request_lib.parse([*words[:2], *words[3:4], f"--config={tmp_path / 'base.yaml'}"]) == parsed
    assert request_lib.parse([*words, "--monitor=auto"]) == parsed
    assert (parsed.base.optim.optimizer, parsed.base.loop.monitor, parsed.maximizes) == ("sgd", "val_loss", False)
    config = parsed.trial({"learning_rate": 0.01}, "J/trials/0000")
    assert (config.loop.seed, config.optim.learning_rate, config.loop.job_dir) == (3, 0.01, "J/trials/0000")
    with pytest.raises(errors.RequestError, match="min_learning_rate"):
        parsed.trial({"learning_rate": 1e-7}, "J/trials/0000")


def test_another_sweep_in_the_same_folder_is_refused_by_name(tmp_path):
    request(tmp_path, tuner="grid", max_trials=3).write()
    request(tmp_path, tuner="grid", max_trials=9, keep_trials=1).refuse_another()
    kept = json.loads((tmp_path / "sweep.json").read_text())
    del kept["sweep"]["prune"]  # As a version without it wrote it.
    (tmp_path / "sweep.json").write_text(json.dumps(kept))
    request(tmp_path, tuner="grid", max_trials=3).refuse_another()
    for other, said in (
        (request(tmp_path, tuner="random"), r"--tuner \(was grid, now random\)"),
        (request(tmp_path, tuner="grid", prune="median"), r"--prune \(was none, now median\)"),
        (request(tmp_path, tuner="grid", epochs=3), r"--epochs \(was 9, now 3\)"),
        (Request(SweepConfig(tuner="grid"), request(tmp_path).base, SPACE[:1]), "search space"),
        (Request(SweepConfig(tuner="grid"), request(tmp_path).base.replace(seed=7), SPACE), r"--seed \(was 0, now 7\)"),
    ):
        with pytest.raises(errors.RequestError, match=said):
            other.refuse_another()


def test_a_sweep_and_a_job_are_kept_out_of_each_others_folder(tmp_path, capsys):
    data = write_image_set(tmp_path / "data", train=2, validation=2, test=0, size=48)
    words = [f"--data_dir={data}", f"--job_dir={tmp_path / 'job'}"]
    (tmp_path / "job").mkdir()
    for kept, command, said in (("config.json", tune.main, "a job of trainer.train"),
                                ("sweep.json", train.main, "a sweep of trainer.tune")):  # fmt: skip
        path = tmp_path / "job" / kept
        path.write_text("{}")
        assert cli.run_command(command, words) == errors.EXIT_REQUEST
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: --job_dir: expected the folder of a")
        assert said in line
        assert sorted(one.name for one in (tmp_path / "job").iterdir() if one.name != "lock") == [kept]
        path.unlink()


def test_never_in_a_repeated_command_starts_a_sweep_over_once(tmp_path):
    def start(*words):
        asked = request_lib.parse([f"--data_dir={tmp_path}", f"--job_dir={tmp_path / 'j'}", "--max_trials=2", *words])
        sweep_run._prepare_folder(asked, JobPaths(asked.base.loop.job_dir))
        (tmp_path / "j" / "oracle.json").touch()
        return len(list((tmp_path / "j").glob("before-*")))

    assert start() == 0
    assert [start("--resume=never") for _ in range(3)] == [1, 1, 1]
    assert start("--resume=never", "--max_trials=3") == 2
    (tmp_path / "j" / "sweep_result.json").touch()
    assert start("--resume=never", "--max_trials=3") == 3
    (tmp_path / "j" / "sweep.json").write_text("torn")
    assert start("--resume=never", "--max_trials=3") == 4


def test_a_request_that_is_none_any_more_is_refused_in_one_line(tmp_path):
    for text in ("", "3", '{"sweep": {}}'):
        (tmp_path / "sweep.json").write_text(text)
        with pytest.raises(errors.RequestError, match=r"expected .*sweep\.json' to hold the request of a sweep"):
            request(tmp_path).refuse_another()


@pytest.mark.parametrize(
    ("environment", "role"),
    [
        ({}, "alone"),
        ({"IP": "127.0.0.1", "PORT": "9", "ID": "the-chief"}, "chief"),
        ({"IP": "127.0.0.1", "PORT": "9", "ID": "worker0"}, "worker"),
        ({"IP": "127.0.0.1", "PORT": "9"}, None),
        ({"IP": "127.0.0.1", "PORT": "x", "ID": "worker0"}, None),
    ],
)
def test_the_role_comes_from_the_environment(environment, role):
    names = {"IP": "KERASTUNER_ORACLE_IP", "PORT": "KERASTUNER_ORACLE_PORT", "ID": "KERASTUNER_TUNER_ID"}
    given = {names[key]: value for key, value in environment.items()}
    if role:
        assert sweep_run.role_of(given) == role
    else:
        with pytest.raises(errors.RequestError, match="KERASTUNER_"):
            sweep_run.role_of(given)


def test_a_worker_refuses_another_sweep_than_its_chiefs_and_a_folder_of_its_own(tmp_path, monkeypatch, capsys):
    data = write_image_set(tmp_path / "data", train=2, validation=2, test=0, size=48)
    with socket.create_server(("127.0.0.1", 0)) as chief:  # Nothing is asked of it but whether it is there.
        for name, value in (("IP", "127.0.0.1"), ("PORT", str(chief.getsockname()[1]))):
            monkeypatch.setenv(f"KERASTUNER_ORACLE_{name}", value)
        monkeypatch.setenv("KERASTUNER_TUNER_ID", "worker0")
        words = [f"--data_dir={data}", f"--job_dir={tmp_path / 'job'}"]
        for epochs, said in (("3", "folder that chief and workers share"), ("4", "--epochs (was 3, now 4)")):
            assert cli.run_command(tune.main, [*words, f"--epochs={epochs}"]) == errors.EXIT_REQUEST
            assert said in capsys.readouterr().err.splitlines()[-1]
            request_lib.parse([*words, "--epochs=3"]).write()


@pytest.mark.parametrize(
    ("code", "lines", "said"),
    [
        (-9, ["step"], "killed (SIGKILL)"),
        (137, [], "killed (SIGKILL)"),
        (1, ["tensorflow...ResourceExhaustedError: OOM when allocating tensor", "at"], "out of memory: tensorflow"),
        (1, ["failed: the loss is not finite at step 9"], "the loss is not finite at step 9"),
        (2, ["error: expected a batch_size"], "expected a batch_size"),
        (-11, ["last words"], "crashed (SIGSEGV): last words"),
        (3, [], "crashed (exit code 3)"),
    ],
)
def test_the_end_of_a_trials_process_is_named(code, lines, said):
    assert trial.reason_of(code, lines).startswith(said)
    counted = trial.reason_of(code, lines, oom_kills=1)
    assert ("host memory; give it more (submit.py run --memory)" in counted) == (code in (-9, 137))


@pytest.mark.slow  # A process.
def test_an_isolated_trial_that_cannot_go_on_now_stops_the_sweep_with_its_own_words(tmp_path):
    data = write_image_set(tmp_path / "data", train=2, validation=2, test=0, size=48)
    config = from_flat({"data_dir": data, "job_dir": str(tmp_path / "job")})
    (tmp_path / "job").mkdir()
    live = lock.hold(JobPaths(config.loop.job_dir))
    with live, pytest.raises(errors.StoppedEarly, match=r"^expected '.*' to be free"):
        trial.run_apart(config, StopRequest())


def test_a_full_disk_is_no_trials_failure():
    for word in ("OSError: [Errno 28] No space left on device: 'x'", "[Errno 122] Disk quota exceeded"):
        with pytest.raises(errors.JobFailed, match="the disk is full"):
            trial.refuse_full_disk(["step 3", word])
    trial.refuse_full_disk(["failed: the loss is not finite"])


def ended(number, score, job=None, **settings):
    name = f"{number:04d}"
    status, reason = (records.DONE, "") if score is not None else (records.FAILED, "no luck at step 3")
    values = {"learning_rate": 1e-3, "lr_schedule": "constant", "batch_size": 8, **settings}
    return Record(trial=name, job=job or name, settings=values, status=status, reason=reason, score=score)


def test_only_the_best_trials_and_those_that_are_needed_keep_their_weights(tmp_path):
    wanted = request(tmp_path, keep_trials=2)
    known = [ended(0, 0.5), ended(1, 0.9), ended(2, None), ended(3, 0.7), ended(4, 0.95, job="0001"), ended(5, 0.6)]
    for record in known:
        record.write(wanted.paths)
        for part in ("checkpoints/0000000001", "export/best/1", "report"):
            folder = tmp_path / "trials" / record.job / part
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "big").write_bytes(b"0" * 1000)
        (tmp_path / "trials" / record.job / "metrics.jsonl").write_text("{}")
    records.prune(wanted, records.read_all(wanted.paths), needed={"0005"})
    assert {path.parent.name for path in (tmp_path / "trials").glob("*/checkpoints")} == {"0001", "0003", "0005"}
    assert {path.parent.name for path in (tmp_path / "trials").glob("*/export")} == {"0001", "0003", "0005"}
    assert len(list((tmp_path / "trials").glob("*/metrics.jsonl"))) == 5
    assert records.read_all(wanted.paths) == known


def test_of_equal_scores_the_earlier_is_better_and_losses_fall():
    known = [ended(0, 0.5), ended(1, 0.7), ended(2, None), ended(3, 0.7)]
    assert [one.trial for one in records.by_score(known, maximizes=True)] == ["0001", "0003", "0000"]
    assert [one.trial for one in records.by_score(known, maximizes=False)] == ["0000", "0001", "0003"]


@pytest.mark.slow
def test_importance_finds_the_setting_that_decides_and_says_what_is_unsure():
    random = np.random.default_rng(0)
    known = []
    for number in range(40):
        rate, batch = 10 ** random.uniform(-4, -2), int(random.integers(8, 64))
        known.append(ended(number, 0.9 - abs(np.log10(rate) + 3) / 5, learning_rate=rate, batch_size=batch))
    found = {one.name: one for one in importance.importances(SPACE, known)}
    assert next(iter(found)) == "learning_rate"
    assert found["learning_rate"].low > 0.2
    assert found["batch_size"].low <= 0.02
    assert found["lr_schedule"].median == 0.0  # It never varied.
    assert importance.importances(SPACE, known[:7]) == []
    assert importance.importances(SPACE, [ended(n, 0.5) for n in range(20)]) == []


@pytest.mark.slow
def test_the_page_and_the_table_tell_every_trial(tmp_path):
    wanted = request(tmp_path, max_trials=12)
    random = np.random.default_rng(1)
    known = [ended(number, None if number == 4 else float(random.uniform())) for number in range(12)]
    known[7] = dataclasses.replace(known[7], status=records.PRUNED, reason="pruned after epoch 2", epochs=2)
    sweep_report.write(wanted, known)
    records.write_table(wanted, known)
    text = (tmp_path / "sweep.html").read_text()
    assert text.count("<svg") == 6  # Course, settings, importance, three slices; no trial has a learning curve here.
    assert "no luck at step 3" in text
    assert "pruned after epoch 2" in text
    assert "12 trials by random: 10 done, 1 pruned, 1 failed." in text
    rows = (tmp_path / "trials.csv").read_text().splitlines()
    assert len(rows) == 13
    assert rows[8].startswith("0007,pruned,0.")
    sweep_report.write(wanted, [])  # Before the first trial has ended.


def test_the_page_says_why_trials_failed_what_was_searched_and_nothing_of_many_where_there_is_one(tmp_path):
    wanted = request(tmp_path, max_trials=3)
    sweep_report.write(wanted, [ended(0, None), ended(2, None)])
    text = (tmp_path / "sweep.html").read_text()
    assert "2 trials by random: 0 done, 0 pruned, 2 failed." in text
    assert "Failed (0000, 0002): no luck at step 3" in text
    assert "<svg" not in text
    sweep_report.write(wanted, [ended(0, 0.5)])
    text = (tmp_path / "sweep.html").read_text()
    assert "1 trial by random: 1 done, 0 pruned, 0 failed." in text
    assert text.count("<svg") == 1  # No parallel coordinates of one line.
    assert "best of many" not in text
    varied, same = text.split("The same in all trials")
    assert "0.0001 to 0.01, by its logarithm" in varied
    assert "0.1 to 0.5; if lr_schedule is plateau" in varied
    assert "<code>batch_size</code>" not in same
    assert "<code>image_size</code>" in same


@pytest.mark.slow
@pytest.mark.skipif(not browser.CHROMIUM, reason="Chromium is not installed")
def test_the_page_in_a_browser(tmp_path):
    wanted = request(tmp_path, max_trials=24)
    known = [ended(number, None if number == 4 else 0.5 + number / 100, batch_size=8 + number) for number in range(24)]
    known[4] = dataclasses.replace(known[4], reason="out of memory: " + "/job:localhost/replica:0/device:GPU:0" * 5)
    known[7] = dataclasses.replace(known[7], status=records.PRUNED, reason="pruned after epoch 2: " + "words " * 20)
    known[8] = dataclasses.replace(known[8], seconds=3.0, ended="2026-01-02T03:04:05+00:00", worker="w" * 90)
    sweep_report.write(wanted, known)
    for width, dark in ((360, True), (1200, False)):
        seen = browser.look(tmp_path / "sweep.html", tmp_path, width=width, dark=dark)
        assert (seen["width"], seen["page"], seen["wide"]) == (width, width, [])  # Nothing is cut off.
        assert (seen["errors"], seen["loaded"], seen["broken"]) == ([], [], [])


def test_reasons_that_differ_in_numbers_are_one_kind():
    assert records.kind_of("not finite at step 7 (1.5e-3)") == records.kind_of("not finite at step 12 (2)")
    assert records.kind_of("out of memory") != records.kind_of("killed")


def test_the_kept_request_is_readable(tmp_path):
    wanted = request(tmp_path)
    wanted.write()
    assert json.loads((tmp_path / "sweep.json").read_text())["space"][0]["name"] == "learning_rate"
