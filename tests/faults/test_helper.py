"""The injected faults happen where they are meant to, or the tests beside this one prove nothing."""

import errno
import signal

import pytest

from tests.helpers import faults


def test_an_errno_at_the_nth_read_of_a_file_in_this_process(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with faults.injected(path="*/a.txt", first=2, number=errno.ESTALE) as fault:
        assert (tmp_path / "a.txt").read_text() == "a"
        with pytest.raises(OSError, match="Stale file handle"):
            (tmp_path / "a.txt").read_text()
        assert (tmp_path / "a.txt").read_text() == "a"
    assert fault.seen == 3


def test_only_writes(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a")
    with faults.injected(path="*/a.txt", count=0, number=errno.ENOSPC, mode="w"):
        assert path.read_text() == "a"
        with pytest.raises(OSError, match="No space"):
            path.write_text("b")
    path.write_text("c")


def test_a_signal_in_a_child(tmp_path):
    (tmp_path / "a.json").write_text("1")
    words = ("json.tool", tmp_path / "a.json")
    assert faults.run(*words).stdout == "1\n"
    assert faults.run(*words, fault={"path": "*/a.json", "signal": int(signal.SIGKILL)}).returncode == -signal.SIGKILL
