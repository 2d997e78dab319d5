"""Sections of the page about an evaluation that are there only if they were asked for.

Owns: what they say.  Does not own: layout (``templates/``).
"""

from collections.abc import Mapping
from typing import Any

from trainer import pages

_GROUPS_SHOWN = 30
_SHARES = {"accuracy": True, "balanced_accuracy": True, "auc": False, "eer": True}


def groups(figures: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return for each column of the groups table its name, rows of the worst groups, and a note."""
    tables = []
    for column, found in figures.get("groups", {}).items():
        rows = [{"name": group["value"], "n": f"{group['n']:,}", "cells": _cells(group)} for group in found]
        hidden = len(rows) - _GROUPS_SHOWN
        note = f"The {hidden:,} groups with a higher accuracy are in metrics.json." if hidden > 0 else ""
        tables.append({"column": column, "rows": rows[:_GROUPS_SHOWN], "note": note})
    return tables


def _cells(group: Mapping[str, Any]) -> list[dict[str, str]]:
    cells = []
    for name, share in _SHARES.items():
        interval = group["ci95"][name]
        note = pages.span(interval, share) if interval else group["undefined"].get(name, "")
        cells.append({"value": pages.number(group[name], share), "note": note})
    return cells
