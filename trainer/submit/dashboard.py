"""The link to a run's page in a dashboard: a template with ``{namespace}``, ``{name}`` and ``{job_dir}``."""

import os
import re
import urllib.parse
from collections.abc import Mapping

from trainer.core.errors import RequestError

VARIABLE = "DEEPDETECT_DASHBOARD"
_FIELDS = ("namespace", "name", "job_dir")
_FIELD = re.compile(r"\{([^{}]*)\}")


def require(template: str, source: str = "--dashboard") -> None:
    """Refuse a template that is no link, or has other fields.

    Raises:
        RequestError: naming the first wrong part.
    """
    if template and not re.match(r"https?://[^\s{}]+", template):
        raise RequestError(f"{source}: expected https://HOST/..., received {template!r}")
    for field in _FIELD.findall(template):
        if field not in _FIELDS:
            fields = ", ".join(f"{{{name}}}" for name in _FIELDS)
            raise RequestError(f"{source}: expected the fields {fields}, received {{{field}}}")


def link(template: str, values: Mapping[str, str]) -> str:
    """Return the link of a run, its values quoted; without a template that of the environment, which may be empty.

    Raises:
        RequestError: if the template is wrong.
    """
    source = "--dashboard" if template else VARIABLE
    template = template or os.environ.get(VARIABLE, "")
    require(template, source)
    return _FIELD.sub(lambda match: urllib.parse.quote(values[match[1]], safe=""), template)
