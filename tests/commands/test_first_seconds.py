"""Signals in a command's first seconds, as process 1, for which the kernel drops what no handler takes."""

import functools
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.core import early_signals

ROOT = Path(__file__).resolve().parents[2]
ISOLATED = ["unshare", "--fork", "--pid", "--mount-proc", "--kill-child"]
# Modules that take the place of others, and tell when they are imported.
SLOW = "import os, time\nos.write(1, b'importing\\n')\ntime.sleep(40)\n"
STUBBORN = """
import os, time
while True:
    try:
        os.write(1, b"importing\\n")
        time.sleep(40)
    except KeyboardInterrupt:
        pass
"""


@functools.cache
def why_not():
    """Return why no process can be process 1 here; empty if it can."""
    try:
        return subprocess.run([*ISOLATED, "true"], capture_output=True, text=True, check=False).stderr.strip()
    except OSError as error:
        return str(error)


as_process_1 = pytest.mark.skipif(bool(why_not()), reason=f"no namespace for processes here: {why_not()}")


class Process1:
    """A Python process that is process 1 of its own namespace, after it has begun to import a module."""

    def __init__(self, folder, module, body, *words):
        (folder / f"{module}.py").write_text(body)
        environment = os.environ | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}
        self._outer = subprocess.Popen([*ISOLATED, sys.executable, *map(str, words)], env=environment, text=True,
                                       cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip
        self.wait()
        self._number = int(Path(f"/proc/{self._outer.pid}/task/{self._outer.pid}/children").read_text())

    def wait(self):
        """Wait until the module tells that it is being imported."""
        text = b""
        while not text.endswith(b"importing\n"):
            is_ready, _, _ = select.select([self._outer.stdout], [], [], 30)
            more = os.read(self._outer.stdout.fileno(), 1) if is_ready else b""
            if not more:
                pytest.fail(f"{text.decode()}{self.end()}")
            text += more

    def send(self, number):
        os.kill(self._number, number)

    def end(self):
        """Return exit code and stderr."""
        try:
            _, text = self._outer.communicate(timeout=30)
            return self._outer.returncode, text
        finally:
            self._outer.kill()  # And with it all in the namespace.


@pytest.fixture
def process_1(tmp_path):
    return functools.partial(Process1, tmp_path)


@as_process_1
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(early_signals.MODULES))
def test_the_first_signal_ends_a_module_that_is_being_imported(process_1, name):
    process = process_1("json", SLOW, "-m", name)
    process.send(signal.SIGTERM)
    assert process.end() == (75, "stopped: SIGTERM before anything was begun; rerun the same command\n")


@as_process_1
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_ends_an_installed_script_that_is_being_imported(process_1, tmp_path, number):
    script = tmp_path / "deepdetect-train"
    script.write_text("from trainer.train import console\nconsole()\n")
    process = process_1("json", SLOW, script)
    process.send(number)
    code, text = process.end()
    assert (code, text.split()[1]) == (75, number.name)


@as_process_1
@pytest.mark.slow
def test_the_second_signal_ends_an_import_of_tensorflow_that_takes_no_notice_of_the_first(process_1):
    process = process_1("tensorflow", STUBBORN, "-m", "trainer.train", "--selftest")
    process.send(signal.SIGTERM)
    process.wait()
    process.send(signal.SIGTERM)
    assert process.end()[0] == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("words", "is_command"),
    [
        ("python -m trainer.train --data_dir=D", True),
        ("python -u -X importtime -W ignore -mtrainer", True),
        ("python /usr/bin/deepdetect-evaluate", True),
        ("python /usr/bin/deepdetect train", True),
        ("python -m pytest trainer.train", False),
        ("python -c import trainer.train -m trainer.train", False),
        ("python notebook.py -m trainer.train", False),
        ("python", False),
    ],
)
def test_a_process_is_a_command_by_how_it_was_started(words, is_command):
    assert early_signals.is_command(words.split()) == is_command


def test_every_module_that_is_a_command_has_them():
    programs = {path.stem for path in (ROOT / "trainer").glob("*.py") if '__name__ == "__main__"' in path.read_text()}
    assert {f"trainer.{name}".removesuffix(".__main__") for name in programs} == early_signals.MODULES


def test_importing_the_package_leaves_the_handlers_of_another_program():
    code = "import signal; import trainer; print(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "True\n"
