"""GPU-hours and cost so far, as status and list tell them."""

import datetime
import json
import urllib.parse

import pytest

from tests.helpers.kube_objects import jobset, pod, submit

L4 = {"cloud.google.com/gke-accelerator": "nvidia-l4"}
SPOT = {**L4, "cloud.google.com/gke-spot": "true"}


def put(server, job_dir, *, selector, gpus=4, machines=2, **status):
    item = jobset(words=[f"--job_dir={job_dir}"], gpus=gpus, machines=machines, **status)
    item["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["nodeSelector"] = selector
    server.put("jobsets", item)


def record(folder, *lines):
    entries = [{"kind": kind, "step": 0, "time": f"2026-01-01T{time}+00:00"} for kind, time in lines]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, entries)) + '\n{"kind": "tr')


DONE = {"conditions": [{"type": "Completed", "status": "True"}]}


@pytest.mark.parametrize(("selector", "cost", "says"), [
    (SPOT, 4.8, "so far: 12.00 GPU-hours, 4.80 USD at 0.4 a GPU and hour"),
    (L4, 12.0, "so far: 12.00 GPU-hours, 12.00 USD at 1 a GPU and hour"),
    ({"cloud.google.com/gke-accelerator": "nvidia-b200"}, None,
     "so far: 12.00 GPU-hours, cost unknown: no price of nvidia-b200; see --accelerators"),
    ({}, None, "so far: 12.00 GPU-hours, cost unknown: not known which machines the run has"),
])  # fmt: skip
def test_every_start_counts_and_the_time_between_them_does_not(server, tmp_path, capsys, selector, cost, says):
    record(tmp_path, ("start", "00:00:00"), ("train", "01:00:00"), ("start", "09:00:00"), ("end", "09:30:00"))
    put(server, tmp_path, selector=selector, **DONE)
    assert submit("status", "first") == 0
    assert says in capsys.readouterr().out
    assert submit("list", "-o=json") == 0
    (entry,) = json.loads(capsys.readouterr().out)
    assert entry["gpu_hours"] == 12
    assert entry["cost"] == (None if cost is None else pytest.approx(cost))
    assert submit("list", "-o=wide") == 0
    header, row = (line.split() for line in capsys.readouterr().out.splitlines())
    cells = dict(zip(header, row, strict=True))
    assert cells["GPU-HOURS"] == "12.00"
    assert cells["COST"] == ("-" if cost is None else f"{cost:.2f}USD")


def test_a_running_job_counts_until_now(server, tmp_path, capsys):
    begin = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=3)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "start", "step": 0, "time": begin.isoformat()}))
    put(server, tmp_path, selector=L4, gpus=1, machines=1, replicatedJobsStatus=[{"name": "workers", "ready": 1}])
    assert submit("status", "first") == 0
    assert "so far: 3.00 GPU-hours, 3.00 USD" in capsys.readouterr().out


def test_without_times_the_pods_tell_and_else_nothing_is_invented(server, tmp_path, capsys):
    put(server, "/mnt/jobs/first", selector=L4)
    assert submit("status", "first") == 0
    assert "so far: GPU-hours unknown, cost unknown: no times in job_dir" in capsys.readouterr().out
    for index, end in enumerate(("2026-01-01T02:00:00Z", "2026-01-01T01:30:00Z")):
        one = pod(f"first-workers-0-{index}-x", index, startTime="2026-01-01T01:00:00Z")
        one["spec"]["containers"] = [{"name": "trainer", "resources": {"limits": {"nvidia.com/gpu": "4"}}}]
        one["status"]["containerStatuses"][0]["state"] = {"terminated": {"exitCode": 0, "finishedAt": end}}
        server.put("pods", one)
    assert submit("status", "first") == 0
    assert "so far: 6.00 GPU-hours, 6.00 USD" in capsys.readouterr().out


def test_status_links_to_a_dashboard(server, capsys, monkeypatch, tmp_path):
    put(server, tmp_path, selector=L4)
    kept = {"run": {"dashboard": "https://grafana.example/d?ns={namespace}&run={name}&dir={job_dir}"}, "trainer": []}
    server.put(
        "configmaps", {"metadata": {"name": "first-run", "labels": {}}, "data": {"request.json": json.dumps(kept)}}
    )
    place = urllib.parse.quote(str(tmp_path), safe="")
    monkeypatch.setenv("DEEPDETECT_DASHBOARD", "https://other.example/{name}")
    for words, link in (([], f"https://grafana.example/d?ns=deepdetect&run=first&dir={place}"),
                        (["--dashboard=https://mine.example/{name}"], "https://mine.example/first")):  # fmt: skip
        assert submit("status", "first", *words) == 0
        assert f"dashboard: {link}\n" in capsys.readouterr().out
    del server.objects["configmaps", "first-run"]
    assert submit("status", "first") == 0
    assert "dashboard: https://other.example/first\n" in capsys.readouterr().out
    for wrong, says in (("grafana/{name}", "expected https://HOST"), ("https://h/{pod}", "received {pod}")):
        assert submit("status", "first", f"--dashboard={wrong}") == 2
        assert says in capsys.readouterr().err
