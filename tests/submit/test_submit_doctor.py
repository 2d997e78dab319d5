"""The doctor names what a cluster lacks, and with --pods what its pods see; it leaves nothing behind."""

import shutil

import pytest

from tests.helpers.k8s_schemas import VERSIONS, validate
from tests.helpers.kube_objects import pod, submit, workload
from tests.submit.test_submit_preflight import roles

pytestmark = pytest.mark.skipif(not shutil.which("kubectl"), reason="kubectl is not installed")

FORBIDDEN = (403, 'is forbidden: User "jo" cannot get resource')
DOCTOR = ["doctor", "--gpus=4", "--queue=research"]


def table(capsys, *words):
    """Return the doctor's exit code, and its lines by subject as (state, text)."""
    capsys.readouterr()
    code = submit(*words)
    output = capsys.readouterr()
    lines, subject = {}, ""
    for line in output.out.splitlines():
        if line.startswith(" "):
            state, text = lines[subject]
            lines[subject] = (state, f"{text} {line.strip()}")
        elif line.startswith(("ok ", "missing ", "unknown ")):
            subject = line[9:27].strip()
            lines[subject] = (line[:9].strip(), line[28:])
    return code, lines, output


@pytest.fixture
def healthy(server, monkeypatch):
    """Return a server on which nothing is missing."""
    monkeypatch.setenv("COLUMNS", "80")
    server.put("localqueues", {"metadata": {"name": "research"}})
    for node in ("node-1", "node-2"):
        labels = server.objects["nodes", "node-1"]["metadata"]["labels"]
        server.put("nodes", {"metadata": {"name": node, "labels": labels},
                             "status": {"allocatable": {"nvidia.com/gpu": "8"}}})  # fmt: skip
    return server


def test_a_cluster_that_has_everything(healthy, capsys):
    code, lines, output = table(capsys, *DOCTOR)
    assert code == 0, output
    states = {subject: state for subject, (state, _) in lines.items()}
    assert states.pop("data_dir") == "unknown"
    assert set(states.values()) == {"ok"}, output.out
    assert {"API server", "permissions", "JobSet", "Kueue", "queue", "namespace", "account", "priority classes",
            "device plugin", "GPU nodes"} == set(states)  # fmt: skip
    assert all(len(line) <= 80 for line in output.out.splitlines())
    changes = {entry for entry in healthy.verbs() if entry[2] not in ("get", "list")}
    assert changes == {("authorization.k8s.io", "selfsubjectaccessreviews", "create"),
                       ("authentication.k8s.io", "selfsubjectreviews", "create"),
                       ("jobset.x-k8s.io", "jobsets", "create")}  # fmt: skip
    assert all(query.get("dryRun") == "All" for _, query, _ in healthy.asked("POST", "jobsets"))


def node_without_plugin(server):
    for node in ("node-1", "node-2"):
        server.set_status("nodes", node, allocatable={})


def stopped_queue(server):
    active = {"type": "Active", "status": "False", "message": "ClusterQueue is stopped"}
    server.set_status("localqueues", "research", conditions=[active])


def much_is_missing(server):
    server.missing.update(("jobsets", "localqueues", "workloads"))
    server.forbidden.update({("create", "jobsets"), ("get", "pods/log")})
    node_without_plugin(server)
    for key in (("serviceaccounts", "deepdetect"), ("priorityclasses", "deepdetect-low"), ("namespaces", "deepdetect")):
        server.objects.pop(key)


def webhook_and_queue_are_down(server):
    server.refuse["POST", "jobsets"] = (500, "failed calling webhook")
    stopped_queue(server)


@pytest.mark.parametrize(("damage", "expected"), [
    (much_is_missing, {
        "JobSet": ("missing", "jobset/releases"),
        "Kueue": ("missing", "kueue/releases"),
        "permissions": ("missing", "jo@example.com may not: create jobsets, get pods/log"),
        "namespace": ("missing", "no Namespace deepdetect"),
        "account": ("missing", "kubectl apply -k k8s/overlays/gke-standard makes it"),
        "priority class": ("missing", "deepdetect-low"),
        "device plugin": ("missing", "2 of 2 nodes with GPUs advertise none"),
        "GPU nodes": ("unknown", "none that fits has 4 GPUs (at most 0)"),
    }),
    (webhook_and_queue_are_down, {
        "JobSet": ("missing", "kubectl -n jobset-system get pods"),
        "queue": ("missing", "research is stopped: ClusterQueue is stopped"),
    }),
    (lambda s: s.objects.pop(("localqueues", "research")), {"queue": ("missing", "no LocalQueue research")}),
    (lambda s: s.refuse.update({("GET", "localqueues"): FORBIDDEN}), {"queue": ("unknown", "not checked")}),
], ids=["much", "down", "queue", "forbidden"])  # fmt: skip
def test_what_is_missing_is_named_with_a_remedy(healthy, capsys, damage, expected):
    damage(healthy)
    code, lines, output = table(capsys, *DOCTOR)
    for subject, (state, says) in expected.items():
        assert lines[subject][0] == state, output.out
        assert says in " ".join(lines[subject][1].split())
    known = {"data_dir", *expected}
    assert all(state == "ok" for subject, (state, _) in lines.items() if subject not in known), output.out
    assert code == (1 if any(state == "missing" for state, _ in expected.values()) else 0)


