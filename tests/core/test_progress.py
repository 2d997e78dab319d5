"""What a long phase shows: on a terminal of 80 columns, in a log, and while the log writes."""

import io
import re
import sys
import time
from unittest import mock

import pytest

from tests.helpers.terminals import run_in_terminal, screen_of
from trainer.core import progress, terminal

PHASES = """
import logging, sys, time
from trainer.core import cli, progress

cli.run_command(lambda _: 0, [])
progress.QUIET_SECONDS = 0.1
with progress.phase("listing 'gs://bucket'"):
    time.sleep(0.5)
with progress.phase("downloading " + "long/" * 30 + "end"):
    time.sleep(0.3)
    logging.getLogger("trainer").info("a warning " + "x" * 30)
    time.sleep(0.1)
with progress.bar(3, "image", "scoring a split of a set") as bar:
    bar.update(1)
    logging.getLogger("trainer").info("another line " + "of words " * 9 + "with/a/path/" + "longer" * 10)
    bar.update(2)
with progress.phase("nothing to see"):
    pass
print("end")
"""


def test_log_lines_do_not_tear_a_bar_and_nothing_stays_of_it():
    text = run_in_terminal("-c", PHASES)
    lines, seen = screen_of(text, 80)
    assert lines == [
        "a warning " + "x" * 30, "another line " + "of words " * 7 + "of", "  words of words",
        "  with/a/path/" + "longer" * 10, "end",
    ]  # fmt: skip
    assert any(re.fullmatch(r"listing 'gs://bucket' \.\.\. 00:0\d", line) for line in seen)
    assert any("scoring a split of a set:  33%" in line for line in seen)
    assert any(re.fullmatch(r"\.\.\..*/long/end \.\.\. 00:00", line) for line in seen)
    assert "nothing to see" not in text
    assert "\x1b[3" not in text  # No colours, whatever NO_COLOR says.


def test_a_log_says_once_that_a_phase_goes_on(package_log):
    with mock.patch.object(progress, "_LOG_SECONDS", 0.02), progress.phase("listing"):
        time.sleep(0.1)
    with progress.phase("quick"):
        pass
    with mock.patch.object(progress, "_LOG_SECONDS", 0.0), progress.phase("of another process", show=False):
        time.sleep(0.02)
    assert package_log.messages == ["listing ..."]


def test_the_end_of_a_phase_that_fails_is_its_error():
    with pytest.raises(KeyError), progress.phase("listing"):
        raise KeyError


def test_a_path_is_absolute_and_a_url_on_a_terminal(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert terminal.link("a b/report.html") == f"{tmp_path}/a b/report.html"
    assert terminal.link("gs://bucket/report.html") == "gs://bucket/report.html"
    monkeypatch.setattr(sys, "stdout", mock.Mock(wraps=io.StringIO(), isatty=lambda: True))
    assert terminal.link("a b/\x1b[2Jx") == f"file://{tmp_path}/a%20b/%1B%5B2Jx"
    assert terminal.link("gs://bucket/report.html") == "gs://bucket/report.html"
