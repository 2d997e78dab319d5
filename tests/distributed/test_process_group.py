"""Real processes that connect, agree and lose each other; without TensorFlow, so that each test takes seconds."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.core import config
from trainer.core.errors import StoppedEarly
from trainer.distributed import cluster, rendezvous

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import local_cluster  # noqa: E402

# A worker: joins, then evaluates each of its expressions and prints the value as a line of JSON.
WORKER = """
import json, sys, time
from trainer.core import cli, config, errors
from trainer.distributed import cluster, consistency, process_group
from trainer.distributed.step_barrier import Event

def work(words):
    changes = json.loads(words[0])
    settings = config.from_flat({"data_dir": "D", "job_dir": "J", "peer_timeout_seconds": 2.0, **changes})
    with process_group.join(cluster.from_environment(), settings) as group:
        for word in words[1:]:
            print(json.dumps(eval(word, {**globals(), "group": group})), flush=True)
    return 0

def polls(group, count, wish_at=None, kind="stop"):
    events = []
    for number in range(1, count + 1):
        time.sleep(0.002 * (1 + group.index))
        event = group.poll(Event(kind, f"of {group.index}") if wish_at and number >= wish_at else None)
        if event:
            events.append([number, event.kind, event.reason])
            if kind == "stop":
                break
    return events

def limited(group, seconds):
    with group.time_limit(0.5, "the collective is stuck"):
        time.sleep(seconds)

def fail(kind):
    raise getattr(errors, kind)("on purpose")

