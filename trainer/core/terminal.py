"""Text as a terminal or a page may show it: names of files can hold escape sequences that a terminal would obey.

Does not own: files of results, which keep every name as it is (``tables.py``).  Imports no TensorFlow.
"""

import os
import pathlib
import re
import sys
import textwrap

# Controls, marks that reorder a line, line separators, and halves of characters, as which undecodable bytes appear.
_UNSAFE = re.compile("[\0-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_UNSAFE_IN_LINE = re.compile(_UNSAFE.pattern[:-1] + "\t\n]")


def visible(text: str) -> str:
    r"""Return text whose control characters are spelled out (``\x1b``); line feeds and tabs stay."""
    return _UNSAFE.sub(_escape, text)


def in_line(text: str) -> str:
    """Return text as ``visible`` does, on one line: line feeds and tabs are spelled out, too."""
    return _UNSAFE_IN_LINE.sub(_escape, text)


def wrapped(text: str, columns: int) -> str:
    """Return text whose lines have at most so many columns, broken between words; a long word, such as a path, stays.

    What a line goes on with stands two columns further in than its beginning.
    """
    return "\n".join(line if len(line) <= columns else _wrapped(line, columns) for line in text.split("\n"))


def _wrapped(line: str, columns: int) -> str:
    indent = line[: len(line) - len(line.lstrip())] + "  "
    return textwrap.fill(line, columns, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def link(path: str) -> str:
    """Return a local path as one can click it: a file:// URL on a terminal, elsewhere the absolute path."""
    if "://" in path:
        return visible(path)
    whole = os.path.abspath(path)
    return pathlib.Path(whole).as_uri() if sys.stdout.isatty() else visible(whole)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    if 0xDC80 <= code <= 0xDCFF:  # A byte of a name that is not UTF-8.
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
