"""The search space of a sweep: which trainer flags vary, and over which values.  Imports no TensorFlow.

A space file (YAML or JSON) is a list; each entry names a flag of ``trainer.train``:

  - {name: learning_rate, kind: float, range: [1e-4, 1e-2], log: true}
  - {name: batch_size, kind: int, range: [16, 64]}
  - {name: lr_schedule, kind: choice, values: [plateau, constant]}
  - {name: plateau_factor, kind: float, range: [0.1, 0.5], condition: {lr_schedule: [plateau]}}
  - {name: xla, kind: bool}

``condition`` names an earlier choice or bool and the values for which the parameter is active; ``points`` (3) is how
many values of a range a grid tries.  Owns: that format, its checks, and grids.  Does not own: how a tuner searches.
"""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import yaml

from trainer.core import config as config_lib
from trainer.core.config import Value
from trainer.core.errors import RequestError, StoppedEarly
from trainer.core.registry import Registry
from trainer.core.storage import files
from trainer.core.storage.transient import is_transient

KINDS = ("float", "int", "choice", "bool")
_KEYS = ("name", "kind", "range", "values", "log", "condition", "points")
_MOST_POINTS = 1000
_DIGITS = 6  # Significant digits of a float: what a person would write, and what files and gRPC preserve.

# Settings that decide a job's result, but must be the same in all trials of a sweep, each with the reason.
_SAME_FOR_ALL = {
    "seed": "scores would differ by luck; --retrain_best measures that",
    "seeds": "a trial is one job; --retrain_best measures luck",
    "validation_fraction": "trials would be scored on different images",
    "positive_class": "trials would be scored by different questions",
    "monitor": "it picks the epoch that is scored; see --objective",
    "log_every_steps": "it changes no result",
    "deterministic": "it cannot be switched off again in a process",
}

BUILT_IN = """
- {name: learning_rate, kind: float, range: [1e-4, 1e-2], log: true, points: 3}
- {name: dropout, kind: float, range: [0.0, 0.5], points: 2}
- {name: model, kind: choice}
- {name: augment, kind: choice}
- {name: optimizer, kind: choice}
"""


@dataclasses.dataclass(frozen=True)
class Parameter:
    """A setting that varies.

    Attributes:
        name: of a setting of Config.
        kind: float, int, choice or bool.
        low: smallest value of a float or int.
        high: largest value of a float or int.
        log: whether a range is searched by its logarithm.
        values: of a choice or bool, in the file's order.
        condition: ``(name, values)`` of earlier parameters, all of which must hold.
        points: values of a range that a grid tries, both ends among them.
    """

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    values: tuple[Value, ...] = ()
    condition: tuple[tuple[str, tuple[Value, ...]], ...] = ()
    points: int = 3

    def grid(self) -> list[Value]:
        """Return the values that a grid tries, in ascending order or the file's."""
        if self.values:
            return list(self.values)
        shares = [index / (self.points - 1) if self.points > 1 else 0.0 for index in range(self.points)]
        if self.log:
            values = [self.low * (self.high / self.low) ** share for share in shares]
        else:
            values = [self.low + (self.high - self.low) * share for share in shares]
        return list(dict.fromkeys(tidy(round(value) if self.kind == "int" else value) for value in values))

    def is_active(self, values: Mapping[str, Any]) -> bool:
        """Return whether the parameter is active, given the values of earlier ones."""
        return all(values.get(name) in allowed for name, allowed in self.condition)


Space = tuple[Parameter, ...]


def tidy(value: Value) -> Value:
    """Return a float rounded to six significant digits, anything else unchanged."""
    return float(f"{value:.{_DIGITS}g}") if isinstance(value, float) else value


def built_in() -> Space:
    """Return the space of a sweep without ``--space``; of a registry it has the entries marked as searched."""
    entries = yaml.safe_load(BUILT_IN)
    for entry in entries:
        choices = config_lib.settings()[entry["name"]].metadata["choices"]
        if isinstance(choices, Registry):
            entry["values"] = choices.searched
    return from_entries(entries)


def read(path: str) -> Space:
    """Read a space from a YAML or JSON file, local or gs://, or from its text, ``[{name: ...}, ...]``.

    Raises:
        RequestError: naming the file, the entry and what is wrong with it.
    """
    try:
        entries = yaml.safe_load(path if path.startswith("[") else files.read_text(path))
    except StoppedEarly:
        raise
    except Exception as error:  # Local, remote and YAML errors have no common type.
        if is_transient(error):
            raise
        raise RequestError(f"--space: expected a readable YAML or JSON file, received {path!r}: {error}") from error
    try:
        return from_entries(entries)
    except RequestError as error:
        raise RequestError(f"--space={path}: {error}") from error


def from_entries(entries: Any) -> Space:
    """Return the checked space of a file's content.

    Raises:
        RequestError: naming the entry and what is wrong with it.
    """
    if not isinstance(entries, list) or not entries:
        raise RequestError("expected a list of parameters ('- name: ...'), received something else or none")
    space: list[Parameter] = []
    for number, entry in enumerate(entries, start=1):
        name = entry.get("name") if isinstance(entry, dict) else None
        try:
            space.append(_parameter(entry, space))
        except RequestError as error:
            raise RequestError(f"parameter {number}{f' ({name})' if name else ''}: {error}") from error
    return tuple(space)


def to_entries(space: Space) -> list[dict[str, Any]]:
    """Return the content of a space file, to compare two spaces or to save one."""
    entries = []
    for one in space:
        entry: dict[str, Any] = {"name": one.name, "kind": one.kind}
        entry |= {"values": list(one.values)} if one.values else {"range": [one.low, one.high], "log": one.log}
        if not one.values:
            entry["points"] = one.points
        if one.condition:
            entry["condition"] = {name: list(values) for name, values in one.condition}
        entries.append(entry)
    return entries


