"""Environment variables of a run: plain values, and values that stay in a Secret of the cluster."""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from trainer.core.errors import RequestError

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_SECRET = re.compile(rf"(?P<name>[a-z0-9]([a-z0-9.-]*[a-z0-9])?)(:(?P<key>{_NAME}))?")
_CONFIDENTIAL = re.compile(
    r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|API_KEY|ACCESS_KEY|PRIVATE_KEY|NOTIFY)(_|$)", re.IGNORECASE
)


@dataclasses.dataclass(frozen=True)
class SecretSource:
    """A Secret from which variables are taken.

    Attributes:
        name: of the Secret.
        key: of its one entry, which becomes the variable of this name; empty: all entries.
    """

    name: str
    key: str = ""


def parse(text: str) -> dict[str, str]:
    r"""Return the variables of ``NAME=VALUE,NAME=VALUE``.

    A comma ends a value only in front of the next ``NAME=``; ``\,`` never does.

    Raises:
        RequestError: if the text has another form.
    """
    variables = {}
    for part in re.split(rf"(?<!\\),(?={_NAME}=)", text) if text else []:
        name, sign, value = part.partition("=")
        if not sign or not re.fullmatch(_NAME, name):
            raise RequestError(f"--env: expected NAME=VALUE,NAME=VALUE, received {part!r}")
        variables[name] = value.replace("\\,", ",")
    return variables


def parse_secrets(text: str) -> tuple[SecretSource, ...]:
    """Return the Secrets of ``NAME,NAME:KEY``.

    Raises:
        RequestError: if the text has another form.
    """
    sources = []
    for part in filter(None, text.split(",")):
        match = _SECRET.fullmatch(part)
        if not match:
            raise RequestError(
                f"--env_from_secret: expected SECRET or SECRET:KEY, where the key is the variable's name, received "
                f"{part!r}"
            )
        sources.append(SecretSource(match["name"], match["key"] or ""))
    return tuple(sources)


def add_secrets(container: dict[str, Any], sources: tuple[SecretSource, ...]) -> None:
    """Let a container read its variables from Secrets."""
    for source in sources:
        if source.key:
            reference = {"secretKeyRef": {"name": source.name, "key": source.key}}
            container["env"].append({"name": source.key, "valueFrom": reference})
        else:
            container.setdefault("envFrom", []).append({"secretRef": {"name": source.name}})


def warnings(variables: Mapping[str, str]) -> list[str]:
    """Return a line for variables that look like secrets and would stand in clear in the run's record."""
    names = ", ".join(name for name in variables if _CONFIDENTIAL.search(name))
    if not names:
        return []
    return [f"--env: {names} can be read by everybody who may read the run; keep it in a Secret: --env_from_secret"]
