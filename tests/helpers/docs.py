"""Examples of the documentation, so that tests run what people copy."""

import re
from pathlib import Path

_PAGE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"


def how_to_add(what: str) -> str:
    """Return the first Python example of the section "How to add an optimizer", network, ..."""
    section = re.split(rf"^## How to add an? {what}$", _PAGE.read_text(), flags=re.MULTILINE)[1]
    return re.split(r"^```(?:python)?\n", section.split("\n## ")[0], flags=re.MULTILINE)[1]
