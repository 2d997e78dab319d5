"""Completion in real shells: bash and zsh at a terminal where the tabulator is pressed, fish by its own command."""

import os
import pty
import re
import select
import shutil
import subprocess
import time

import pytest

from tests.helpers.commands import answer, refusal
from trainer.commands import completion, dispatch

PROMPT = "ready> "
START = {
    "bash": (["bash", "--norc", "-i"], "bind 'set bell-style none'; source {script}"),
    "zsh": (["zsh", "-f", "-i"], "unsetopt beep; autoload -U compinit; compinit -u -D; source {script}"),
}
# What is typed before the tabulator, and the line behind it.
TYPED = {
    "deepdetect tr": "deepdetect train ",
    "deepdetect train --batch": "deepdetect train --batch_size=",
    "deepdetect train --det": "deepdetect train --deterministic ",
    "deepdetect train --optimizer=s": "deepdetect train --optimizer=sgd ",
    "deepdetect submit ru": "deepdetect submit run ",
    "deepdetect submit run --sp": "deepdetect submit run --spot ",
    "deepdetect submit run --dry_run=se": "deepdetect submit run --dry_run=server ",
    "deepdetect data-service --p": "deepdetect data-service --port=",
    "deepdetect demo draw --tr": "deepdetect demo draw --train_per_class=",
    "deepdetect completion z": "deepdetect completion zsh ",
}
FILES = {
    "deepdetect train --data_dir=ima": "deepdetect train --data_dir=images/",
    "deepdetect predict ima": "deepdetect predict images/",
}


def deepdetect(capsys, *words):
    return answer(capsys, dispatch.main, *words)


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """Return a folder with the script of each shell, in which there is a folder ``images``."""
    folder = tmp_path_factory.mktemp("completion")
    (folder / "images").mkdir()
    for shell, make in completion.SHELLS.items():
        (folder / f"script.{shell}").write_text(make())
    return folder


def needs(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")


class Terminal:
    """A shell at a terminal that knows no escape sequences."""

    def __init__(self, words, folder):
        pid, self._master = pty.fork()
        if pid == 0:
            os.chdir(folder)
            os.execvpe(words[0], words, {**os.environ, "TERM": "dumb"})
        self._pid = pid

    def type(self, keys, until):
        """Press keys, and wait until the terminal shows a text."""
        os.write(self._master, keys.encode())
        shown, ends = "", time.monotonic() + 30
        while until not in shown:
            assert select.select([self._master], [], [], max(ends - time.monotonic(), 0))[0], (keys, until, shown)
            shown += os.read(self._master, 65536).decode()

    def close(self):
        os.close(self._master)  # Which hangs up.
        os.waitpid(self._pid, 0)


@pytest.mark.slow
@pytest.mark.parametrize("shell", START)
def test_the_tabulator_completes_a_line(scripts, shell):
    needs(shell)
    words, setup = START[shell]
    terminal = Terminal(words, scripts)
    terminal.type(f"{setup.format(script=f'./script.{shell}')}; PS1='{PROMPT[:3]}''{PROMPT[3:]}'\n", PROMPT)
    for typed, line in {**TYPED, **FILES}.items():
        terminal.type(f"{typed}\t", line)
        terminal.type("\x15\n", PROMPT)  # Control-U: a new line.
    terminal.close()


@pytest.mark.slow
def test_completion_in_fish(scripts):
    needs("fish")
    typed = {
        **{each: line.strip().removesuffix("=").split()[-1] for each, line in {**TYPED, **FILES}.items()},
        "deepdetect he": "help", "deepdetect --ve": "--version", "deepdetect evaluate train --ver": "",
        "deepdetect submit list --sp": "", "deepdetect train --batch_size=": "",
    }  # fmt: skip
    asked = "".join(f"echo (complete -C'{each}')\n" for each in typed)
    done = subprocess.run(["fish", "--no-config", "-c", f"source script.fish\n{asked}"], cwd=scripts,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stderr == ""
    assert [line.partition("\t")[0] for line in done.stdout.splitlines()] == list(typed.values())
    described = subprocess.run(["fish", "--no-config", "-c", "source script.fish\ncomplete -C'deepdetect tun'"],
                               cwd=scripts, capture_output=True, text=True, check=True)  # fmt: skip
    assert described.stdout == "tune\tsearch for good settings\n"


def completed(script, *words):
    code = f'source {script}; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _deepdetect; echo "${{COMPREPLY[@]}}"'
    return subprocess.run(
        ["bash", "-c", code, "bash", *words], capture_output=True, text=True, check=True
    ).stdout.split()


def test_completion_in_bash(scripts, capsys):
    script = scripts / "script.bash"
    assert deepdetect(capsys, "completion", "bash") == (0, script.read_text(), "")
    assert completed(script, "deepdetect", "t") == ["train", "tune"]
    assert completed(script, "deepdetect", "train", "--batch") == ["--batch_size="]
    assert completed(script, "deepdetect", "train", "--optimizer", "=", "ada") == ["adam", "adamw"]
    assert completed(script, "deepdetect", "train", "--epochs", "=") == []
    assert completed(script, "deepdetect", "submit", "l") == ["list", "logs"]
    assert completed(script, "deepdetect", "submit", "run", "--sp") == ["--spot"]
    assert completed(script, "deepdetect", "submit", "list", "--sp") == []
    assert completed(script, "deepdetect", "data-service", "--p") == ["--port="]
    assert completed(script, "deepdetect", "compare", "--b") == ["--bootstrap="]


def test_the_text_of_the_script_for_fish(scripts, capsys):
    fish = (scripts / "script.fish").read_text()
    assert deepdetect(capsys, "completion", "fish") == (0, fish, "")
    assert "-n '__deepdetect_is train' -l batch_size -x " in fish
    assert "-n '__deepdetect_is train' -l data_dir -r " in fish
    assert "-n '__deepdetect_is submit run' -l spot -d " in fish
    assert "-a 'adam " in fish
    quoted = re.compile(r"(?:[^'\\]|'(?:[^'\\]|\\[\\'])*')*")  # As fish reads quotes.
    assert [line for line in fish.splitlines() if not quoted.fullmatch(line)] == []
    assert "did you mean 'fish'?" in refusal(capsys, dispatch.main, "completion", "fisch")
