"""The doctor names what a cluster lacks, and with --pods what its pods see; it leaves nothing behind."""

import shutil

import pytest

from tests.helpers.kube_objects import submit

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
