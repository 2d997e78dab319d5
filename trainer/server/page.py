"""The page at ``/``: one file without a network, filled with what it must know of the model."""

import base64
import hashlib
import importlib.resources
import json
import re

from trainer.core import page_style
from trainer.serving.exported_model import ExportedModel

_FACTS = "{{facts}}"
_STYLE = "{{style}}"


def render(name: str, version: str, export: ExportedModel, max_bytes: int, no_heat_maps: str) -> tuple[str, str]:
    """Return the page, and the Content-Security-Policy that allows its own style and script alone."""
    text = (importlib.resources.files("trainer.server") / "page.html").read_text("utf-8")
    text = text.replace(_STYLE, page_style.base())
    facts = {
        "name": name, "version": version, "positive": export.positive_class, "classes": export.class_names,
        "max_bytes": max_bytes, "no_heat_maps": no_heat_maps,
    }  # fmt: skip
    # No "<" may end the script's element.
    return text.replace(_FACTS, json.dumps(facts).replace("<", "\\u003c")), _policy(text)


def _policy(text: str) -> str:
    sources = {tag: _hash(re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)) for tag in ("style", "script")}
    return (
        f"default-src 'none'; style-src {sources['style']}; script-src {sources['script']}; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(element: "re.Match[str] | None") -> str:
    assert element is not None, "page.html has one style and one script"
    return f"'sha256-{base64.b64encode(hashlib.sha256(element[1].encode()).digest()).decode()}'"
