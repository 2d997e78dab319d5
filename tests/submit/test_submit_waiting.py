"""Why a run waits or ended, as status, list and the log tell it: events, Kueue's Workload, Jobs below a JobSet."""

import json

import pytest

from tests.helpers.kube_objects import event, job, jobset, pod, submit, workload
from trainer.submit.kube import follow

SUSPENDED = {"type": "Suspended", "status": "True", "message": "jobset is suspended"}
QUEUED = {"labels": {"kueue.x-k8s.io/queue-name": "research"}, "conditions": [SUSPENDED]}

NO_FLAVOUR = "couldn't assign flavors to pod set workers: "
# Messages as Kueue 0.19 writes them.
MESSAGES = [
    (f"{NO_FLAVOUR}insufficient unused quota for nvidia.com/gpu in flavor l4, 4 more needed", "no room: "),
    (f"{NO_FLAVOUR}insufficient quota for nvidia.com/gpu in flavor l4, previously considered podsets requests (0) + "
     "current podset request (16) > maximum capacity (8)", "more than the queue has: "),
    ("LocalQueue research doesn't exist", "no such queue: "),
    ("ClusterQueue research is inactive", "the queue is stopped: "),
    (f"{NO_FLAVOUR}untolerated taint {{cloud.google.com/gke-spot true NoSchedule <nil>}} in flavor l4-spot",
     "no flavour of the queue fits: "),
    (f'{NO_FLAVOUR}Flavor "l4" does not support TopologyAwareScheduling',
     "no flavour of the queue is for this --topology: "),
]  # fmt: skip


def test_status_of_a_queued_run_says_what_it_lacks_and_its_place(server, capsys):
    server.put("jobsets", jobset(**QUEUED))
    server.put("workloads", workload("jobset-other", "Pending", "another one's", owner="other"))
    server.pending = [{"metadata": {"name": name}, "positionInLocalQueue": place}
                      for place, name in enumerate(("jobset-other", "jobset-first"))]  # fmt: skip
    for message, meaning in MESSAGES:
        server.put("workloads", workload("jobset-first", "Pending", message))
        assert submit("status", "first") == 0
        out = capsys.readouterr().out
        assert f"{meaning}{message}, number 2 of 2 in queue research" in out
        assert "suspended" not in out


def test_a_queued_run_without_rights_to_look_keeps_the_clusters_words(server, capsys):
    server.put("jobsets", jobset(**QUEUED))
    server.refuse["GET", "workloads"] = (403, "workloads is forbidden")
    assert submit("status", "first") == 0
    assert "jobset is suspended" in capsys.readouterr().out


def test_status_shows_events_of_everything_that_a_run_is_made_of_newest_first(server, capsys):
    server.put("jobsets", jobset(**{**QUEUED, "conditions": []}))
    server.put("workloads", workload("jobset-first-1a2b", "", "", "Admitted", "True"))
    server.put("pods", {**pod("first-workers-0-0-x"), "spec": {"nodeName": "node-7"}})
    for minute, (kind, name) in enumerate((("JobSet", "first"), ("Job", "first-workers-0"), ("Node", "node-7"),
                                           ("Pod", "first-workers-0-0-x"), ("Workload", "jobset-first-1a2b"),
                                           ("Pod", "firstly-workers-0-0-x"), ("Node", "node-8"))):  # fmt: skip
        server.put("events", event(f"Reason{minute}", f"of the {kind}", kind, name, f"2026-01-01T00:0{minute}:00Z"))
    assert submit("status", "first") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "Warning: Reason" in line]
    assert [line.partition("Warning: ")[2] for line in lines] == [
        "Reason4: of the Workload", "Reason3: of the Pod", "Reason2: of the Node", "Reason1: of the Job",
        "Reason0: of the JobSet",
    ]  # fmt: skip


def test_following_a_run_that_waits_shows_the_newest_warning_once(server, capsys, monkeypatch):
    monkeypatch.setattr(follow, "_WARNING_SECONDS", 0.0)
    server.put("jobsets", jobset())
    server.put("events", event("Old", "one", "JobSet", "first", "2026-01-01T00:00:00Z"))
    server.put("events", event("FailedScheduling", "0/3 nodes have a GPU", "Pod", "first-workers-0-0-x",
                               "2026-01-01T00:01:00Z"))  # fmt: skip
    server.put("events", event("Pulling", "image", "Pod", "first-workers-0-0-x", "2026-01-01T00:02:00Z", "Normal"))
    done = [{"type": "Completed", "status": "True"}]
    server.watches = [[], [], [], [lambda: server.set_status("jobsets", "first", conditions=done)]]
    assert submit("logs", "first", "-f") == 0
    out = capsys.readouterr().out
    assert out.count("Warning: FailedScheduling: 0/3 nodes have a GPU") == 1
    assert "Old" not in out
    assert "Pulling" not in out


