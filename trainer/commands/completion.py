"""``deepdetect completion bash|zsh|fish``: prints a script that completes commands and flags, made from their tables.

Imports no TensorFlow.
"""

import shlex
from collections.abc import Callable, Mapping, Sequence

from trainer.commands.table import COMMANDS
from trainer.core.config import did_you_mean, kind
from trainer.core.config.help_page import WORDS, HelpPage, HelpRequested
from trainer.core.errors import EXIT_DONE, RequestError

USAGE = """\
Print a script that completes commands and flags.

  source <(deepdetect completion bash)                  in ~/.bashrc
  source <(deepdetect completion zsh)                   in ~/.zshrc, after compinit
  deepdetect completion fish | source                   in ~/.config/fish/config.fish"""

_BASH = """\
# Completion of deepdetect for bash; made by: deepdetect completion bash
_deepdetect_words() {
  case "$1" in
@CASES@
  esac
}
_deepdetect() {
  local current="${COMP_WORDS[COMP_CWORD]}" command="${COMP_WORDS[1]}" key=top
  COMPREPLY=()
  if [ "$COMP_CWORD" -gt 1 ]; then
    key="$command"
    if [ "$COMP_CWORD" -gt 2 ] && [ -n "$(_deepdetect_words "$command ${COMP_WORDS[2]}")" ]; then
      key="$command ${COMP_WORDS[2]}"
    fi
  fi
  COMPREPLY=($(compgen -W "$(_deepdetect_words "$key")" -- "$current"))
  case "${COMPREPLY[0]-}" in *=) compopt -o nospace 2>/dev/null ;; esac
}
complete -o default -F _deepdetect deepdetect
"""

_ZSH = """\
# Completion of deepdetect for zsh; made by: deepdetect completion zsh
autoload -U +X bashcompinit && bashcompinit
"""

_FISH_HEAD = "# Completion of deepdetect for fish; made by: deepdetect completion fish\n"


def main(argv: Sequence[str]) -> int:
    """Print the script of the shell that the word names.

    Raises:
        HelpRequested: for ``--help``.
        RequestError: for an unknown shell.
    """
    if any(word in WORDS for word in argv):
        raise HelpRequested(USAGE)
    if len(argv) != 1 or argv[0] not in SHELLS:
        received = " ".join(argv) or "none"
        raise RequestError(
            f"completion: expected one of {', '.join(SHELLS)}; received {received!r}{did_you_mean(received, SHELLS)}"
        )
    print(SHELLS[argv[0]](), end="")
    return EXIT_DONE


def words() -> dict[str, list[str]]:
    """Return what may follow: after nothing (``top``), a command, or a command with its action."""
    table = {"top": [*COMMANDS, "help", "--version"]}
    for name, command in COMMANDS.items():
        own = _flags(page_of(name)) or [f"--{flag}=" for flag in command.flags]
        table[name] = [*command.actions, *own, "--help"]
        for action in command.actions:
            if page := page_of(name, action):
                table[f"{name} {action}"] = [*_flags(page), "--help"]
    return table


def page_of(name: str, *action: str) -> HelpPage | None:
    """Return the page of a command's flags; None if it has no such page."""
    if name in ("completion", "benchmark"):
        return None
    try:
        COMMANDS[name].load()([*action, "--help"])
    except HelpRequested as help_requested:
        return help_requested.page
    return None


def _flags(page: HelpPage | None) -> list[str]:
    fields = page.fields if page else {}
    return [f"--{name}{'' if kind(field) is bool else '='}" for name, field in fields.items()]


def bash() -> str:
    """Return the script for bash."""
    cases = [f"    {shlex.quote(key)}) echo {shlex.quote(' '.join(some))} ;;" for key, some in words().items()]
    return _BASH.replace("@CASES@", "\n".join(cases))


def zsh() -> str:
    """Return the script for zsh, which takes that for bash."""
    return _ZSH + bash()


def fish() -> str:
    """Return the script for fish, where each command and flag has its description."""
    lines = [f"complete -c deepdetect -n __fish_use_subcommand -f -a {name} -d {_quoted(command.summary)}"
             for name, command in COMMANDS.items()]  # fmt: skip
    for name, command in COMMANDS.items():
        after = f"complete -c deepdetect -n '__fish_seen_subcommand_from {name}'"
        lines += [f"{after} -f -a {action}" for action in command.actions]
        pages = [page_of(name), *(page_of(name, action) for action in command.actions)]
        fields = {flag: field for page in pages if page for flag, field in page.fields.items()}
        for flag, field in fields.items():
            value = "" if kind(field) is bool else " -r"
            choices = f" -a {_quoted(' '.join(field.metadata['choices']))}" if field.metadata["choices"] else ""
            text = str(field.metadata["help"]).split(". ")[0]
            lines.append(f"{after} -l {flag}{value}{choices} -d {_quoted(text)}")
    return _FISH_HEAD + "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    r"""Return text in quotes of fish, in which ``\`` and ``'`` are escaped."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: Mapping[str, Callable[[], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