def to_text(space: Space) -> str:
    """Return a space as one line, which ``read`` accepts instead of a path."""
    return json.dumps(to_entries(space), separators=(",", ":"))


def combinations(space: Space) -> Iterator[dict[str, Value]]:
    """Yield every combination of a grid once, the last parameter varying fastest, without inactive parameters."""
    seen = set()
    for values in itertools.product(*(one.grid() for one in space)):
        chosen: dict[str, Value] = {}
        for one, value in zip(space, values, strict=True):
            if one.is_active(chosen):
                chosen[one.name] = value
        if tuple(chosen.items()) not in seen:
            seen.add(tuple(chosen.items()))
            yield chosen


def _parameter(entry: Any, earlier: Sequence[Parameter]) -> Parameter:
    if not isinstance(entry, dict):
        raise RequestError(f"expected 'name: ..., kind: ...', received {entry!r}")
    for key in entry:
        if key not in _KEYS:
            near = config_lib.did_you_mean(str(key), _KEYS)
            raise RequestError(f"expected keys out of {', '.join(_KEYS)}; received {key!r}{near}")
    field = _setting(entry.get("name"), earlier)
    kind = entry.get("kind")
    if kind not in KINDS:
        raise RequestError(f"expected a kind out of {', '.join(KINDS)}; received {kind!r}")
    condition = _condition(entry.get("condition", {}), earlier)
    if kind in ("choice", "bool"):
        return Parameter(field.name, kind, values=_values(entry, field), condition=condition)
    low, high = _range(entry, field)
    log, points = entry.get("log", False), entry.get("points", 3)
    if not isinstance(log, bool) or (log and low <= 0):
        raise RequestError(f"expected log: true with a range above 0, received log: {log!r}, range from {low:g}")
    if type(points) is not int or not 1 <= points <= _MOST_POINTS:
        raise RequestError(f"expected points: 1 to {_MOST_POINTS}, received {points!r}")
    return Parameter(field.name, kind, low, high, log, condition=condition, points=points)


def _setting(name: Any, earlier: Sequence[Parameter]) -> "dataclasses.Field[Any]":
    """Return the field of a setting that trials may vary."""
    settings = config_lib.settings()
    if not isinstance(name, str) or name not in settings:
        near = config_lib.did_you_mean(str(name), settings)
        raise RequestError(f"expected the name of a flag of trainer.train, received {name!r}{near}")
    if name in (one.name for one in earlier):
        raise RequestError("expected each name once, received it twice")
    if name != "epochs" and not settings[name].metadata["fixed"]:
        raise RequestError("expected a setting that decides a trial's result, received one that does not")
    if name in _SAME_FOR_ALL:
        raise RequestError(f"expected a setting that trials may vary: {_SAME_FOR_ALL[name]}")
    return settings[name]


def _values(entry: dict[str, Any], field: "dataclasses.Field[Any]") -> tuple[Value, ...]:
    if "range" in entry or "log" in entry or "points" in entry:
        raise RequestError("expected values, not range, log or points, for a choice or bool")
    values = entry.get("values", [False, True] if entry["kind"] == "bool" else None)
    if not isinstance(values, list) or not values:
        raise RequestError("expected values: [one, another]")
    if entry["kind"] == "bool" and config_lib.kind(field) is not bool:
        raise RequestError(f"expected kind: choice, as --{field.name} is not a switch")
    checked = [config_lib.check_written(field, _number(value, field)) for value in values]
    return tuple(dict.fromkeys(tidy(value) for value in checked))


def _range(entry: dict[str, Any], field: "dataclasses.Field[Any]") -> tuple[float, float]:
    if "values" in entry:
        raise RequestError("expected range: [low, high] for a float or int, received values; use kind: choice")
    if field.type.__name__ != entry["kind"]:  # type: ignore[union-attr]
        raise RequestError(f"expected kind: {field.type.__name__}, received {entry['kind']}")  # type: ignore[union-attr]
    ends = entry.get("range")
    if not isinstance(ends, list) or len(ends) != 2:
        raise RequestError(f"expected range: [low, high], received {ends!r}")
    low, high = (config_lib.check_written(field, _number(end, field)) for end in ends)
    assert isinstance(low, (int, float))
    assert isinstance(high, (int, float))
    if not low < high:
        raise RequestError(f"expected range: [low, high] with low < high, received {ends!r}")
    return low, high


def _number(value: Any, field: "dataclasses.Field[Any]") -> Any:
    """Convert a float that YAML 1.1 reads as text, such as 1e-4, to a number; return anything else unchanged."""
    if field.type is float and isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return number if math.isfinite(number) else value
    return value


def _condition(entry: Any, earlier: Sequence[Parameter]) -> tuple[tuple[str, tuple[Value, ...]], ...]:
    if not isinstance(entry, dict):
        raise RequestError(f"expected condition: {{name: [values]}}, received {entry!r}")
    discrete = {one.name: one for one in earlier if one.values}
    conditions = []
    for name, allowed in entry.items():
        if name not in discrete:
            raise RequestError(f"condition: expected an earlier choice or bool of this space, received {name!r}")
        values = allowed if isinstance(allowed, list) else [allowed]
        unknown = [value for value in values if value not in discrete[name].values]
        if unknown or not values:
            raise RequestError(f"condition: expected values of {name}, received {unknown or values!r}")
        conditions.append((name, tuple(values)))
    return tuple(conditions)