@pytest.mark.slow
def test_nodes_that_do_not_fit_are_explained(healthy, capsys):
    for words, says in (("--accelerator=nvidia-h100-80gb", "gke-accelerator=nvidia-h100-80gb"),
                        ("--gpus=2", "2 with 2 GPUs each")):  # fmt: skip
        _, lines, _ = table(capsys, "doctor", words)
        assert says in lines["GPU nodes"][1]
    healthy.objects["nodes", "node-1"]["spec"] = {"unschedulable": True}
    conditions = [{"type": "Ready", "status": "False"}]
    healthy.set_status("nodes", "node-2", conditions=conditions, allocatable={"nvidia.com/gpu": "8"})
    _, lines, _ = table(capsys, "doctor")
    assert lines["GPU nodes"][0] == "unknown"
    assert "node-1 is cordoned" in lines["GPU nodes"][1]
    assert "node-2 is not ready" in lines["GPU nodes"][1]


def test_a_server_that_does_not_answer_is_the_only_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    code, lines, _ = table(capsys, "doctor")
    assert code == 1
    assert list(lines) == ["API server"]
    assert lines["API server"][0] == "missing"


def test_a_key_is_needed_for_buckets_elsewhere(healthy, capsys):
    code, lines, _ = table(capsys, "doctor", "--platform=generic", "--job_dir=gs://bucket/jobs", "--gpus=0")
    assert code == 1
    assert lines["secret"][0] == "missing"
    assert "kubectl create secret generic gcs-credentials" in lines["secret"][1]
    assert "GPU nodes" not in lines


PODS = ["doctor", "--gpus=4", "--pods", "--image=registry.example/deepdetect:1", "--volume=faces:/mnt",
        "--data_dir=/mnt/faces", "--job_dir=/mnt/jobs"]  # fmt: skip
# As ``trainer.train --selftest`` prints them; tests/training/test_selftest_machines.py parses a real one.
DEVICES = ["ok      GPUs         4 NVIDIA L4", "ok      all-reduce   correct over 4 GPUs"]
MEETING = ["ok      data_dir     readable", "ok      job_dir      can be written", "ok      names        2 resolve",
           "ok      peers        2 processes", "ok      machines     correct over 2 machines, 3.1 GB/s"]  # fmt: skip


def stamped(lines):
    return [f"2026-01-01T00:00:00.00000000{number}Z {line}" for number, line in enumerate(lines)]


@pytest.fixture
def ended(healthy, monkeypatch):
    """Return a server on which the doctor's two pods have done their work."""
    monkeypatch.setattr("trainer.submit.doctor.flags.secrets.token_hex", lambda size: "abc")
    monkeypatch.setattr("trainer.submit.doctor.inside._POLL_SECONDS", 0.01)
    for index in range(2):
        item = pod(f"doctor-abc-{index}", index, "terminated", run="doctor-abc", phase="Succeeded")
        item["spec"]["nodeName"] = f"node-{index + 1}"
        healthy.put("pods", item)
        healthy.logs[f"doctor-abc-{index}"] = [stamped(MEETING)]
        healthy.logs[f"doctor-abc-{index}/selftest"] = [stamped(DEVICES)]
    return healthy


