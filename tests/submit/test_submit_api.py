"""scripts/submit.py against a real HTTP server: create, refuse, watch, follow, cancel, resume."""

import json
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.helpers import fake_kube as kube
from tests.helpers.k8s_schemas import pod_templates
from tests.helpers.kube_objects import RUN, event, job, pod, submit
from trainer.core.starts import cgroup, record
from trainer.submit import command
from trainer.submit.kube import api, conditions, follow

ROOT = Path(__file__).resolve().parents[2]
DONE = [{"type": "Complete", "status": "True"}]

needs_kubectl = pytest.mark.skipif(not command.shutil.which("kubectl"), reason="kubectl is not installed")


def line(second, text):
    return f"2026-01-01T00:00:{second:02}.000000000Z {text}"


@needs_kubectl
def test_run_creates_the_record_then_the_run(server, capsys):
    assert submit(*RUN, "--nofollow") == 0
    out, err = capsys.readouterr()
    assert "submitted JobSet first" in out
    assert "32 images a step" in err
    record, created = server.objects["configmaps", "first-run"], server.objects["jobsets", "first"]
    assert json.loads(record["data"]["request.json"])["run"]["job_dir"] == "gs://bucket/jobs/first"
    assert record["metadata"]["annotations"] == {"deepdetect/owner": "jo@example.com"}
    (template,) = pod_templates(created)
    assert template["spec"]["containers"][0]["args"][1] == "--job_dir=gs://bucket/jobs/first"
    ((_, query, _),) = server.asked("POST", "jobsets")
    assert query["fieldValidation"] == "Strict"


@needs_kubectl
def test_what_a_run_owns_goes_with_it(server):
    assert submit(*RUN, "--workers=2", "--nofollow") == 0
    owner = server.objects["networkpolicies", "first"]["metadata"]["ownerReferences"][0]
    assert owner["uid"] == server.objects["jobsets", "first"]["metadata"]["uid"]
    assert owner["kind"] == "JobSet"


@needs_kubectl
def test_a_taken_name_is_refused(server, capsys):
    server.put("configmaps", {"metadata": {"name": "first-run", "labels": {}}})
    assert submit(*RUN, "--nofollow") == 2
    (said,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error:")]
    assert "'first'" in said
    assert "resume first" in said
    assert ("jobsets", "first") not in server.objects


@needs_kubectl
def test_a_refusal_keeps_the_servers_words_and_leaves_nothing_behind(server, capsys):
    server.refuse["POST", "networkpolicies"] = (403, 'networkpolicies is forbidden: User "jo" cannot create')
    assert submit(*RUN, "--workers=2", "--nofollow") == 2
    assert 'said 403: networkpolicies is forbidden: User "jo" cannot create' in capsys.readouterr().err
    assert server.created() == set()


@needs_kubectl
def test_a_cluster_without_jobset_is_told_apart(server, capsys):
    server.missing.add("jobsets")
    assert submit(*RUN, "--workers=2", "--nofollow") == 2
    assert "jobset.x-k8s.io/v1alpha2" in capsys.readouterr().err
    assert server.created() == set()


@needs_kubectl
def test_a_job_dir_of_a_live_run_is_refused(server, capsys):
    server.put("jobs", job("other", "gs://bucket/jobs/first/", active=1, ready=1))
    assert submit(*RUN, "--nofollow") == 2
    assert "of run other (running)" in capsys.readouterr().err
    server.put("jobs", job("other", "gs://bucket/jobs/first/", conditions=DONE))
    assert submit(*RUN, "--nofollow") == 0


@needs_kubectl
def test_server_dry_run_creates_nothing(server):
    assert submit(*RUN, "--workers=2", "--dry_run=server") == 0
    assert server.created() == set()
    posts = [query for method, _, query, _ in server.requests if method == "POST"]
    assert posts
    assert all(query["dryRun"] == "All" for query in posts)


def test_a_server_that_fails_is_not_a_wrong_request(server, capsys):
    server.refuse["GET", "jobs"] = (503, "etcd is slow")
    assert submit("list") == 1
    assert capsys.readouterr().err.startswith("failed: the Kubernetes API server said 503: etcd is slow")


def test_a_server_that_is_not_there(server, tmp_path, capsys):
    text = (tmp_path / "kubeconfig").read_text()
    (tmp_path / "kubeconfig").write_text(re.sub(r":\d+\n", ":9\n", text))
    assert submit("list") == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_no_kubeconfig_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "absent"))
    assert submit("list") == 2
    assert capsys.readouterr().err.startswith("error: expected a kubeconfig")


