"""Read a JSON object from a file and check its fields, so that a damaged file is one clear line, never a traceback.

Used for every JSON file that the project reads back.  Owns: the form of these errors, kinds of fields.  Does not own:
which fields a file has (the modules that read it).  Imports no TensorFlow.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from typing import Any

from trainer.core.errors import RequestError
from trainer.core.storage import files

_LONGEST = 60  # Characters of a value in a message.


class Malformed(RequestError):
    """A file that is there does not hold what was expected."""


@dataclasses.dataclass(frozen=True)
class Kind:
    """What a field may hold: a test, and the words for it."""

    accepts: Callable[[Any], bool]
    words: str
    required: bool = True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _are_names(value: Any) -> bool:
    return _is_list_of(value, lambda one: isinstance(one, str) and one != "") and len(set(value)) == len(value)


def _is_list_of(value: Any, accepts: Callable[[Any], bool]) -> bool:
    return isinstance(value, list) and all(map(accepts, value))


TRUTH = Kind(lambda value: isinstance(value, bool), "true or false")
TEXT = Kind(lambda value: isinstance(value, str), "text")
COUNT = Kind(_is_count, "a whole number from 0")
NUMBER = Kind(_is_number, "a finite number")
PROBABILITY = Kind(lambda value: _is_number(value) and 0 <= value <= 1, "a number from 0 to 1")
POSITIVE = Kind(lambda value: _is_number(value) and value > 0, "a finite number above 0")
OBJECT = Kind(lambda value: isinstance(value, dict), "an object")
OBJECTS = Kind(lambda value: _is_list_of(value, lambda one: isinstance(one, dict)), "a list of objects")
CLASSES = Kind(lambda value: _are_names(value) and len(value) > 1, "a list of two or more different names")


def optional(kind: Kind) -> Kind:
    """Return the kind of a field that may be absent."""
    return dataclasses.replace(kind, required=False)


def nullable(kind: Kind) -> Kind:
    """Return the kind of a field that may be null."""
    return Kind(lambda value: value is None or kind.accepts(value), f"{kind.words}, or null", kind.required)


def read(
    path: str, fields: Mapping[str, Kind], *, remedy: str, what: str = "a JSON object", flag: str = ""
) -> dict[str, Any]:
    """Return the object in a JSON file, its named fields checked; further fields are allowed.

    Args:
        path: local or remote.
        fields: what its fields must hold.
        remedy: what a person can do about a damaged file, the end of the message.
        what: the object, for messages.
        flag: that named the file; empty: none.

    Raises:
        FileNotFoundError, NotADirectoryError: if there is no such file.
        Malformed: if it cannot be read for any other reason, or does not hold such an object.
        StorageDown: if its storage does not answer.
    """
    content, name = read_content(path, flag)
    return parse(content, fields, name=name, remedy=remedy, what=what)


def read_content(path: str, flag: str = "") -> tuple[bytes, str]:
    """Return the bytes of a file, and the begin of messages about it; arguments and errors as of ``read``."""
    start = f"--{flag}: " if flag else ""
    try:
        content = files.read_bytes(path)
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        raise Malformed(f"{start}expected a file that can be read, received {path!r} ({error.strerror or error}); "
                        "give this account permission to read it, and see that it is a file") from error  # fmt: skip
    return content, f"{start}expected {path!r}"


def parse(
    content: bytes | str, fields: Mapping[str, Kind], *, name: str, remedy: str, what: str = "a JSON object"
) -> dict[str, Any]:
    """Return the object in a JSON text as ``read`` does; ``name`` begins the message, such as ``expected 'a.json'``.

    Raises:
        Malformed: if it does not hold such an object.
    """
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:  # Also of text that is not UTF-8.
        received = f"something else ({error})" if content.strip() else "an empty file"
        raise Malformed(f"{name} to hold {what}, received {received}; {remedy}") from error
    value = require_object(value, name=name, remedy=remedy, what=what)
    check(value, fields, name=name, remedy=remedy, what=what)
    return value


def require_object(value: Any, *, name: str, remedy: str, what: str) -> dict[str, Any]:
    """Return what a file holds if it is an object; arguments as of ``parse``.

    Raises:
        Malformed: if it is anything else.
    """
    if isinstance(value, dict):
        return value
    received = "an empty file" if value is None else _shown(value)
    raise Malformed(f"{name} to hold {what}, received {received}; {remedy}")


def check(
    value: Mapping[str, Any], fields: Mapping[str, Kind], *, name: str, remedy: str, what: str = "a JSON object"
) -> None:
    """Check the fields of an object; arguments as of ``parse``.

    Raises:
        Malformed: naming the first field that does not fit.
    """
    for field, kind in fields.items():
        if field not in value and not kind.required:
            continue
        if field not in value or not kind.accepts(value[field]):
            received = _shown(value[field]) if field in value else "none"
            raise Malformed(f"{name} to hold {what} with {kind.words} as {field!r}, received {received}; {remedy}")


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    text = text if len(text) <= _LONGEST else f"{text[:_LONGEST]} ..."
    return f"the {type(value).__name__} {text}" if isinstance(value, list | dict | str) else text
