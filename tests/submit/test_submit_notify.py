"""submit tells the end of a run that it follows, also one that the trainer itself cannot tell."""

import json

from tests.helpers import mailbox
from tests.helpers.commands import refusal
from tests.helpers.kube_objects import RUN, jobset, submit
from trainer.submit import command, environment


def test_the_end_of_a_followed_run_is_told(server, tmp_path, monkeypatch):
    failed = {"type": "Failed", "status": "True", "reason": "ReachedMaxRestarts", "message": "restarted 4 times"}
    server.put("jobsets", jobset(words=[f"--job_dir={tmp_path}"]))
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"kind": "train", "step": 7}) + "\n")
    server.watches = [[lambda: server.set_status("jobsets", "first", conditions=[failed])]]
    with mailbox.serve(mailbox.Http) as web:
        monkeypatch.setenv("DEEPDETECT_NOTIFY", f"http://127.0.0.1:{web.port}/hook")
        assert submit("logs", "first", "-f") == 1
    (body,) = map(json.loads, web.received)
    assert (body["name"], body["state"], body["exit_code"], body["step"]) == ("first", "failed", 1, 7)
    assert "restarted 4 times" in body["text"]


def test_a_url_is_refused_where_it_would_stand_in_clear(capsys, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", "/absent")
    line = refusal(capsys, command.main, *RUN, "--", "--notify=https://hooks.example/secret")
    assert "--env_from_secret=SECRET:DEEPDETECT_NOTIFY" in line
    assert "hooks.example" not in line
    assert "expected http://HOST/PATH" in refusal(capsys, command.main, *RUN, "--notify=hooks.example/secret")
    assert environment.warnings({"DEEPDETECT_NOTIFY": "https://hooks.example/secret"})
