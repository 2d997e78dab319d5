"""Signals stop a command with one line, and outputs that nobody reads any more stop none."""

import contextlib
import errno
import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import faults
from trainer.core import cli, signals, streams
from trainer.core.errors import JobFailed, RequestError, StoppedEarly

STOPS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)
WARNINGS = STOPS[2:]


@contextlib.contextmanager
def handled(number, handler):
    """Set a handler for the block."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", STOPS)
def test_each_signal_asks_a_job_to_stop(number):
    before = signal.getsignal(number)
    with signals.stop_requests() as stop:
        assert not stop()
        send(number)
        assert stop()
        assert stop.reason == signal.Signals(number).name
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("number", WARNINGS)
def test_a_repeated_warning_ends_nothing(number):
    with signals.stop_requests() as stop:
        for _ in range(3):  # Linux repeats SIGXCPU every second.
            send(number)
        send(signal.SIGTERM)  # The first one, as Slurm's at the end of the time.
        assert stop.reason == signal.Signals(number).name


@pytest.mark.parametrize("number", WARNINGS)
@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None], ids=["ignored", "somebody's own"])
def test_a_warning_that_others_use_or_ignore_is_left_to_them(number, handler):
    with handled(number, handler), signals.stop_requests() as stop:
        send(number)
        assert not stop()


@pytest.mark.parametrize("made", [RequestError("damaged"), ImportError("half an import"), None])
def test_a_stop_at_once_survives_code_that_takes_it_for_something_else(made):
    def run():
        with signals.stop_requests() as stop:
            stop.at_once = "at start-up"
            try:
                send(signal.SIGUSR1)
            except Exception:
                raise made or ValueError("a bare one") from None

    with pytest.raises(StoppedEarly, match="SIGUSR1 at start-up"):
        run()


def test_a_signal_at_the_end_of_a_block_is_for_whoever_comes_next(monkeypatch):
    real = signal.signal
    with signals.stop_requests() as outer:
        with signals.stop_requests() as inner:
            # Sent in the middle of the restoration, when SIGTERM's handler is the outer one's again.
            def restore(number, handler):
                if number == signal.SIGHUP:
                    send(signal.SIGHUP)
                return real(number, handler)

            monkeypatch.setattr(signals.signal, "signal", restore)
        monkeypatch.undo()
        assert (inner.reason, outer.reason) == ("", "SIGHUP")


@pytest.mark.parametrize("number", STOPS)
def test_a_command_without_state_says_one_line(capsys, number):
    def command(_):
        send(number)
        raise AssertionError("not interrupted")

    assert cli.run_command(command, []) == 75
    assert capsys.readouterr() == ("", f"stopped: {number.name}; rerun the same command\n")


def test_an_interrupted_import_says_one_line(capsys):
    """Compiled modules turn what interrupts them into an error of their own."""

    def command(_):
        try:
            send(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("numpy failed to import") from None

    assert cli.run_command(command, []) == 75
    assert capsys.readouterr() == ("", "stopped: SIGINT; rerun the same command\n")


_LOOP = """
import signal, sys, time
from trainer.core import cli, signals
def main(_):
    with signals.stop_requests() as stop:
        print("ready", flush=True)
        while not stop():
            time.sleep(0.01)
        print("asked", flush=True)
        time.sleep(60)
cli.console(main)
"""


@pytest.mark.parametrize("as_first", [False, True], ids=["", "process 1"])
def test_the_second_order_ends_even_process_1(as_first):
    words = [sys.executable, "-c", _LOOP]
    if as_first:
        if os.geteuid() or not shutil.which("unshare"):
            pytest.skip("needs root and unshare")
        words = ["unshare", "--pid", "--fork", "--kill-child", *words]
    with subprocess.Popen(words, cwd=faults.ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        pid = process.pid
        if as_first:
            (pid,) = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        os.kill(pid, signal.SIGTERM)
        assert process.stdout.readline() == "asked\n"
        os.kill(pid, signal.SIGTERM)
        assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 128 + signal.SIGTERM


# Outputs that are gone.

_PRINTS = """
import os, sys
from trainer.core import cli
def main(words):
    number = os.open("state", os.O_RDWR | os.O_CREAT)
    print("to stdout", *words)
    print("to stderr", file=sys.stderr)
    os.system("echo of a child; echo of a child >&2")
    os.write(number, b"state")
    return 7
cli.console(main)
"""


def run_shell(tmp_path, redirection):
    """Run a command that prints and writes, in a shell with a redirection; return its code."""
    script = tmp_path / "prints.py"
    script.write_text(_PRINTS)
    line = f'"{sys.executable}" "{script}" word {redirection}'
    env = os.environ | {"PYTHONPATH": str(faults.ROOT)}
    done = subprocess.run(["sh", "-c", line], env=env, cwd=tmp_path, text=True, capture_output=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("redirection", [">&- 2>&-", "<&- >&- 2>&-", ">/dev/full 2>/dev/full", "2>&-"])
def test_a_closed_or_full_output_fails_no_command(tmp_path, redirection):
    code, out, err = run_shell(tmp_path, redirection)
    assert code == 7
    assert err == ""
    assert out == ("to stdout word\nof a child\n" if redirection == "2>&-" else "")
    assert (tmp_path / "state").read_bytes() == b"state"  # And not what was printed.


class Gone(io.StringIO):
    """A terminal that went away."""

    def write(self, text):
        raise OSError(errno.EIO, "Input/output error")


def test_a_terminal_that_goes_away_fails_no_command(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Gone())
    monkeypatch.setattr(sys, "stdout", Gone())

    def command(_):
        print("a line")
        print("a line", file=sys.stderr, flush=True)
        streams.require_printed()  # Nobody reads it.
        raise RequestError("expected a")

    assert cli.run_command(command, []) == 2


def test_a_result_that_does_not_fit_on_the_disk_is_a_failure(capsys, monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

    def command(_):
        print("the result")
        with pytest.raises(JobFailed, match=r"could not be written \(No space"):
            streams.require_printed()
        return 3

    monkeypatch.setattr(sys, "stdout", Full())
    assert cli.run_command(command, []) == 3
