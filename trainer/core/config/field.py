"""One setting: how a dataclass declares it, and the check of its values.

Used for the flags of every command.
Owns: types, ranges, choices and help.  Does not own: which settings exist (``sections/``).  Imports no TensorFlow.
"""

import dataclasses
import difflib
import logging
import math
import os
import typing
from collections.abc import Sequence
from typing import Any

from trainer.core import registry
from trainer.core.errors import RequestError
from trainer.core.storage import files

log = logging.getLogger(__name__)

Value = str | int | float | bool

_SWITCH = bool | str  # Of a setting that is on, off or ``auto``.

PATH, PATHS = "path", "paths"
AUTO = "auto"


def setting(
    default: Value,
    help: str,
    *,
    unit: str = "",
    choices: Sequence[str] = (),
    several: bool = False,
    dotted: bool = False,
    minimum: float = -math.inf,
    maximum: float = math.inf,
    exclusive: bool = False,
    fixed: bool = True,
    path: str = "",
    auto: Value | None = None,
    before: Value | None = None,
) -> Any:
    """Declare one setting as a dataclass field.

    Args:
        default: value if neither a flag nor ``--config`` sets one.
        help: what it does, including special values; shown by ``--help``.
        unit: unit of the value (steps, images, seconds), shown by ``--help``.
        choices: allowed strings; empty allows any.  A ``Registry`` also says what its choices are, see ``help_of``.
        several: whether a value may be several choices, separated by commas.
        dotted: whether ``module:function`` is allowed besides the choices.
        minimum: smallest allowed number.
        maximum: largest allowed number.
        exclusive: whether ``minimum`` and ``maximum`` themselves are not allowed.
        fixed: whether a resumed job must keep the value, because another one would change its result.
        path: ``PATH`` or ``PATHS`` (separated by commas), in which ``~`` is a home folder; empty for other values.
        auto: number that the word ``auto`` stands for; a job replaces it at its first start (``training/settle.py``).
            It may lie outside the range, and then only the word is allowed.  None: the word is not allowed, unless it
            is a choice.  Of ``bool | str``, the word itself.
        before: value in jobs that began before there was the setting; None: its default.
    """
    metadata = {
        "help": help,
        "unit": unit,
        "choices": choices,
        "several": several,
        "dotted": dotted,
        "minimum": minimum,
        "maximum": maximum,
        "exclusive": exclusive,
        "fixed": fixed,
        "path": path,
        "auto": auto,
        "before": before,
    }
    return dataclasses.field(default=default, metadata=metadata)


def kind(field: "dataclasses.Field[Any]") -> type:
    """Return the type of a setting's values besides ``auto``."""
    return bool if field.type == _SWITCH else field.type  # type: ignore[return-value]


def help_of(field: "dataclasses.Field[Any]") -> str:
    """Return a setting's help, with what its registry says about each choice."""
    choices = field.metadata["choices"]
    parts = [field.metadata["help"], choices.help if isinstance(choices, registry.Registry) else ""]
    if field.metadata["dotted"]:
        parts.append("Or module:function, your own (docs/training.md).")
    return " ".join(filter(None, parts))


def did_you_mean(name: str, names: typing.Iterable[str]) -> str:
    """Return "; did you mean ...?" for a near miss of one of the names, else an empty string."""
    near = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def check(field: "dataclasses.Field[Any]", value: Any) -> Value:
    """Return the value in the field's type.

    Raises:
        RequestError: if the type, the choice or the range is invalid.
    """
    converted = _convert(field, value)
    meta = field.metadata
    if meta["path"]:
        parts = str(converted).split(",") if meta["path"] == PATHS else [str(converted)]
        return ",".join(_at_home(field.name, part) for part in parts)
    if meta["choices"]:
        for choice in str(converted).split(",") if meta["several"] else [str(converted)]:
            _check_choice(field, choice)
    if isinstance(converted, (int, float)) and not isinstance(converted, bool) and converted != meta["auto"]:
        _check_range(field, converted)
    return converted


def check_written(field: "dataclasses.Field[Any]", value: Any) -> Value:
    """Return a value that a person wrote, as ``check`` does; the number that ``auto`` stands for counts as a number.

    Raises:
        RequestError: if the type, the choice or the range is invalid.
    """
    checked = check(field, value)
    if value != AUTO and isinstance(checked, (int, float)) and checked == field.metadata["auto"]:
        _check_range(field, checked)
    return checked


def written(field: "dataclasses.Field[Any]", value: Value) -> Value:
    """Return a value as a person writes it: the word ``auto`` instead of the number that it stands for."""
    return AUTO if field.metadata["auto"] is not None and is_auto(field, value) else value


def is_auto(field: "dataclasses.Field[Any]", value: Value) -> bool:
    """Return whether a setting's value stands for one that the job settles: ``auto``, or the number behind it."""
    number = field.metadata["auto"]
    return value == (AUTO if number is None else number)


def _at_home(name: str, path: str) -> str:
    """Return a path with its home folder, which a shell leaves to the command in ``--out=~/x``."""
    if not path.startswith("~"):
        return path
    expanded = files.expand_home(path)
    if expanded == path and not os.path.lexists(path):
        user = path.split("/", 1)[0]
        raise RequestError(f"--{name}: expected the home folder of a user, received {user!r}, whom this machine does "
                           f"not know; write ./{path} for a folder of that name")  # fmt: skip
    if expanded != path and os.path.lexists(path) and not os.path.lexists(expanded):
        log.warning("--%s: %s means %s; for the folder of that name here, write ./%s", name, path, expanded, path)
    return expanded


def _check_choice(field: "dataclasses.Field[Any]", value: str) -> None:
    """Refuse what is neither a choice nor an allowed ``module:function``."""
    meta = field.metadata
    if value in meta["choices"] or (meta["dotted"] and registry.is_dotted(value)):
        return
    other = ", or module:function" if meta["dotted"] else ""
    raise RequestError(f"--{field.name}: expected one of {', '.join(meta['choices'])}{other}; received {value!r}")


def _convert(field: "dataclasses.Field[Any]", value: Any) -> Value:
    """Accept the field's own type, a whole number for a float, and ``auto`` where it is allowed."""
    expected = kind(field)
    if value == AUTO and field.metadata["auto"] is not None:
        value = field.metadata["auto"]
        if value == AUTO:
            return AUTO
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not expected:
        raise RequestError(f"--{field.name}: expected {expected.__name__}, received {value!r}")
    return typing.cast(Value, value)


def _check_range(field: "dataclasses.Field[Any]", value: float) -> None:
    low = field.metadata["minimum"]
    high = field.metadata["maximum"]
    exclusive = field.metadata["exclusive"]
    inside = low < value < high if exclusive else low <= value <= high
    if inside and math.isfinite(value):
        return
    bounds = []
    if low > -math.inf:
        bounds.append(f"{'above' if exclusive else 'at least'} {low:g}")
    if high < math.inf:
        bounds.append(f"{'below' if exclusive else 'at most'} {high:g}")
    raise RequestError(
        f"--{field.name}: expected a number {' and '.join(bounds) or 'that is finite'}; received {value}"
    )
