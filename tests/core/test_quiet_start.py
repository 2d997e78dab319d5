"""The filter around TensorFlow's import, in real processes: known lines are hidden, all else appears in order."""

import os
import subprocess
import sys

import pytest

KNOWN = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "I0000 00:00:1795810734.905895   19716 port.cc:153] oneDNN custom operations are on. You may see slightly.",
    "I0000 00:00:1795810734.906236   19716 cudart_stub.cc:31] Could not find cuda drivers on your machine, GPU will "
    "not be used.",
    "I0000 00:00:1795810734.971540   19716 cpu_feature_guard.cc:227] This TensorFlow binary is optimized to use some.",
    "To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow with the appropriate "
    "compiler flags.",
    "2026-11-27 20:07:08.123456: I tensorflow/core/util/port.cc:153] oneDNN custom operations are on. You may see.",
)
UNKNOWN = (
    "F0000 00:00:1795810734.905895   19716 cpu_feature_guard.cc:70] The TensorFlow library was compiled to use AVX.",
    "I0000 00:00:1795810734.905895   19716 port.cc:153] something else",
    "  WARNING: All log messages before absl::InitializeLog() is called are written to STDERR",
    "",
    "To enable the following instructions: read the manual",
)

# A package called tensorflow that does what a test says.
PACKAGE = "import os\nimport subprocess\nimport sys\nimport time\n\ndef say(text):\n    os.write(2, text.encode())\n\n"
COMMAND = """
import os
import sys
from trainer.core import quiet_start

quiet_start.install()
sys.stderr.write("before\\n")
import tensorflow

assert type(tensorflow.__loader__).__name__ == type(tensorflow.__spec__.loader).__name__ == "SourceFileLoader"
os.write(2, b"after\\n")
say = tensorflow.say
say({known!r} + "\\n")
"""


@pytest.fixture
def run(tmp_path):
    """Return a function that imports a package called tensorflow in a child process, and returns code and stderr."""

    def run_command(body, **environment):
        (tmp_path / "tensorflow.py").write_text(PACKAGE + body)
        paths = os.pathsep.join([str(tmp_path), os.getcwd()])
        variables = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
        done = subprocess.run(
            [sys.executable, "-c", COMMAND.format(known=KNOWN[0])], capture_output=True, text=True, timeout=60,
            check=False, env={**variables, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        )  # fmt: skip
        return done.returncode, done.stderr

    return run_command


def say(*lines):
    return "".join(f"say({line + chr(10)!r})\n" for line in lines)


def test_known_lines_of_the_import_are_hidden_and_all_others_pass_in_order(run):
    lines = [line for pair in zip(KNOWN, (*UNKNOWN, "end"), strict=True) for line in pair]
    code, text = run(say(*lines))
    assert (code, text.splitlines()) == (0, ["before", *UNKNOWN, "end", "after", KNOWN[0]])  # Not after the import.


def test_lines_may_come_in_pieces_and_without_an_end(run):
    first, rest = KNOWN[1][:40], KNOWN[1][40:] + "\n"
    code, text = run(f"say({first!r})\nsay({rest!r})\nsay('a bar: 1 %')\ntime.sleep(0.3)\n"
                     f"say({KNOWN[0]!r} + chr(10))\nsay('\\tdone')\n")  # fmt: skip
    assert (code, text) == (0, f"before\na bar: 1 %\tdoneafter\n{KNOWN[0]}\n")


@pytest.mark.parametrize("end", ["os.abort()", "os._exit(3)", "os.kill(os.getpid(), 9)", "raise RuntimeError('no')"])
def test_what_a_dying_process_wrote_appears(run, end):
    code, text = run(say(KNOWN[0], *UNKNOWN) + f"say('the cause')\n{end}\n")
    assert code != 0
    assert text.startswith("\n".join(["before", *UNKNOWN, "the cause"]))
    assert KNOWN[0] not in text.splitlines()
    assert ("Fatal Python error: Aborted" in text) == (end == "os.abort()")


def test_a_child_that_outlives_the_import_keeps_its_stderr(run):
    code, text = run("subprocess.Popen(['sh', '-c', 'sleep 0.8; echo from the child >&2'])\n")
    assert (code, text) == (0, f"before\nafter\n{KNOWN[0]}\nfrom the child\n")


def test_a_user_who_asks_for_everything_gets_it(run):
    code, text = run(say(*KNOWN), TF_CPP_MIN_LOG_LEVEL="0")
    assert (code, text.splitlines()) == (0, ["before", *KNOWN, "after", KNOWN[0]])


def test_nothing_stays_of_the_filter(run):
    files = "sorted(os.listdir('/proc/self/fd'))"
    check = f"import atexit\nopened = {files}\natexit.register(lambda: say(str(set({files}) - set(opened))))\n"
    code, text = run(check)
    assert (code, text) == (0, f"before\nafter\n{KNOWN[0]}\nset()")


@pytest.mark.slow
def test_a_command_that_loads_tensorflow_says_nothing_of_it():
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    code = "from trainer.core import cli; cli.run_command(lambda _: print(__import__('tensorflow')) or 0, [])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
