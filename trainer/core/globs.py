"""Expand the words of a command line into files: files, folders, globs and "-" for a list on stdin.

Owns: expansion and order.  Does not own: whether a file is an image.  Imports no TensorFlow.
"""

import fnmatch
import glob
import os
from collections.abc import Iterable, Iterator, Sequence

from trainer.core.errors import AccessDenied, RequestError
from trainer.core.storage import files

_WILDCARDS = "*?["


def expand(words: Sequence[str], stdin: Iterable[str], endings: tuple[str, ...] = ()) -> list[str]:
    """Return the paths that the words name, each once, in the order of the words and sorted within each.

    A folder stands for all files below it, a glob for everything that it matches (of folders all files below; ``**``
    crosses folders), and "-" for the lines of ``stdin``, unchanged.  Hidden files and folders are left out unless they
    are named.  With ``endings``, so are files whose lower-case name has none of them.  A word that matches nothing is
    returned unchanged, so that reading it raises the error that names it.

    Raises:
        RequestError: if there are no words, or none of them names anything that may be read.
    """
    if not words:
        raise RequestError('expected a PATH (file, folder, glob, or "-" for a list on stdin), received none')
    result: dict[str, None] = {}  # An ordered set.
    any_match = False
    refusal: AccessDenied | None = None
    for word in words:
        if word == "-":
            paths, fallback = [line.strip() for line in stdin if line.strip()], []
        else:
            try:
                paths = sorted(_expand_word(word, endings))
            except AccessDenied as error:
                paths, refusal = [], error
            fallback = [word]
        any_match = any_match or bool(paths)
        result |= dict.fromkeys(paths or fallback)
    if not any_match and refusal is not None:
        raise refusal
    if not any_match:
        received = f"{', '.join(words[:3])}{' ...' if words[3:] else ''}"
        raise RequestError(
            f"expected a PATH that names {'videos' if endings else 'images'}, received {received} with no "
            f"{'file' if not endings else '/'.join(endings)} there; check the spelling"
        )
    return list(result)


def _expand_word(word: str, endings: tuple[str, ...]) -> Iterator[str]:
    if files.exists(word) and not files.is_dir(word):
        yield word
    else:
        yield from (path for path in _matching(word) if not endings or path.lower().endswith(endings))


def _matching(word: str) -> Iterator[str]:
    """Yield the files of a folder or a glob."""
    if files.is_dir(word):
        yield from _below(word)
    elif files.is_remote(word) and any(sign in word for sign in _WILDCARDS):
        yield from _remote_glob(word)
    else:
        for match in glob.iglob(os.path.expanduser(word), recursive=True):
            yield from _below(match) if os.path.isdir(match) else [match]


def _below(folder: str) -> Iterator[str]:
    """Yield the files below a folder that are not hidden; linked folders are left out, because they can loop."""
    return (files.join(folder, name) for name in files.list_below(folder) if not name.endswith("/"))


def _remote_glob(pattern: str) -> Iterator[str]:
    """Match below the last folder without a wildcard."""
    scheme, rest = pattern.split("://", 1)
    parts = rest.split("/")
    fixed = next(i for i, part in enumerate(parts) if any(sign in part for sign in _WILDCARDS))
    base = f"{scheme}://{'/'.join(parts[:fixed])}"
    for path in _below(base):
        if _matches(path[len(base) :].strip("/").split("/"), parts[fixed:]):
            yield path


def _matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether a path, or a folder above it, matches part by part."""
    if not patterns:
        return True
    if patterns[0] == "**":
        return any(_matches(parts[skip:], patterns[1:]) for skip in range(len(parts)))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:])
