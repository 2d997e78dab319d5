"""Expand the words of a command line into files: files, folders, globs and "-" for a list on stdin.

Owns: expansion and order.  Does not own: which files are images or videos.  Imports no TensorFlow.
"""

import collections
import fnmatch
import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence

from trainer.core.errors import AccessDenied, RequestError
from trainer.core.litter import NOTHING, LeftOut, is_litter, is_litter_folder
from trainer.core.storage import files, listing

log = logging.getLogger(__name__)

_WILDCARDS = "*?["


def with_endings(endings: tuple[str, ...]) -> Callable[[str], bool]:
    """Return a function that says whether the name of a file has one of these lower-case endings, in any case."""
    return lambda path: path.lower().endswith(endings)


def expand(
    words: Sequence[str],
    stdin: Iterable[str],
    takes: Callable[[str], bool] | None = None,
    *,
    kinds: str = "",
    report: Callable[[str], None] = lambda line: log.info("%s", line),
) -> list[str]:
    """Return the paths that the words name, each once, in the order of the words and sorted within each.

    A folder stands for all files below it, a glob for everything that it matches (of folders all files below; ``**``
    crosses folders), and "-" for the names in ``stdin``, unchanged.  ``~`` is a home folder.  Hidden files and folders
    are left out unless they are named, as are litter (``litter.py``), pipes, devices and what ``takes`` refuses.  A
    word that matches nothing is returned unchanged, so that reading it raises the error that names it.

    Args:
        words: see above.
        stdin: names for "-".
        takes: says whether a file that a folder or a glob holds is of the right kind; None takes all.
        kinds: what the error for no file says that was expected, such as "images, or videos with --video".
        report: called with a line on what was left out, if anything was.

    Raises:
        RequestError: if there are no words, none of them names anything that may be read, or a folder may not be
            listed.
    """
    if not words:
        raise RequestError('expected a PATH (file, folder, glob, or "-" for a list on stdin), received none')
    result: dict[str, None] = {}  # An ordered set.
    any_match = False
    refusal: AccessDenied | None = None
    left_out: list[LeftOut] = []
    for word in words:
        if word == "-":
            paths, fallback = list(filter(None, stdin)), []
        else:
            try:
                paths = sorted(_expand_word(word, takes, left_out))
            except AccessDenied as error:
                paths, refusal = [], error
            fallback = [word]
        any_match = any_match or bool(paths)
        result |= dict.fromkeys(paths or fallback)
    others = sum(left_out, NOTHING).describe()
    if any_match and others:
        report(others)
    if not any_match and refusal is not None:
        raise refusal
    if not any_match:
        raise _nothing(words, kinds, others)
    return list(result)


def _nothing(words: Sequence[str], kinds: str, others: str) -> RequestError:
    received = f"{', '.join(words[:3])}{' ...' if words[3:] else ''}"
    finding = f"none there ({others})" if others else "no file there"
    return RequestError(
        f"expected a PATH that names {kinds or 'files'}, received {received} with {finding}; check the spelling"
    )


def _expand_word(word: str, takes: Callable[[str], bool] | None, left_out: list[LeftOut]) -> Iterator[str]:
    """Yield the files that a word names; append what it left out."""
    if _is_file(word):
        yield word
        return
    for paths, others in _matches_of(files.expand_home(word)):
        left_out.append(others)
        for path in paths:
            if takes is None or takes(path):
                yield path
            else:
                left_out.append(LeftOut(others=(path,)))


def _is_file(word: str) -> bool:
    """Return whether a word names a file; reading it tells what is wrong with one that this account may not see."""
    try:
        return files.exists(word) and not files.is_dir(word)
    except RequestError:
        return not files.is_remote(word)


def _matches_of(word: str) -> Iterator[tuple[list[str], LeftOut]]:
    """Yield the files of each match, and what was left out."""
    if files.is_dir(word):
        yield _below(word)
    elif files.is_remote(word):
        if any(sign in word for sign in _WILDCARDS):
            yield _remote_glob(word)
    else:
        for match in _local_glob("/" if word.startswith("/") else "", [part for part in word.split("/") if part]):
            yield _below(match) if files.is_dir(match) else _file(match)