def test_list_tells_state_and_progress(server, tmp_path, capsys):
    here = tmp_path / "job"
    here.mkdir()
    entries = [
        {"kind": "start", "step": 0, "epoch": 1, "total_steps": 100},
        {"kind": "train", "step": 10, "epoch": 1, "loss": 0.7, "images_per_second": 50.0},
        {"kind": "start", "step": 10, "epoch": 1, "total_steps": 100},
        {"kind": "train", "step": 40, "epoch": 1, "loss": 0.25, "images_per_second": 100.0},
    ]
    (here / "metrics.jsonl").write_text("\n".join(map(json.dumps, entries)) + '\n{"kind": "tra')
    (here / "config.json").write_text('{"batch_size": 50}')
    server.put("jobs", job("first", str(here), active=1, ready=1))
    server.put("jobs", job("second", str(tmp_path / "none"), active=1, ready=0))
    server.put(
        "jobs", {**job("part"), "metadata": {**job("part")["metadata"], "ownerReferences": [{"kind": "JobSet"}]}}
    )
    assert submit("list") == 0
    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["NAME", "STATE", "AGE", "GPUS", "QUEUE", "STEP", "LOSS", "IMAGES/S", "LEFT", "RESTARTS",
                              "JOB_DIR"]  # fmt: skip
    assert first.split() == ["first", "running", "-", "-", "-", "40/100", "0.2500", "100", "0m30s", "1", str(here)]
    assert second.split()[:6] == ["second", "pending", "-", "-", "-", "-"]


