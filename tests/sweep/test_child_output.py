"""What a child process writes, in a terminal of 80 columns and without one."""

import subprocess
import sys

from tests.helpers.terminals import run_in_terminal, screen_of
from trainer.sweep import child_output

CHILD = """
import os, sys, time
from trainer.core import cli, progress
from trainer.core.errors import RequestError

def main(words):
    with progress.bar(3, "image", "scoring") as bar:
        bar.update(1)
        cli.logging.getLogger("trainer").info("a line of the log, in %d columns", progress.columns(sys.stderr))
        if sys.stderr.isatty() and "killed" in words:
            os.kill(os.getpid(), 9)
    raise RequestError("expected a number of steps, " + "received " * 8 + "three; do this")

cli.console(main)
"""
PARENT = f"""
import subprocess, sys
from trainer.sweep import child_output

with child_output.passed_on() as (output, lines):
    subprocess.run([sys.executable, "-c", {CHILD!r}, *sys.argv[1:]], stdout=output, stderr=output)
print(list(lines))
"""
ERROR = "error: expected a number of steps, " + "received " * 8 + "three; do this"


def test_a_child_has_the_terminal_of_its_parent_and_its_last_words_are_whole():
    text = run_in_terminal("-c", PARENT, columns=70)
    rows, seen = screen_of(text.replace("\r\n", "\n\r"), 200)
    assert rows[0] == "a line of the log, in 70 columns"
    assert any(row.startswith("scoring:  33%|") for row in seen)
    assert len(rows[1]) <= 70
    assert rows[-1] == f"['{rows[0]}', {ERROR!r}]"


def test_nothing_is_written_behind_the_bar_of_a_killed_child():
    rows, _ = screen_of(run_in_terminal("-c", PARENT, "killed"), 80)
    assert rows[-2].startswith("scoring:  33%|")
    assert rows[-1] == "['a line of the log, in 80 columns']"


def test_where_there_is_no_further_terminal_the_lines_are_passed_on():
    refuse = "import os\ndef refuse():\n    raise OSError\nos.openpty = refuse\n"
    rows, _ = screen_of(run_in_terminal("-c", refuse + PARENT), 200)
    assert rows[0] == "a line of the log, in 80 columns"
    assert rows[-1] == f"['{rows[0]}', {ERROR!r}]"


def test_without_a_terminal_there_are_whole_lines_alone(capfd):
    with child_output.passed_on() as (output, lines):
        subprocess.run([sys.executable, "-c", CHILD], stdout=output, stderr=output, check=False)
    assert list(lines) == ["a line of the log, in 80 columns", ERROR]
    assert capfd.readouterr().err.splitlines() == list(lines)
