"""``--gpu``: what is tried, in which order, what it costs, and that nothing that has started is replaced."""

import json
import signal
import threading

import pytest
import yaml

from tests.helpers.commands import refusal
from tests.helpers.k8s_schemas import VERSIONS, pod_templates, validate
from tests.helpers.kube_objects import RUN, pod, submit
from trainer.submit import command
from trainer.submit.kube import failover

SELECTOR = "cloud.google.com/gke-accelerator"
SPOT = "cloud.google.com/gke-spot"
ORDER = "--gpu=l4:4:spot,l4:4,a100:1@us-central1-a"

needs_kubectl = pytest.mark.skipif(not command.shutil.which("kubectl"), reason="kubectl is not installed")


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(failover, "_LOOK_SECONDS", 0.01)


def scheduler(server, *, accelerator, most=99):
    """Give each run on that accelerator nodes for some of its pods."""

    def place(plural, item):
        if plural != "jobsets":
            return
        (job,) = [job["template"]["spec"] for job in item["spec"]["replicatedJobs"] if job["name"] == "workers"]
        selector = job["template"]["spec"]["nodeSelector"]
        for index in range(job["parallelism"]):
            one = pod(f"first-workers-0-{index}-{item['metadata']['uid']}", index)
            if selector.get(SELECTOR) != accelerator or index >= most:
                one |= {"spec": {}, "status": {"phase": "Pending"}}
            one["metadata"]["ownerReferences"] = [{"uid": item["metadata"]["uid"]}]
            server.put("pods", one)

    server.controller = place


@needs_kubectl
def test_the_first_alternative_with_machines_runs_under_the_same_name(server, capsys):
    scheduler(server, accelerator="nvidia-tesla-a100")
    assert (
        submit(*RUN, "--gpu=l4:4:on-demand,l4:4,a100:1@us-central1-a", "--failover_after=0.001", "--nofollow", "--spot")
        == 0
    )
    out, err = capsys.readouterr()
    assert [name for name, *_ in server.asked("DELETE", "jobsets")] == ["first", "first"]
    (template,) = pod_templates(server.objects["jobsets", "first"])
    selector = template["spec"]["nodeSelector"]
    assert (selector[SELECTOR], selector["topology.kubernetes.io/zone"]) == ("nvidia-tesla-a100", "us-central1-a")
    assert selector[SPOT] == "true"  # The entry has no word of its own, so that --spot decides.
    record = json.loads(server.objects["configmaps", "first-run"]["data"]["request.json"])["run"]
    assert record["job_dir"] == "gs://bucket/jobs/first"
    assert (record["accelerator"], record["zone"]) == ("nvidia-tesla-a100", "us-central1-a")
    assert "no machines (1 x 4 nvidia-l4 (4 GPUs)) in 0.001 minutes" in out
    rows = [line for line in err.splitlines() if line.startswith("or ")]
    assert [row.partition(":")[0] for row in rows] == [
        "or         1 x 4 nvidia-l4 (spot, 4 GPUs)",
        "or         1 x 1 nvidia-tesla-a100 (spot, 1 GPUs) in us-central1-a",
    ]
    assert all("USD at 0.4 USD" in row or "USD at 1.5 USD" in row for row in rows)


@pytest.mark.slow
@needs_kubectl
@pytest.mark.parametrize(("words", "placed", "deleted"), [
    (["--workers=2"], 1, 1),  # Half a set trains nothing.
    (["--workers=2"], 2, 0),
    (["--sweep_workers=2"], 1, 0),  # One of a sweep's workers does.
])  # fmt: skip
def test_what_has_started_is_not_replaced(server, words, placed, deleted):
    scheduler(server, accelerator="nvidia-l4", most=placed)
    assert submit(*RUN, *words, "--gpu=l4:4,a100", "--failover_after=0.001", "--nofollow") == 0
    assert len(server.asked("DELETE", "jobsets")) == deleted
    assert ("networkpolicies", "first") in server.objects  # The new one's, as the cluster removed the old one's.