sys.exit(cli.run_command(work, sys.argv[1:]))
"""


def start(workers, *scripts, settings=None, start_only=None):
    """Start workers; ``scripts[i]`` are the expressions of worker i, the last ones of all further workers."""
    environments = local_cluster.environments(workers)
    processes = []
    for index, environment in enumerate(environments):
        if start_only is not None and index not in start_only:
            continue
        changes = (settings or {}).get(index, (settings or {}).get("all", {}))
        words = [json.dumps(changes), *scripts[min(index, len(scripts) - 1)]]
        processes.append(
            subprocess.Popen(
                [sys.executable, "-c", WORKER, *words],
                cwd=ROOT,
                env={**os.environ, **environment},
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
    return processes


def finish(processes, timeout=60):
    """Return exit code, printed values and stderr of each."""
    ended = []
    for process in processes:
        out, err = process.communicate(timeout=timeout)
        ended.append((process.returncode, [json.loads(line) for line in out.splitlines()], err))
    return ended


def test_values_are_gathered_and_broadcast_in_order():
    words = [
        "group.gather(group.index * 10)",
        "group.broadcast(['of', group.index])",
        "group.gather({'n': group.index})",
    ]
    for code, values, _ in finish(start(3, words)):
        assert code == 0
        assert values == [[0, 10, 20], ["of", 0], [{"n": 0}, {"n": 1}, {"n": 2}]]


@pytest.mark.parametrize("who", [pytest.param(0, marks=pytest.mark.slow), 2])
def test_all_act_on_an_event_at_the_same_poll_which_none_has_passed(who):
    scripts = [[f"polls(group, 400, {20 if index == who else None})"] for index in range(3)]
    points = []
    for code, values, _ in finish(start(3, *scripts)):
        assert code == 0
        ((event,),) = values
        assert event[1:] == ["stop", f"of {who}"]
        points.append(event[0])
    assert len(set(points)) == 1
    assert 20 <= points[0] < 400


@pytest.mark.slow
def test_requests_of_all_at_once_are_one_event():
    for _, values, _ in finish(start(3, ["polls(group, 50, 10)"])):
        assert values == [[[10, "stop", values[0][0][2]]]]


def test_different_flags_are_refused_at_once_and_named():
    settings = {0: {}, 1: {"learning_rate": 0.5, "seed": 3}, 2: {"job_dir": "elsewhere"}}
    for code, values, err in finish(start(3, ["1"], settings=settings)):
        assert (code, values) == (2, [])
        assert "--learning_rate (chief: 0.001, worker 1: 0.5); --seed (chief: 0, worker 1: 3)" in err
        assert "job_dir" not in err
        assert "Traceback" not in err


@pytest.mark.slow
def test_one_that_never_comes_is_named():
    settings = {"all": {"startup_timeout_seconds": 3.0}}
    for code, _, err in finish(start(3, ["1"], settings=settings, start_only={0, 1})):
        assert code == 75
        assert "worker 2 (127.0.0.1:" in err
        assert "did not come within 3 s (--startup_timeout_seconds)" in err
    ((code, _, err),) = finish(start(2, ["1"], settings=settings, start_only={1}))
    assert code == 75
    assert "chief, worker 0 (127.0.0.1:" in err


@pytest.mark.slow
def test_a_worker_that_died_while_it_waited_may_come_again():
    environments = local_cluster.environments(3)
    command = [sys.executable, "-c", WORKER, "{}", "group.gather(group.index)"]

    def one(index):
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environments[index]}, **pipes)

    chief, first = one(0), one(1)
    time.sleep(2)
    first.kill()
    first.communicate()
    time.sleep(1)
    for code, values, _ in finish([chief, one(1), one(2)]):
        assert (code, values) == (0, [[0, 1, 2]])


@pytest.mark.parametrize(
    ("number", "victim", "in_pod"),
    [
        ("SIGKILL", 2, False),
        pytest.param("SIGKILL", 0, True, marks=pytest.mark.slow),
        *(pytest.param("SIGSTOP", victim, False, marks=pytest.mark.slow) for victim in (1, 0)),
    ],
)
def test_a_lost_process_is_named_and_ends_all_others(monkeypatch, number, victim, in_pod):
    if in_pod:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    processes = start(3, ["group.gather(0)", "time.sleep(100)"])
    for process in processes:
        assert process.stdout.readline() == "[0, 0, 0]\n"
    began = time.monotonic()
    processes[victim].send_signal(signal.Signals[number])
    others = [process for process in processes if process is not processes[victim]]
    for process in others:
        _, err = process.communicate(timeout=30)
        assert process.returncode == (76 if in_pod else 75)
        assert f"lost {'worker' if victim else 'chief, worker'} {victim} (127.0.0.1:" in err
        assert ("silent" if number == "SIGSTOP" else "connection closed") in err
    assert time.monotonic() - began < 100
    processes[victim].kill()
    processes[victim].communicate()


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "code"), [("RequestError", 2), ("JobFailed", 1), ("StoppedEarly", 75)])
def test_all_end_as_the_first_one_does(kind, code):
    ended = finish(start(3, ["time.sleep(100)"], [f"fail('{kind}')"], ["time.sleep(100)"]))
    assert [one[0] for one in ended] == [code] * 3
    for index in (0, 2):
        assert "worker 1 (127.0.0.1:" in ended[index][2]
        assert f"ended with code {code}: on purpose" in ended[index][2]


@pytest.mark.slow
def test_a_block_with_a_time_limit_ends_all_if_it_is_stuck():
    ended = finish(start(2, ["time.sleep(100)"], ["limited(group, 0)", "time.sleep(1)", "limited(group, 100)"]))
    assert ended[1][1] == [None, None]  # A block that ends in time ends nobody.
    assert [one[0] for one in ended] == [75, 75]
    assert "stopped: the collective is stuck" in ended[1][2]
    assert "worker 1 (127.0.0.1:" in ended[0][2]
    assert "ended with code 75: the collective is stuck" in ended[0][2]


@pytest.mark.slow
def test_a_difference_is_refused_on_all():
    same = "consistency.require_same(group, {'images': 'a', 'size': group.index // 2}, 'repair it')"
    for code, _, err in finish(start(3, [same])):
        assert code == 2
        assert "expected the same on all processes, received different size (chief: 0, worker 2: 1); repair it" in err


@pytest.mark.slow
def test_after_training_the_chief_continues_without_the_others():
    chief = ["group.gather(0)", "group.mark_training_done()", "time.sleep(3)", "group.broadcast(7)"]
    worker = ["group.gather(0)", "group.mark_training_done()", "group.broadcast(0)"]
    processes = start(2, chief, worker)
    assert processes[1].stdout.readline() == "[0, 0]\n"
    processes[1].kill()
    code, values, err = finish(processes)[0]
    assert (code, values[-1]) == (0, 7)
    assert "training is done, so this process continues" in err


@pytest.mark.slow
def test_a_stranger_on_the_port_is_refused():
    environments = local_cluster.environments(2)
    command = [sys.executable, "-c", WORKER, "{}", "group.gather(group.index)"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    chief = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environments[0]}, **pipes)
    port = int(environments[0]["DEEPDETECT_PEER_PORT"])
    for content in (b"GET / HTTP/1.1\r\n\r\n", b"\x00\x00\x00\x02[]"):
        while True:
            try:
                stranger = socket.create_connection(("127.0.0.1", port))
                break
            except OSError:
                time.sleep(0.1)
        with stranger:
            stranger.sendall(content)
    worker = subprocess.Popen(command, cwd=ROOT, env={**os.environ, **environments[1]}, **pipes)
    ended = finish([chief, worker])
    assert [one[:2] for one in ended] == [(0, [[0, 1]])] * 2
    assert ended[0][2].count("sent away 2 connections to port ") == 1


def test_a_port_that_is_taken(monkeypatch):
    monkeypatch.setattr(rendezvous, "_BIND_SECONDS", 0.0)
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        pair = cluster.Cluster((f"127.0.0.1:{port}", "127.0.0.1:1"), 0, 1, "TF_CONFIG")
        with pytest.raises(StoppedEarly, match=f"expected port {port} of this machine to be free"):
            rendezvous.meet(pair, rendezvous.facts_of(config.Config()), 1.0)
