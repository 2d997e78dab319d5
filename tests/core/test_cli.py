"""How commands end: one line and an exit code."""

import contextlib
import io
import logging
import os
import subprocess
import sys

import pytest

from trainer.core import cli
from trainer.core.config import flags
from trainer.core.errors import JobFailed, LostPeer, RequestError, StoppedEarly


@pytest.mark.parametrize(
    ("error", "code", "printed"),
    [
        (RequestError("expected a,\n  received b"), 2, "error: expected a, received b\n"),
        (StoppedEarly("at step 3"), 75, "stopped: at step 3\n"),
        (LostPeer("lost worker 1"), 75, "stopped: lost worker 1\n"),
        (JobFailed("the loss is not finite"), 1, "failed: the loss is not finite\n"),
    ],
)
def test_errors_become_exit_codes_and_one_line(capsys, error, code, printed):
    def command(_):
        raise error

    assert cli.run_command(command, []) == code
    assert capsys.readouterr() == ("", printed)


def test_kubernetes_can_tell_a_lost_peer_from_a_stop(monkeypatch):
    """Its rules repeat 75 without limit, and must not if another pod crashed."""

    def command(_):
        raise LostPeer("lost worker 1")

    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("DEEPDETECT_LOG", "plain")
    assert cli.run_command(command, []) == 76


def test_other_errors_stay_loud():
    def command(_):
        raise KeyError("bug")

    with pytest.raises(KeyError):
        cli.run_command(command, [])


def test_help_prints_and_succeeds(capsys):
    assert cli.run_command(lambda argv: flags.train_config(argv) and 1, ["--help"]) == 0
    assert "python -m trainer.train" in capsys.readouterr().out


def test_a_command_returns_its_own_code():
    assert cli.run_command(lambda argv: len(argv), ["a", "b"]) == 2
    assert logging.getLogger("trainer").handlers


def test_the_log_follows_stderr(capsys):
    def command(_):
        logging.getLogger("trainer.of_this_test").warning("a word")
        return 0

    for _ in range(2):
        with contextlib.redirect_stderr(io.StringIO()) as other:
            assert cli.run_command(command, []) == 0
            assert other.getvalue() == "a word\n"
        other.close()
    assert cli.run_command(command, []) == 0
    assert capsys.readouterr() == ("", "a word\n")


BODIES = {
    "a line": "print('line'); return 0",
    "many lines": "[print('line') for _ in range(100_000)]; return 0",
    "help": "raise flags.HelpRequested('a line')",
    "long help": "raise flags.HelpRequested('a line' * 100_000)",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_reader_that_has_seen_enough_gets_no_traceback(body):
    """As in ``trainer.train --help | head``: what is written at once, and what waits in the buffer for the end."""
    code = (
        "import sys, time; from trainer.core import cli; from trainer.core.config import flags\n"
        f"def main(_): time.sleep(0.5); {body}\n"
        "sys.exit(cli.run_command(main))"
    )
    command = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    command.stdout.close()
    assert command.stderr.read() == b""
    assert command.wait() == 0


def test_an_error_keeps_its_line_and_code_without_a_reader_of_the_output():
    code = (
        "import sys, time; from trainer.core import cli, errors\n"
        "def main(_): time.sleep(0.5); print('line'); raise errors.RequestError('expected a')\n"
        "sys.exit(cli.run_command(main))"
    )
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = subprocess.Popen(
        [sys.executable, "-c", code], env=buffered, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    command.stdout.close()
    assert command.stderr.read() == b"error: expected a\n"
    assert command.wait() == 2


def test_a_broken_connection_stays_loud():
    def command(_):
        raise BrokenPipeError("a socket")

    with pytest.raises(BrokenPipeError):
        cli.run_command(command, [])
