"""``deepdetect COMMAND``: finds the command, runs it, and shows its help short first.

Does not own: the commands (``table.py``), their flags and whole pages.  Imports no TensorFlow.
"""

from collections.abc import Sequence

import trainer
from trainer.commands.table import COMMANDS, Command
from trainer.core.config import did_you_mean
from trainer.core.config.flags import HelpRequested
from trainer.core.config.help_page import WORDS
from trainer.core.errors import EXIT_DONE, RequestError

# Packages of the extras in setup.py: without one of them an installation is incomplete.
_OF_EXTRAS = {
    "tensorflow", "keras", "simplejpeg", "sklearn", "joblib", "scipy", "matplotlib", "jinja2", "PIL", "tqdm",
    "keras_tuner", "threadpoolctl", "cv2",
}  # fmt: skip
_HELP = ("help", *WORDS)


def main(argv: Sequence[str]) -> int:
    """Run the command that the first word names; returns its exit code.

    Raises:
        HelpRequested: for ``help``, or if the words ask for a page.
        RequestError: if there is no such command, or the request to it is wrong.
    """
    first, words = (argv[0], list(argv[1:])) if argv else ("help", [])
    if first == "--version":
        print(f"deepdetect {trainer.__version__}")
        return EXIT_DONE
    if first in _HELP and words and words[0].replace("_", "-") in COMMANDS:  # help train [--help=all]
        first, words = words[0], words[1:] or ["--help"]
    if (first in _HELP and (words[:1] in (["all"], ["--help=all"]))) or first == "--help=all":
        raise HelpRequested(all_commands())
    if first in _HELP:
        _refuse_more(words)
        raise HelpRequested(overview())
    name = first.replace("_", "-")
    if name not in COMMANDS:
        raise RequestError(f"expected a command, received {first!r}{did_you_mean(name, COMMANDS)}; see deepdetect help")
    return _run(name, COMMANDS[name], words)


def overview() -> str:
    """Return the commands in about ten lines."""
    groups: dict[str, list[str]] = {}
    for name, command in COMMANDS.items():
        groups.setdefault(command.group, []).append(name)
    return "\n".join([
        f"deepdetect {trainer.__version__}: train, evaluate and use a detector of fake images.", "",
        "  deepdetect COMMAND [flags]", "",
        *(f"  {heading + ':':<10} {', '.join(names)}" for heading, names in groups.items()), "",
        "deepdetect help all: what each is for.  deepdetect COMMAND --help: its flags.",
    ])  # fmt: skip


def all_commands() -> str:
    """Return a line for each command."""
    lines = ["deepdetect COMMAND [flags]"]
    heading = ""
    for name, command in COMMANDS.items():
        if command.group != heading:
            heading = command.group
            lines += ["", f"{heading}:"]
        lines.append(f"  {name:<13} {command.summary}")
    lines += ["", "In flags - and _ are alike.  deepdetect --version prints the version.  Exit codes:"]
    lines += ["0 done; 2 wrong request; 75 stopped, everything is saved, rerun it; 1 other errors."]
    return "\n".join(lines)


def _refuse_more(words: Sequence[str]) -> None:
    if words:
        near = did_you_mean(words[0], COMMANDS)
        raise RequestError(f"help: expected a command or all, received {words[0]!r}{near}; see deepdetect help")


def _run(name: str, command: Command, words: Sequence[str]) -> int:
    own = words[: list(words).index("--")] if "--" in words else words
    is_short = any(word in WORDS and word != "--helpfull" for word in own)
    try:
        return command.load()(words)
    except HelpRequested as help_requested:
        page = help_requested.page
        if page is None or not is_short or (command.actions and words[0] in command.actions):
            text = str(help_requested)
        else:
            text = page.short(f"deepdetect {name}", command.flags)
        is_file = help_requested.is_file
        raise HelpRequested(in_words_of(name, command, text), is_file=is_file) from help_requested
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in _OF_EXTRAS:
            raise
        raise RequestError(
            f"{name}: expected the package {package}, received an installation without it; install the rest with: pip "
            "install 'deepdetect[all]'"
        ) from error


def in_words_of(name: str, command: Command, text: str) -> str:
    """Return a page of a command as it reads for those who call it by this name."""
    for module in command.modules:
        text = text.replace(module, f"deepdetect {name}")
    return text
