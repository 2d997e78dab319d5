"""Where a message goes: ``https://`` or ``mailto:``, which may hold secrets and are never shown whole."""

import os
import re
import urllib.parse
from collections.abc import Mapping

from trainer.core.errors import RequestError

VARIABLE = "DEEPDETECT_NOTIFY"
_ADDRESS = r"[^\s@,?<>\"]+@[^\s@,?<>\"]+"
_MAIL = re.compile(rf"mailto:{_ADDRESS}(,{_ADDRESS})*")


def parse(text: str, environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """Return the targets of ``--notify``, with spaces between them; if it is empty those of the environment.

    Raises:
        RequestError: if one has another form; the message does not show it.
    """
    source = "--notify" if text.strip() else VARIABLE
    targets = tuple((text.strip() or environment.get(VARIABLE, "")).split())
    for target in targets:
        if not _is_valid(target):
            raise RequestError(
                f"{source}: expected http://HOST/PATH, https://HOST/PATH or mailto:NAME@HOST, received "
                f"{masked(target)!r} (masked, as it may hold a secret)"
            )
    return targets


def _is_valid(target: str) -> bool:
    if _MAIL.fullmatch(target):
        return True
    if not re.fullmatch(r"https?://[!-~]+", target):
        return False
    try:
        url = urllib.parse.urlsplit(target)
        return bool(url.hostname) and url.username is None and (url.port is None or url.port > 0)
    except ValueError:
        return False


def masked(target: str) -> str:
    """Return as much of a target as may be shown: its kind and host."""
    kind, _, rest = target.partition(":")
    if kind not in ("http", "https", "mailto") or (kind == "mailto" and "@" not in rest):
        return "..."
    host = re.split(r"[/?#]", rest.removeprefix("//"), maxsplit=1)[0].rpartition("@")[2]
    return f"mailto:...@{host}" if kind == "mailto" else f"{kind}://{host}/..."
