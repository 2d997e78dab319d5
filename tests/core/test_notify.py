"""``--notify``: what servers receive at the end of a job, and that none of them can hurt it."""

import errno
import json
import logging
import socket
import time

import pytest

from tests.helpers import mailbox
from trainer.core.errors import JobFailed, RequestError, StoppedEarly
from trainer.core.notify import job, message, send, targets

SECRET = "T00/B00/secret"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(send, "_PAUSE_SECONDS", 0.0)


@pytest.fixture
def web():
    with mailbox.serve(mailbox.Http) as server:
        yield server


@pytest.fixture
def folder(tmp_path):
    """Return a job's folder, half-way."""
    lines = [{"kind": "start", "step": 0}, {"kind": "train", "step": 40}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"ki')
    return tmp_path


def finish(folder):
    values = {"step": 50, "validation": {"auc": 0.98765, "loss": float("nan")}}
    (folder / "result.json").write_text(json.dumps(values))
    (folder / "report").mkdir()
    (folder / "report" / "index.html").write_text("")


def url(server):
    return f"http://127.0.0.1:{server.port}/{SECRET}"


def test_a_finished_job_is_told_once(web, folder):
    for _ in range(2):  # The second start finds it done.
        with job.telling([url(web)], str(folder)):
            if not (folder / "result.json").exists():
                finish(folder)
    (body,) = map(json.loads, web.received)
    assert web.paths == [f"/{SECRET}"]
    assert body["text"] == f"deepdetect: {folder.name} done at step 50; auc 0.9877; {folder}"
    assert {name: body[name] for name in ("name", "state", "exit_code", "step", "metrics", "job_dir", "report")} == {
        "name": folder.name, "state": "done", "exit_code": 0, "step": 50, "metrics": {"auc": 0.98765},
        "job_dir": str(folder), "report": f"{folder}/report/index.html"}  # fmt: skip


@pytest.mark.parametrize(("error", "code"), [
    (JobFailed("the loss is NaN"), 1), (RequestError("wrong"), 2), (ValueError("bug"), 1),
    (StoppedEarly("SIGTERM"), None), (KeyboardInterrupt(), None), (ConnectionResetError(errno.ECONNRESET, ""), None),
])  # fmt: skip
def test_a_failure_is_told_and_a_stop_is_not(web, folder, error, code):
    with pytest.raises(type(error)), job.telling([url(web)], str(folder)):
        raise error
    bodies = [json.loads(text) for text in web.received]
    assert [(body["state"], body["exit_code"], body["step"]) for body in bodies] == (
        [] if code is None else [("failed", code, 40)])  # fmt: skip
    assert all(str(error) in body["text"] for body in bodies)


@pytest.mark.parametrize(("statuses", "requests", "told"), [
    ([503], 2, True), ([503, 503], 2, False), ([404], 1, False), ([302], 1, False),
])  # fmt: skip
def test_a_refusal_is_a_warning_without_the_secret(web, folder, caplog, statuses, requests, told):
    web.statuses = statuses
    with caplog.at_level(logging.INFO, "trainer.notify"):
        send.tell([url(web)], message.End("first", "failed", 1, str(folder)))
    assert (len(web.paths), len(web.received)) == (requests, int(told))
    assert (f"not notified: http://127.0.0.1:{web.port}/..." in caplog.text) != told
    assert "secret" not in caplog.text


def test_neither_a_server_that_hangs_nor_a_dead_one_delays_a_job(web, folder, monkeypatch, caplog):
    monkeypatch.setattr(send, "LIMIT_SECONDS", 0.3)
    hanging = web
    hanging.seconds = 30.0
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        begin = time.monotonic()
        with job.telling([url(hanging), f"http://127.0.0.1:{closed.getsockname()[1]}/{SECRET}"], str(folder)):
            finish(folder)
    assert time.monotonic() - begin < 15
    assert "no answer in 0.3 s" in caplog.text
    assert "URLError" in caplog.text
    assert "secret" not in caplog.text


def test_mail_goes_through_the_server_of_the_environment(folder, monkeypatch, caplog):
    with mailbox.serve(mailbox.Smtp) as server:
        monkeypatch.setenv("SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("SMTP_PORT", str(server.port))
        monkeypatch.setenv("SMTP_FROM", "jobs@example.com")
        finish(folder)
        end = message.End("first\r\nBcc: x@y", "done", 0, str(folder))
        send.tell(["mailto:jo@example.com,al@example.com"], end)
        (mail,) = server.received
        head, _, body = mail.partition("\r\n\r\n")
        assert "To: jo@example.com, al@example.com" in head
        assert "From: jobs@example.com" in head
        assert "\r\nBcc" not in head  # A name cannot add a header.
        assert '"auc": 0.98765' in body
        server.statuses = [550, 550]
        send.tell(["mailto:jo@example.com"], end)
        assert "not notified: mailto:...@example.com: " in caplog.text
        monkeypatch.setenv("SMTP_USER", "jo")
        monkeypatch.setenv("SMTP_PASSWORD", "secret")
        send.tell(["mailto:jo@example.com"], end)
        assert "a password is not sent without" in caplog.text
        assert len(server.received) == 1


def test_targets_come_from_the_flag_or_the_environment_and_are_masked():
    environment = {"DEEPDETECT_NOTIFY": "https://hooks.example/a mailto:jo@example.com"}
    assert targets.parse("", environment) == ("https://hooks.example/a", "mailto:jo@example.com")
    assert targets.parse("mailto:al@example.com", environment) == ("mailto:al@example.com",)
    assert targets.parse("", {}) == ()
    for wrong in ("ftp://h/secret", "https:///secret", "https://me:secret@h/", "https://h:x/secret", "mailto:secret",
                  "secret", "https://h/sécret", "mailto:a@b?bcc=secret@x"):  # fmt: skip
        with pytest.raises(RequestError) as caught:
            targets.parse(wrong)
        assert "cret" not in str(caught.value).replace("may hold a secret", "")