def test_pods_test_two_nodes_and_are_deleted(ended, capsys):
    code, lines, output = table(capsys, *PODS)
    assert code == 0, output
    seen = {subject: text for subject, (state, text) in lines.items() if subject.startswith("pods: ") and state == "ok"}
    assert seen["pods: two nodes"] == "node-1, node-2"
    assert "3.1 GB/s" in seen["pods: machines"]
    assert {"pods: GPUs", "pods: all-reduce", "pods: data_dir", "pods: job_dir", "pods: names", "pods: peers"} < set(
        seen
    )
    assert not {key for key in ended.created() if key[0] != "networkpolicies"}  # Those go with their owner.
    (jobset,) = [body for _, query, body in ended.asked("POST", "jobsets") if "dryRun" not in query]
    (policy,) = [body for _, _, body in ended.asked("POST", "networkpolicies")]
    assert policy["metadata"]["ownerReferences"][0]["name"] == jobset["metadata"]["name"] == "doctor-abc"
    job_spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    assert (job_spec["completions"], job_spec["activeDeadlineSeconds"]) == (2, 900)
    spec = job_spec["template"]["spec"]
    (term,) = spec["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert term["labelSelector"]["matchLabels"].items() <= job_spec["template"]["metadata"]["labels"].items()
    assert spec["containers"][0]["args"] == ["--cluster_seconds=450", "--data_dir=/mnt/faces", "--job_dir=/mnt/jobs"]
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "4"
    seen = {entry for entry in ended.verbs() if entry[1]} - EVERYBODY
    assert seen <= set().union(*roles())
    for version in VERSIONS:
        validate(jobset, version)  # The last words, as it skips without the schema.


@pytest.mark.slow
def test_the_worst_of_both_pods_counts_and_a_missing_result_is_one(ended, capsys):
    failed = "FAILED  job_dir      expected a folder, received /mnt/jobs"
    stopped = '{"severity": "ERROR", "message": "stopped: no sum within 180 s"}'
    ended.logs["doctor-abc-1"] = [stamped([MEETING[0], failed, stopped])]
    code, lines, _ = table(capsys, *PODS)
    assert code == 1
    assert lines["pods: job_dir"] == ("missing", "expected a folder, received /mnt/jobs")
    assert lines["pods: machines"][0] == "ok"
    assert lines["pods: worker 1"][0] == "missing"
    assert "no result of names, peers, machines" in lines["pods: worker 1"][1]
    assert "ERROR: stopped: no sum within 180 s" in " ".join(lines["pods: worker 1"][1].split())


def queue_up(server):
    """Play Kueue, which has no room."""
    server.set_status("jobsets", "doctor-abc", conditions=[{"type": "Suspended", "status": "True"}])
    waits = workload("jobset-doctor-abc", "Pending", "insufficient unused quota", owner="doctor-abc")
    waits["metadata"]["ownerReferences"][0]["uid"] = server.objects["jobsets", "doctor-abc"]["metadata"]["uid"]
    server.put("workloads", waits)


@pytest.mark.slow
def test_pods_that_cannot_start_are_explained_and_deleted(ended, capsys, monkeypatch):
    waiting = pod("doctor-abc-1", 1, run="doctor-abc", phase="Pending", conditions=[
        {"type": "PodScheduled", "status": "False", "message": "0/3 nodes: insufficient nvidia.com/gpu"}])  # fmt: skip
    waiting["spec"] = {}
    ended.put("pods", waiting)
    code, lines, _ = table(capsys, *PODS, "--wait_minutes=0.001")
    assert (code, lines["pods: two nodes"][0]) == (1, "missing")
    assert "insufficient nvidia.com/gpu" in lines["pods: two nodes"][1]
    state = {"waiting": {"reason": "ImagePullBackOff", "message": "not found"}}
    pulling = pod("doctor-abc-0", 0, run="doctor-abc", phase="Pending",
                  containerStatuses=[{"name": "trainer", "state": state}])  # fmt: skip
    ended.put("pods", pulling)
    code, lines, _ = table(capsys, *PODS)
    assert (code, lines["pods: image"][0]) == (1, "missing")
    assert ("jobsets", "doctor-abc") not in ended.objects
    for key in [("networkpolicies", "doctor-abc"), ("pods", "doctor-abc-0"), ("pods", "doctor-abc-1")]:
        ended.objects.pop(key, None)
    monkeypatch.setattr("trainer.submit.doctor.inside.time.sleep", lambda seconds: queue_up(ended))
    code, lines, _ = table(capsys, *PODS, "--queue=research", "--wait_minutes=0.001")
    assert (code, lines["pods"][0]) == (1, "missing")
    assert "none was made: queued no room" in lines["pods"][1]
    assert ("jobsets", "doctor-abc") not in ended.objects
    ended.objects.pop(("serviceaccounts", "deepdetect"))
    before = len(ended.requests)
    _, lines, _ = table(capsys, *PODS)
    assert "not started: account is missing" in lines["pods"][1]
    assert not [path for method, path, *_ in ended.requests[before:] if method == "DELETE"]
    assert submit("doctor", "--pods") == 2  # Without an image.


def test_ctrl_c_deletes_the_pods(ended, capsys, monkeypatch):
    def press(seconds):
        assert ("jobsets", "doctor-abc") in ended.objects
        raise KeyboardInterrupt

    ended.objects["pods", "doctor-abc-1"]["status"]["phase"] = "Running"
    monkeypatch.setattr("trainer.submit.doctor.inside.time.sleep", press)
    assert submit(*PODS) == 75
    assert ("jobsets", "doctor-abc") not in ended.objects
    assert "deleted doctor-abc" in capsys.readouterr().err


EVERYBODY = {("authorization.k8s.io", "selfsubjectaccessreviews", "create"),
             ("authentication.k8s.io", "selfsubjectreviews", "create")}  # fmt: skip


def test_the_automatic_image_is_that_of_run(healthy, capsys):
    code, _, output = table(capsys, *DOCTOR, "--image=auto", "--repository=registry.example/team/deepdetect")
    assert code == 0, output
    code, lines, output = table(capsys, *DOCTOR, "--image=auto", "--repository=registry.example")
    assert (code, lines) == (2, {})
    assert "--repository: expected REGISTRY/NAME" in output.err
