"""What the doctor finds, and how it is shown."""

import dataclasses
import textwrap
from collections.abc import Sequence

OK, MISSING, UNKNOWN = "ok", "missing", "unknown"

_SUBJECT = 18  # Characters of the longest subject.
_INDENT = " " * 28


@dataclasses.dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        subject: what was looked at.
        state: ``OK``, ``MISSING`` or ``UNKNOWN``.
        text: what was seen.
        remedy: what to do; empty if there is nothing to do.
    """

    subject: str
    state: str
    text: str
    remedy: str = ""


def show(findings: Sequence[Finding], columns: int) -> str:
    """Return the findings as a table that is at most so many characters wide."""
    return "\n".join(_line(each, columns) for each in findings)


def summary(findings: Sequence[Finding]) -> str:
    """Return how many findings have which state."""
    states = [each.state for each in findings]
    return ", ".join(f"{states.count(state)} {state}" for state in (OK, MISSING, UNKNOWN))


def _line(finding: Finding, columns: int) -> str:
    head = f"{finding.state:<9}{finding.subject:<{_SUBJECT}} "
    lines = [_wrapped(head + finding.text, columns)]
    if finding.remedy:
        lines.append(_wrapped(f"{_INDENT}do: {finding.remedy}", columns))
    return "\n".join(lines)


def _wrapped(text: str, columns: int) -> str:
    # A command that is cut at a hyphen cannot be copied.
    return textwrap.fill(
        text, max(columns, 40), subsequent_indent=_INDENT, break_long_words=False, break_on_hyphens=False,
        drop_whitespace=True,
    )  # fmt: skip