@needs_kubectl
def test_a_server_that_is_away_decides_nothing(server, capsys):
    def go_away(plural, item):
        if plural == "jobsets":
            one = pod("first-workers-0-0-x", 0)
            server.put("pods", one)
            server.refuse["GET", "jobsets"] = (503, "starting")
            threading.Timer(0.1, server.refuse.clear).start()

    server.controller = go_away
    assert submit(*RUN, "--gpu=l4:4,a100", "--failover_after=0", "--nofollow") == 0
    assert not server.asked("DELETE", "jobsets")


@pytest.mark.slow
@needs_kubectl
def test_ctrl_c_leaves_the_one_that_waits(server, capsys, monkeypatch):
    scheduler(server, accelerator="none")
    pods_of = failover.pods.of_run

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        return pods_of(*args)

    monkeypatch.setattr(failover.pods, "of_run", interrupted)
    assert submit(*RUN, "--gpu=l4:4,a100", "--nofollow") == 0
    assert "detached; first continues" in capsys.readouterr().err
    assert ("jobsets", "first") in server.objects


@needs_kubectl
def test_kueue_chooses_where_it_can_and_may_choose_no_other_machine(server, capsys):
    words = [*RUN, "--queue=research", "--gpu=l4:4:spot,a100:4@us-central1-a", "--dry_run"]
    assert submit(*words) == 0
    out, err = capsys.readouterr()
    (item,) = yaml.safe_load_all(out)
    (template,) = pod_templates(item)
    spec = template["spec"]
    assert SELECTOR not in spec["nodeSelector"]
    terms = spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    said = [{one["key"]: one.get("values", one["operator"]) for one in term["matchExpressions"]} for term in terms]
    assert said == [{SELECTOR: ["nvidia-l4"], SPOT: ["true"]},
                    {SELECTOR: ["nvidia-tesla-a100"], SPOT: "DoesNotExist",
                     "topology.kubernetes.io/zone": ["us-central1-a"]}]  # fmt: skip
    assert SPOT in [one["key"] for one in spec["tolerations"]]
    assert spec["terminationGracePeriodSeconds"] == 15
    assert spec["containers"][0]["resources"]["requests"]["memory"] == "144Gi"  # Of the smaller machine.
    assert "the first flavour of queue research with room" in err
    for version in VERSIONS:
        validate(item, version)


@pytest.mark.slow
@needs_kubectl
def test_a_resumed_run_keeps_its_alternatives_unless_told_one(server, capsys):
    scheduler(server, accelerator="nvidia-l4")
    assert submit(*RUN, ORDER, "--failover_after=0", "--nofollow", "--notify=https://hooks.example/secret") == 0
    assert "hooks.example" not in json.dumps(server.objects["configmaps", "first-run"])
    assert submit("cancel", "first") == 0
    capsys.readouterr()
    for words, rows in ((["--nospot"], 0), ([], 2)):
        assert submit("resume", "first", "--dry_run", *words) == 0
        assert sum(line.startswith("or ") for line in capsys.readouterr().err.splitlines()) == rows


@pytest.mark.parametrize(("words", "says"), [
    (["--gpu=l4:4,l5"], "--gpu: expected one of nvidia-l4, nvidia-tesla-a100, nvidia-h100-80gb"),
    (["--gpu=4"], "received '4'; their number is --gpus"),
    (["--gpu=nvidia"], "or a word of it, received 'nvidia'"),
    (["--gpu=l4:4:cheap"], "--gpu: expected NAME[:GPUS][:spot|:on-demand][@ZONE]"),
    (["--gpu=l4:4,nvidia-l4:4"], "--gpu: expected each alternative once"),
    (["--gpu=l4", "--gpus=4"], "expected --gpu or --gpus"),
    (["--gpu=l4:4,a100:3"], "received 3; see --workers (of the alternative nvidia-tesla-a100:3:on-demand)"),
    (["--gpu=l4:4,a100:8", "--", "--batch_size=36"],
     "use --batch_size=40 (of the alternative nvidia-tesla-a100:8:on-demand)"),
    (["--platform=generic", "--gpu=l4,l4:1:spot"], "(of the alternative nvidia-l4:1:spot)"),
])  # fmt: skip
def test_every_alternative_is_checked_before_anything_is_sent(words, says, capsys, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/absent")
    assert says in refusal(capsys, command.main, *RUN, *words)