@pytest.mark.parametrize(("message", "code"), [
    ("Container trainer for pod ns/first-workers-0-x failed with exit code 2 matching FailJob rule at index 2", 2),
    ("Job has reached the specified backoff limit", 1),
])  # fmt: skip
def test_the_exit_code_of_a_jobset_comes_from_its_job(server, capsys, message, code):
    failed = {"type": "Failed", "status": "True"}
    words = {"reason": "FailJobSetFailurePolicyAction", "message": "applying FailJobSet failure policy action"}
    server.put("jobsets", jobset(conditions=[{**failed, **words}]))
    server.put("configmaps", {"metadata": {"name": "first-run", "labels": {}}})
    part = job("first-workers-0", conditions=[{**failed, "reason": "PodFailurePolicy", "message": message}])
    part["metadata"] |= {"labels": {"jobset.sigs.k8s.io/jobset-name": "first"}, "ownerReferences": [{"kind": "JobSet"}]}
    server.put("jobs", part)
    assert submit("logs", "first", "-f") == code
    assert message in capsys.readouterr().out
    notes = server.objects["configmaps", "first-run"]["metadata"]["annotations"]
    assert notes["deepdetect/end"] == "failed"
    assert message in notes["deepdetect/end-reason"]


def record(name, created="2099-01-01T00:00:00Z", job_dir="", **annotations):
    return {
        "metadata": {"name": f"{name}-run", "creationTimestamp": created,
                     "annotations": {f"deepdetect/{key}": value for key, value in annotations.items()},
                     "labels": {"app.kubernetes.io/name": "deepdetect-run", "app.kubernetes.io/instance": name}},
        "data": {"request.json": json.dumps({"run": {"job_dir": job_dir, "gpus": 4, "workers": 2}, "trainer": []})},
    }  # fmt: skip


def listed(capsys, *words):
    assert submit("list", "-o=json", *words) == 0
    out, err = capsys.readouterr()
    return {entry["name"]: entry for entry in json.loads(out)}, err


def test_runs_that_are_gone_are_told_apart(server, tmp_path, capsys):
    finished = tmp_path / "finished"
    finished.mkdir()
    lines = [{"kind": "start", "step": 0, "total_steps": 9}, {"kind": "end", "step": 9}]
    (finished / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for item in (record("a", end="cancelled"), record("b", end="failed"), record("c", "2020-01-01T00:00:00Z"),
                 record("d"), record("e", "2020-01-01T00:00:00Z", str(finished))):  # fmt: skip
        server.put("configmaps", item)
    entries, _ = listed(capsys)
    assert [entries[name]["state"] for name in "abcde"] == ["cancelled", "failed", "expired", "gone", "done"]
    assert entries["a"]["gpus"] == 8


def test_list_has_owner_queue_gpus_and_the_trials_of_a_sweep(server, tmp_path, capsys):
    (tmp_path / "trials.csv").write_text('trial,status\n0,done\n1,"failed, twice"\n')
    words = [f"--job_dir={tmp_path}", "--max_trials=60"]
    labels = {"kueue.x-k8s.io/queue-name": "research"}
    server.put("jobsets", jobset(command="trainer.tune", words=words, labels=labels, gpus=2, machines=3))
    server.put("configmaps", record("first", owner="jo@example.com"))
    assert submit("list", "-o", "wide") == 0
    header, row = capsys.readouterr().out.splitlines()
    cells = dict(zip(header.split(), row.replace(" trials", "_trials").split(), strict=True))
    assert cells["AGE"].endswith("d")
    assert [cells[name] for name in ("GPUS", "QUEUE", "STEP", "OWNER", "IMAGE")] == [
        "6", "research", "2/60_trials", "jo@example.com", "registry.example/deepdetect:1"]  # fmt: skip


@pytest.mark.parametrize("plural", ["jobs", "workloads", "configmaps"])
def test_a_kind_that_may_not_be_listed_does_not_hide_the_others(server, capsys, plural):
    server.put("jobsets", jobset(**QUEUED))
    server.refuse["GET", plural] = (403, f'{plural} is forbidden: User "jo" cannot list')
    entries, err = listed(capsys)
    assert entries.keys() == {"first"}
    assert f"{plural} is forbidden" in err
