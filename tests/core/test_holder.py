"""What a start knows about the holder of a lock before it waits: real processes, and pods by what they would write."""

import os
import signal
import subprocess

import pytest

from trainer.core.storage import holder


@pytest.fixture
def own(monkeypatch):
    """Return what this process writes as a pod of a node."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("DEEPDETECT_POD_UID", "uid-1")
    return holder.describe()


def test_a_process_of_this_machine_is_dead_once_it_has_ended_even_if_its_number_is_used_again(own):
    process = subprocess.Popen(["sleep", "60"])
    other = {**own, "process": process.pid, "started": holder.started(process.pid)}
    assert other["started"] > own["started"] > 0
    assert not holder.is_dead(other, own)
    process.send_signal(signal.SIGSTOP)  # It hangs, but it may wake up.
    assert not holder.is_dead(other, own)
    assert not holder.is_predecessor(other, own)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # A zombie.
    assert holder.is_dead(other, own)
    process.wait()
    assert holder.is_dead(other, own)
    assert not holder.is_dead(own, own)
    assert holder.is_dead({**own, "started": own["started"] - 1}, own)


@pytest.mark.parametrize(
    ("changes", "dead", "predecessor"),
    [
        ({"namespace": "pid:[2]"}, True, True),  # The same pod's container before.
        ({"namespace": "pid:[2]", "pod_uid": "", "host": "train-0"}, False, False),  # Another pod of the node.
        ({"namespace": "pid:[2]", "pod_uid": "uid-0"}, True, True),  # A pod of the same name, on the same node.
        ({"boot": "other", "pod_uid": "uid-0"}, False, True),  # On another node, or a namesake in another cluster.
        ({"boot": "other", "pod_uid": "uid-0", "host": "train-0"}, False, False),
        ({"boot": "other", "pod_uid": "", "pod": False}, False, False),  # At a desk.
    ],
)
def test_pods_are_told_apart_by_uid_and_name(own, changes, dead, predecessor):
    other = {**own, "process": 1, **changes}
    assert holder.is_dead(other, own) == dead
    assert holder.is_predecessor(other, own) == predecessor


def test_another_version_and_damage_say_nothing(own):
    for other in ({}, {"process": None}, {"process": [], "boot": 7}):
        assert not holder.is_dead(other, own)
        assert not holder.is_predecessor(other, own)
