"""Read an object from a YAML file that a person wrote, so that a mistake in it is one clear line with its place.

Owns: which YAML is allowed: one document of plain values, without anchors and repeated names.  Does not own: the form
of these errors (``checked_json.py``).  Imports no TensorFlow.
"""

import re
from typing import Any

import yaml

from trainer.core import checked_json
from trainer.core.checked_json import Malformed

# YAML 1.2 has these as numbers, PyYAML as text: 1e-3, 1E5, 2.5e4.
_FLOAT = re.compile(r"[-+]?(?:\d+|\d+\.\d*|\.\d+)[eE][-+]?\d+$")


class _Loader(yaml.SafeLoader):  # type: ignore[misc]
    """Plain values; refuses what hides a mistake."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise _error("aliases are not allowed here", self.peek_event())
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if not isinstance(name, str):
                raise _error(f"{name!r} is not text, as a name must be", key)
            if name in names:
                raise _error(f"{name!r} is there twice", key)
            names.add(name)
        return dict(super().construct_mapping(node, deep))


def _error(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


# Dates are text; and exponents make numbers.
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def read(path: str, *, remedy: str, what: str, flag: str = "") -> dict[str, Any]:
    """Return the object in a YAML file; arguments and errors as of ``checked_json.read``."""
    content, name = checked_json.read_content(path, flag)
    try:
        value = yaml.load(content, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise Malformed(f"{name} to hold {what}, received something else ({_place_of(error)}); {remedy}") from error
    return checked_json.require_object(value, name=name, remedy=remedy, what=what)


def _place_of(error: Exception) -> str:
    """Return what is wrong, and the line and column, both from 1, if they are known."""
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    problem = getattr(error, "problem", None) or " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}" if mark else problem
