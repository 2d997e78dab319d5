"""The images that the gallery of a page can show: what ``static/gallery.js`` filters, sorts and enlarges.

Owns: their form in the page, how many fit into it, links to files.  Does not own: which images (``gallery.py``,
``prediction.py``), how they look (``static/gallery.css``).
"""

import dataclasses
import json
import os
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.core import terminal
from trainer.core.storage import files, tar_members
from trainer.reports.html import Picture

LISTED_BYTES = 1_000_000  # Of text; pages stay below 2 MB without their pictures.
_MOST_VALUES = 60  # Of a column; no list of choices that is longer helps.


@dataclasses.dataclass(frozen=True)
class Item:
    """An image.

    Attributes:
        path: as the page names it.
        link: where its file is, as ``link_to`` returns it.
        kind: its number among the kinds of the page.
        score: probability of the positive class.
        wrong: what "most wrong first" sorts by, the highest first.
        answer: number of the class that it is called.
        truth: number of its true class; None if it is not known.
        groups: its value in each column of groups.
        picture: thumbnail to embed; None: there is none, or the page shows it elsewhere.
        note: further words of its caption.
    """

    path: str
    link: str
    kind: int
    score: float
    wrong: float
    answer: int
    truth: int | None = None
    groups: Sequence[str] = ()
    picture: Picture | None = None
    note: str = ""


def fitting(items: Sequence[Item], most: int = LISTED_BYTES) -> int:
    """Return how many items from the first on fit into so many bytes of a page, not counting pictures."""
    size = 0
    for number, item in enumerate(items):
        size += len(json.dumps(_as_json(item, ())))
        if size > most:
            return number
    return len(items)


def as_json(items: Sequence[Item], columns: Sequence[str] = (), **facts: Any) -> dict[str, Any]:
    """Return what the script needs: the items, the values of their columns to filter by, and further facts."""
    values = [sorted({item.groups[number] for item in items}) for number in range(len(columns))]
    usable = [number for number in range(len(columns)) if 1 < len(values[number]) <= _MOST_VALUES]
    places = [(number, {value: place for place, value in enumerate(values[number])}) for number in usable]
    return {
        **facts,
        "groups": [
            {"name": terminal.in_line(columns[number]), "values": [terminal.in_line(each) for each in values[number]]}
            for number in usable
        ],
        "items": [_as_json(item, places) for item in items],
    }


def _as_json(item: Item, places: Sequence[tuple[int, Mapping[str, int]]]) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "p": terminal.in_line(item.path), "h": item.link, "k": item.kind, "s": float(f"{item.score:.9g}"),
        "w": round(item.wrong, 5), "a": item.answer,
    }  # fmt: skip
    if item.truth is not None:
        entry["t"] = item.truth
    if item.note:
        entry["n"] = terminal.in_line(item.note)
    if places:
        entry["g"] = [of[item.groups[number]] for number, of in places]
    if item.picture:
        entry["u"] = item.picture.uri
        if item.picture.heat:
            entry |= {"m": item.picture.heat, "ms": terminal.in_line(item.picture.heat_says)}
    return entry


def link_to(path: str, page: str) -> str:
    """Return a link from a page to an image's file; empty if a browser cannot follow any.

    Local files are named relative to the page, objects by their address in the console of the bucket.
    """
    if path.startswith("gs://"):
        return "https://storage.cloud.google.com/" + urllib.parse.quote(os.fsencode(path.removeprefix("gs://")))
    if files.is_remote(path) or files.is_remote(page) or tar_members.place(path):
        return ""
    relative = os.path.relpath(os.path.abspath(path), os.path.dirname(os.path.abspath(page)))
    return urllib.parse.quote(os.fsencode(relative))  # No name can be a scheme: a colon is written %3A.