@pytest.mark.parametrize(
    ("status", "state"),
    [
        ({}, "pending"),
        ({"active": 1, "ready": 1}, "running"),
        ({"conditions": DONE}, "done"),
        ({"conditions": [{"type": "Completed", "status": "True"}]}, "done"),
        ({"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}, "failed"),
        ({"conditions": [{"type": "Failed", "status": "False"}]}, "pending"),
        ({"conditions": [{"type": "Suspended", "status": "True"}]}, "queued"),
        ({"replicatedJobsStatus": [{"name": "chief", "ready": 0}, {"name": "workers", "ready": 1}]}, "running"),
    ],
)
def test_states(status, state):
    assert conditions.state_of(job(**status))[0] == state


def test_status_says_why_a_pod_waits(server, capsys):
    server.put("jobs", job("first", "", active=1))
    waiting = {"type": "PodScheduled", "status": "False", "message": "0/5 nodes: insufficient nvidia.com/gpu"}
    server.put("pods", pod("first-abc", 0, "waiting", phase="Pending", conditions=[waiting]))
    server.put("events", event("FailedCreate", "no class", "Job", "first"))
    assert submit("status", "first") == 0
    out = capsys.readouterr().out
    assert "worker 0" in out
    assert "insufficient nvidia.com/gpu" in out
    assert "FailedCreate: no class" in out


def test_ends_of_processes_and_logs_outlive_their_pods(server, tmp_path, capsys):
    server.put("jobs", job("first", str(tmp_path), active=1))
    end = record.End("", 137, "SIGKILL", oom_kills=1)
    began = "2026-01-01T00:00:00.000"
    record.Start("worker-1", began, "node", cgroup.Memory(2**30), 5, end=end).write(str(tmp_path))
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "worker-1-20260101T000000000.log").write_text("its last line\n")
    assert submit("status", "first") == 0
    line = (
        "2026-01-01 00:00:00  worker-1 on node, from step 5: killed by SIGKILL, the kernel killed it for want of memory"
    )
    assert f"{line} (limit 1.0 GiB): give it more (submit.py run --memory)" in capsys.readouterr().out
    assert submit("logs", "first") == 0
    assert capsys.readouterr().out == "== worker-1-20260101T000000000 ==\nits last line\n"


def test_an_unknown_run_is_refused(server, capsys):
    assert submit("status", "nobody") == 2
    assert "none named 'nobody'" in capsys.readouterr().err


def test_logs_of_all_pods_are_prefixed(server, capsys):
    server.put("jobs", job())
    server.put("pods", pod("first-0", 0))
    server.put("pods", pod("first-1", 1))
    server.put("pods", pod("first-2", 2, "waiting"))  # Has no log yet.
    server.logs = {"first-0": [[line(1, "zero")]],
                   "first-1": [[line(1, json.dumps({"severity": "WARNING", "message": "one"}))]]}  # fmt: skip
    assert submit("logs", "first") == 0
    assert sorted(capsys.readouterr().out.splitlines()) == ["[worker 0] zero", "[worker 1] WARNING: one"]


def test_a_failed_self_test_shows_its_log_and_its_state(server, capsys):
    server.put("jobs", job("first", "", active=1))
    states = {"zero": {"terminated": {"exitCode": 0}}, "one": {"terminated": {"exitCode": 1}}}
    for name, state in states.items():
        init = [{"name": "selftest", "state": state}]
        server.put("pods", pod(f"first-{name}", None, "waiting", initContainerStatuses=init))
    server.logs = {f"first-{name}/selftest": [[line(1, f"FAILED GPUs {name}")]] for name in states}
    assert submit("logs", "first") == 0
    assert capsys.readouterr().out.splitlines() == ["[trainer] FAILED GPUs one"]
    assert submit("status", "first") == 0
    (row,) = [text for text in capsys.readouterr().out.splitlines() if "selftest failed" in text]
    assert "first-one" in row


def finish(server, **status):
    """Return what a script calls to end the run and its pods."""

    def do():
        for (plural, name), item in list(server.objects.items()):
            if plural == "pods":
                server.put("pods", {**pod(name, 0, "terminated"), "metadata": item["metadata"]})
        server.set_status("jobs", "first", **(status or {"conditions": DONE}))

    return do


def test_follow_survives_broken_watches_and_streams_and_shows_each_line_once(server, capsys):
    server.put("jobs", job(active=1))
    started = {"type": "ADDED", "object": pod("first-a")}
    gone = {"type": "ERROR", "object": {"kind": "Status", "code": 410, "message": "too old resource version"}}

    def appears():
        server.put("pods", pod("first-a"))

    def replaced():
        server.put("pods", pod("first-b"))

    server.watches = [
        [kube.BREAK],  # The connection is lost.
        [410],  # The version was forgotten, said by the status.
        [gone],  # The same, said inside the stream.
        [appears, started],
        [replaced, {"type": "MODIFIED", "object": pod("first-b")}, kube.BREAK],
        [lambda: time.sleep(0.5), finish(server)],
    ]
    server.logs = {
        "first-a": [
            [line(1, "one"), line(2, "two"), kube.BREAK],
            [line(2, "two"), line(3, "three")],  # The server repeats what is young enough; then it ends too early.
            [line(3, "three"), line(4, "four")],
        ],
        "first-b": [[line(5, "five")]],
    }
    assert submit("logs", "first", "-f") == 0
    out = capsys.readouterr().out.splitlines()
    assert [text for text in out if text.startswith("[trainer] ") and text[10:] in {"one", "two", "three", "four"}] == [
        f"[trainer] {word}" for word in ("one", "two", "three", "four")
    ]
    assert out.count("[trainer] five") == 1
    assert out[-1] == "first: done"
    assert len([1 for _, query, _ in server.asked("GET", "pods") if query.get("watch")]) >= 6
    again = [
        query for name, query, _ in server.asked("GET", "pods") if name == "first-a/log" and "sinceSeconds" in query
    ]
    assert again


@pytest.mark.parametrize(("message", "code"), [("failed with exit code 2 matching FailJob rule", 2), ("too many", 1)])
def test_follow_ends_as_the_run_ends(server, capsys, message, code):
    failed = {"type": "Failed", "status": "True", "reason": "PodFailurePolicy", "message": message}
    server.put("jobs", job(active=1))
    server.watches = [[finish(server, conditions=[failed])]]
    assert submit("logs", "first", "-f") == code
    assert f"first: failed, PodFailurePolicy: {message}" in capsys.readouterr().out


def test_follow_outlives_a_server_that_restarts(server, capsys):
    server.put("jobs", job(active=1))
    server.refuse["GET", "pods"] = (503, "starting")

    def comes_back():
        time.sleep(0.3)
        del server.refuse["GET", "pods"]
        finish(server)()

    threading.Thread(target=comes_back).start()
    assert submit("logs", "first", "-f") == 0


def test_cancel_deletes_after_the_pods_and_says_how_to_continue(server, capsys):
    server.put("jobs", job(active=1, ready=1))
    server.put("configmaps", {"metadata": {"name": "first-run", "labels": {}}})
    assert submit("cancel", "first") == 0
    ((name, _, body),) = server.asked("DELETE", "jobs")
    assert (name, body["propagationPolicy"]) == ("first", "Foreground")
    assert "resume first" in capsys.readouterr().out
    assert server.objects["configmaps", "first-run"]["metadata"]["annotations"]["deepdetect/end"] == "cancelled"
    server.put("jobs", job(active=1))
    assert submit("cancel", "first", "--forget") == 0
    assert not {("jobs", "first"), ("configmaps", "first-run")} & server.objects.keys()
    assert submit("cancel", "first") == 2


@pytest.mark.slow
@needs_kubectl
def test_resume_keeps_the_job_dir_under_a_new_name(server, capsys, bucket):  # No bucket of Google's is asked.
    assert submit(*RUN, "--nofollow", "--spot", "--env=HF_TOKEN=x", "--", "--epochs=3", "--resume=never") == 0
    assert "HF_TOKEN can be read by everybody" in capsys.readouterr().err
    assert submit("resume", "first", "--nofollow") == 2  # It is still live.
    assert "of run first" in capsys.readouterr().err
    assert submit("cancel", "first") == 0
    assert submit("resume", "first", "--gpus=4", "--nospot", "--nofollow", "--", "--epochs=9") == 0
    (template,) = pod_templates(server.objects["jobsets", "first-r2"])
    again = template["spec"]
    container = again["containers"][0]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "4"
    assert "--job_dir=gs://bucket/jobs/first" in container["args"]
    assert "--epochs=9" in container["args"]
    assert "--resume=never" not in container["args"]  # It would move aside what is to be continued.
    assert "cloud.google.com/gke-spot" not in again["nodeSelector"]
    assert submit("list") == 0
    assert "cancelled" in capsys.readouterr().out  # The first one, by its record.
    for place, says in ((f"{bucket}/absent", f"found nothing below '{bucket}/absent'"),
                        ("gs://no-such-bucket/faces", "expected the bucket 'no-such-bucket' to exist")):  # fmt: skip
        words = [*RUN, "--name=second", "--job_dir=gs://bucket/jobs/second", f"--data_dir={place}", "--nofollow"]
        assert submit(*words) == 2
        assert says in capsys.readouterr().err
    assert ("configmaps", "second-run") not in server.objects


def test_resume_without_a_record(server, capsys):
    assert submit("resume", "first") == 2
    assert "no record of 'first'" in capsys.readouterr().err


def test_a_log_that_is_gone_ends_quietly(server):
    server.put("pods", pod("first-0"))
    seen = []
    follow.show(api.KubeClient("deepdetect"), "first", write=seen.append)
    assert seen == []


def test_ctrl_c_detaches_and_says_how_to_come_back(server, tmp_path):
    server.put("jobs", job(active=1))
    server.watches = [[lambda: time.sleep(60)]]
    process = subprocess.Popen([sys.executable, str(ROOT / "scripts/submit.py"), "logs", "first", "-f"],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
    deadline = time.monotonic() + 30
    while server.watches and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "first continues" in err
    assert "logs first -f" in err
