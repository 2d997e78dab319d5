"""``deepdetect completion bash|zsh|fish``: prints a script that completes commands and flags, made from their tables.

Imports no TensorFlow.
"""

import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence

from trainer.commands.table import COMMANDS
from trainer.core.config import did_you_mean, kind
from trainer.core.config.help_page import WORDS, HelpPage, HelpRequested
from trainer.core.errors import EXIT_DONE, RequestError

USAGE = """\
Print a script that completes commands and flags.

  source <(deepdetect completion bash)                  in ~/.bashrc
  source <(deepdetect completion zsh)                   in ~/.zshrc, after compinit
  deepdetect completion fish | source                   in ~/.config/fish/config.fish"""

_OTHERS = "The commands, the version"

# What may follow: of a key, which is top, a command, a command with its action, or either with =FLAG for its choices.
_WORDS = """\
_deepdetect_words() {
  case "$1" in
@CASES@
  esac
}
"""

_BASH = """\
# Completion of deepdetect for bash; made by: deepdetect completion bash
@WORDS@
_deepdetect() {
  local current="${COMP_WORDS[COMP_CWORD]}" before="${COMP_WORDS[COMP_CWORD-1]}" key=top flag=
  COMPREPLY=()
  if [ "$COMP_CWORD" -gt 1 ]; then
    key="${COMP_WORDS[1]}"
    if [ "$COMP_CWORD" -gt 2 ] && [ -n "$(_deepdetect_words "$key ${COMP_WORDS[2]}")" ]; then
      key="$key ${COMP_WORDS[2]}"
    fi
  fi
  # bash counts = as a word of its own.  A value without choices is a file.
  if [ "$current" = "=" ]; then flag="$before" current=
  elif [ "$before" = "=" ]; then flag="${COMP_WORDS[COMP_CWORD-2]}"
  fi
  if [ -n "$flag" ]; then key="$key=${flag#--}"; fi
  COMPREPLY=($(compgen -W "$(_deepdetect_words "$key")" -- "$current"))
  case "${COMPREPLY[0]-}" in *=) compopt -o nospace 2>/dev/null ;; esac
}
complete -o default -F _deepdetect deepdetect
"""

_ZSH = """\
# Completion of deepdetect for zsh; made by: deepdetect completion zsh
@WORDS@
_deepdetect() {
  local key=top
  local -a all
  if (( CURRENT > 2 )); then
    key=$words[2]
    if (( CURRENT > 3 )) && [[ -n "$(_deepdetect_words "$key $words[3]")" ]]; then key="$key $words[3]"; fi
  fi
  if [[ $PREFIX == --*=* ]]; then
    all=(${=$(_deepdetect_words "$key=${${PREFIX#--}%%=*}")})
    compset -P '*='
    if (( $#all )); then compadd -a all; else _files; fi
    return
  fi
  all=(${=$(_deepdetect_words "$key")})
  local -a flags=(${(M)all:#*=}) others=(${all:#*=})
  compadd -S '' -a flags
  compadd -a others
  [[ $PREFIX == -* || $key == top ]] || _files
}
compdef _deepdetect deepdetect
"""

_FISH = """\
# Completion of deepdetect for fish; made by: deepdetect completion fish
function __deepdetect_is -d 'Whether the command line has this command, and this action of it'
  set -l words (commandline -opc)
  test "$words[2]" = "$argv[1]"; and test -z "$argv[2]" -o "$words[3]" = "$argv[2]"
end
function __deepdetect_first -d 'Whether the word after these is next'
  set -l words (commandline -opc)
  test "$words[2..-1]" = "$argv"
end
"""


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
    """Return what may follow a key, as the scripts for bash and zsh look it up."""
    table = {"top": [*COMMANDS, "help", "--version"]}
    for name, command in COMMANDS.items():
        own = _flags(page_of(name)) or [f"--{flag}=" for flag in command.flags]
        table[name] = [*command.actions, *own, "--help"]
        table |= _choices(name, page_of(name))
        for action in command.actions:
            if page := page_of(name, action):
                table[f"{name} {action}"] = [*_flags(page), "--help"]
                table |= _choices(f"{name} {action}", page)
    return table


def _choices(key: str, page: HelpPage | None) -> dict[str, list[str]]:
    fields = page.fields if page else {}
    return {f"{key}={name}": list(field.metadata["choices"]) for name, field in fields.items()
            if field.metadata["choices"]}  # fmt: skip


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
    return _BASH.replace("@WORDS@\n", _table())


def zsh() -> str:
    """Return the script for zsh."""
    return _ZSH.replace("@WORDS@\n", _table())


def _table() -> str:
    cases = [f"    {shlex.quote(key)}) echo {shlex.quote(' '.join(some))} ;;" for key, some in words().items()]
    return _WORDS.replace("@CASES@", "\n".join(cases))


def fish() -> str:
    """Return the script for fish, where each command and flag has its description."""
    lines = [f"complete -c deepdetect -n __deepdetect_first -f -a {name} -d {_quoted(command.summary)}"
             for name, command in COMMANDS.items()]  # fmt: skip
    lines.append(f"complete -c deepdetect -n __deepdetect_first -f -a 'help --version' -d {_quoted(_OTHERS)}")
    for name, command in COMMANDS.items():
        lines += [f"complete -c deepdetect -n '__deepdetect_first {name}' -f -a {action}" for action in command.actions]
        pages = {name: page_of(name), **{f"{name} {action}": page_of(name, action) for action in command.actions}}
        for key, page in pages.items():
            lines += [f"complete -c deepdetect -n '__deepdetect_is {key}' {flag}" for flag in _fish_flags(page)]
    return _FISH + "\n".join(lines) + "\n"


def _fish_flags(page: HelpPage | None) -> Iterator[str]:
    yield "-l help -d 'Explain the flags'"
    for name, field in (page.fields if page else {}).items():
        # A file may follow a path; other values have their choices, or none.
        value = "" if kind(field) is bool else " -r" if field.metadata["path"] else " -x"
        choices = f" -a {_quoted(' '.join(field.metadata['choices']))}" if field.metadata["choices"] else ""
        yield f"-l {name}{value}{choices} -d {_quoted(str(field.metadata['help']).split('. ')[0])}"


def _quoted(text: str) -> str:
    r"""Return text in quotes of fish, in which ``\`` and ``'`` are escaped."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


SHELLS: Mapping[str, Callable[[], str]] = {"bash": bash, "zsh": zsh, "fish": fish}
