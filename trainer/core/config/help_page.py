"""The page of ``--help``: whole, one section of it, or short with a line for each flag that people need.

Does not own: flags and their values (``flags.py``).  Imports no TensorFlow.
"""

import dataclasses
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from trainer.core import config as config_lib
from trainer.core.errors import RequestError

Fields = Mapping[str, "dataclasses.Field[Any]"]

WORDS = ("--help", "-help", "-h", "--helpfull")
_SECTION = re.compile(r"--?help=(.*)", re.DOTALL)
_ALL = "all"
_NARROWEST, _WIDEST, _SHORT_HEAD = 80, 100, 28  # Characters of a line, and of the flag in it.


@dataclasses.dataclass(frozen=True)
class HelpPage:
    """What ``--help`` can show of a command.

    Attributes:
        usage: text above the flags.
        fields: the flags.
        sections: flag names by heading; None puts all under one.
        required: flags without which the command is refused.
    """

    usage: str
    fields: Fields
    sections: Mapping[str, Sequence[str]] | None = None
    required: Sequence[str] = ()

    def whole(self) -> str:
        """Return the usage, then each flag with default, unit, choices and meaning."""
        lines = [self.usage.rstrip()]
        for heading, names in (self.sections or {"Flags": list(self.fields)}).items():
            lines += ["", *self._section(heading, names)]
        return "\n".join(lines)

    def section(self, name: str) -> str:
        """Return one section of the flags, or the whole page for ``all``.

        Raises:
            RequestError: if there is no such section.
        """
        if name == _ALL:
            return self.whole()
        headings = {heading.lower(): heading for heading in self.sections or {}}
        heading = headings.get(name.lower())
        if heading is None or self.sections is None:
            near = config_lib.did_you_mean(name.lower(), headings)
            raise RequestError(f"--help: expected one of {', '.join([_ALL, *headings])}; received {name!r}{near}")
        return "\n".join(self._section(heading, self.sections[heading]))

    def short(self, command: str, names: Sequence[str]) -> str:
        """Return a line for each of the flags ``names`` (empty: for all), required ones first, and where the rest is.

        Args:
            command: how the reader calls the command.
            names: flags that people need.
        """
        parts = self.usage.split("\n\n")
        shown = sorted(names or self.fields, key=lambda name: name not in self.required)
        lines = ["\n\n".join(parts[:2]), "", *(self._line(name) for name in shown), ""]
        end = "; --help=SECTION some:" if self.sections else "."
        lines.append(f"{command} --help={_ALL} explains all {len(self.fields)} flags{end}")
        lines += [f"  {', '.join(heading.lower() for heading in self.sections)}"] if self.sections else []
        return "\n".join(lines)

    def _line(self, name: str) -> str:
        field = self.fields[name]
        default = "" if name in self.required else self._default(field)
        head = f"  --{name}" + (f"={default}" if default and config_lib.kind(field) is not bool else "")
        head += " (required)" if name in self.required else ""
        sentence = re.split(r"(?<=[a-z)0-9]\.) ", field.metadata["help"])[0].rstrip(".")
        columns = min(max(shutil.get_terminal_size((_WIDEST, 24)).columns, _NARROWEST), _WIDEST)
        width = columns - max(_SHORT_HEAD, len(head) + 2)
        text = textwrap.shorten(sentence, width, placeholder=" ...", break_on_hyphens=False)
        return f"{head:<{_SHORT_HEAD - 2}}  {text}"

    @staticmethod
    def _default(field: "dataclasses.Field[Any]") -> str:
        return config_lib.AUTO if field.default == field.metadata["auto"] else str(field.default)

    def _section(self, heading: str, names: Sequence[str]) -> Iterable[str]:
        yield f"{heading}:"
        for name in names:
            yield from self._flag(self.fields[name])

    def _flag(self, field: "dataclasses.Field[Any]") -> Iterable[str]:
        meta = field.metadata
        if config_lib.kind(field) is bool:
            default = field.default if field.default == config_lib.AUTO else "on" if field.default else "off"
            head = f"  --{field.name}  (default: {default}; --no{field.name} switches it off)"
        else:
            unit = f" {meta['unit']}" if meta["unit"] else ""
            kind = _auto_kind(field) or "|".join(meta["choices"]) or f"<{field.type.__name__}{unit}>"  # type: ignore[union-attr]
            number = "" if field.default == meta["auto"] else unit
            has_default = field.default != "" and field.name not in self.required
            default = f"  (default: {self._default(field)}{number})" if has_default else ""
            head = f"  --{field.name}={kind}{default}{'  (required)' if field.name in self.required else ''}"
        text = config_lib.help_of(field)
        return [head, *textwrap.wrap(text, 100, initial_indent="      ", subsequent_indent="      ")]


class HelpRequested(Exception):
    """``--help`` was requested; carries the text to print, and the page that it is of if there is one.

    Lines of a text that is no file may break where the terminal ends.
    """

    def __init__(self, text: str, page: HelpPage | None = None, *, is_file: bool = False) -> None:
        super().__init__(text)
        self.page = page
        self.is_file = is_file


def answer(argv: Sequence[str], page: HelpPage) -> None:
    """Show the page, or the section of it that the words of a command ask for, if they ask for help.

    Raises:
        HelpRequested: if they do.
        RequestError: if there is no such section.
    """
    for word in argv:
        if word in WORDS:
            raise HelpRequested(page.whole(), page)
        if match := _SECTION.fullmatch(word):
            raise HelpRequested(page.section(match[1]), page)


def _auto_kind(field: "dataclasses.Field[Any]") -> str:
    return "" if field.metadata["auto"] is None else f"<{field.type.__name__}|auto>"  # type: ignore[union-attr]