def _file(path: str) -> tuple[list[str], LeftOut]:
    """Return a match that is no folder, or why it is left out."""
    if is_litter(path.rpartition("/")[2]):
        return [], LeftOut(litter=(path,))
    result = listing.status(path)
    if result is not None and not stat.S_ISREG(result.st_mode):
        return [], LeftOut(special=(path,))
    return [path], LeftOut()


def _below(folder: str) -> tuple[list[str], LeftOut]:
    """Return the files below a folder that are not hidden, and what was left out.

    Linked folders are left out, because they can loop.
    """
    if files.is_remote(folder):
        paths = [name for name in files.list_below(folder) if not name.endswith("/")]
        litter = [name for name in paths if is_litter(name)]
        return [files.join(folder, name) for name in paths if not is_litter(name)], LeftOut(tuple(litter))
    names: list[str] = []
    litter = []
    special: list[str] = []

    def enters(path: str) -> bool:
        if is_litter_folder(path):
            litter.append(f"{path}/")
        return not listing.is_hidden(path) and not is_litter_folder(path)

    for name, kind in listing.walk(folder, follow_links=False, enters=enters):
        if not listing.is_hidden(name):
            (litter if is_litter(name) else names if kind is listing.Kind.FILE else special).append(name)
    return [files.join(folder, name) for name in names], LeftOut(tuple(litter), tuple(special))


def _local_glob(base: str, parts: Sequence[str]) -> Iterator[str]:
    """Yield what the parts of a pattern match below ``base`` ("" for the current folder), as ``glob.glob`` does.

    That one takes a folder that cannot be listed for an empty one.
    """
    if not parts:
        yield base
    elif parts[0] == "**":
        for folder in ["", *_folders_below(base or ".")]:
            yield from _local_glob(os.path.join(base, folder), parts[1:]) if parts[1:] else _files_in(base, folder)
    elif not any(sign in parts[0] for sign in _WILDCARDS):
        path = os.path.join(base, parts[0])
        if listing.status(path) is not None or os.path.islink(path):
            yield from _local_glob(path, parts[1:])
    else:
        for entry in listing.entries(base or "."):
            is_meant = parts[0].startswith(".") or not listing.is_hidden(entry.name)
            is_folder = entry.kind is listing.Kind.FOLDER
            is_way = not is_litter_folder(entry.name) if is_folder else len(parts) == 1
            if is_meant and is_way and fnmatch.fnmatchcase(entry.name, parts[0]):
                yield from _local_glob(os.path.join(base, entry.name), parts[1:])


def _files_in(base: str, folder: str) -> Iterator[str]:
    path = os.path.join(base, folder)
    members = listing.entries(path or ".")
    return (os.path.join(path, one.name) for one in members
            if one.kind is not listing.Kind.FOLDER and not listing.is_hidden(one.name))  # fmt: skip


def _folders_below(base: str) -> list[str]:
    """Return the folders below ``base`` that are neither hidden nor litter, links followed, each once."""
    folders: list[str] = []

    def enters(path: str) -> bool:
        if listing.is_hidden(path) or is_litter_folder(path):
            return False
        folders.append(path)
        return True

    collections.deque(listing.walk(base, follow_links=True, enters=enters), maxlen=0)
    return folders


def _remote_glob(pattern: str) -> tuple[list[str], LeftOut]:
    """Return what matches below the last folder without a wildcard, and what was left out there."""
    scheme, rest = pattern.split("://", 1)
    parts = rest.split("/")
    fixed = next(i for i, part in enumerate(parts) if any(sign in part for sign in _WILDCARDS))
    base = f"{scheme}://{'/'.join(parts[:fixed])}"
    paths, left_out = _below(base)
    return [path for path in paths if _matches(path[len(base) :].strip("/").split("/"), parts[fixed:])], left_out


def _matches(parts: Sequence[str], patterns: Sequence[str]) -> bool:
    """Return whether a path, or a folder above it, matches part by part."""
    if not patterns:
        return True
    if patterns[0] == "**":
        return any(_matches(parts[skip:], patterns[1:]) for skip in range(len(parts)))
    return bool(parts) and fnmatch.fnmatchcase(parts[0], patterns[0]) and _matches(parts[1:], patterns[1:])
