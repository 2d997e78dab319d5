"""Which images an audit suggests to leave out: copies, leaks, and files in two classes.

Does not own: the search (``duplicates.py``), the form of the list (``layouts/drop.py``).
"""

from collections.abc import Iterable

import numpy as np

from trainer.data.audit.duplicates import SPLITS, Duplicates, leaked
from trainer.data.layouts import drop

FILE = "suggested_drop.txt"


def positions(duplicates: Duplicates) -> set[int]:
    """Return the positions of the images to leave out.

    Of the members of a cluster in one class the first in Test stays, else in Validation, else in Train, so that leaks
    leave Train.  A look-alike of another class stays too, unless it leaks: a forgery looks like its source.  Of equal
    files in two classes none stays, because nobody knows which label is right.
    """
    conflicts = {index for group in duplicates.label_conflicts for index in group}
    chosen = conflicts | set(leaked(duplicates).tolist())
    for cluster in duplicates.clusters:
        chosen |= _copies(duplicates, [index for index in cluster if index not in conflicts])
    return chosen


def _copies(duplicates: Duplicates, cluster: Iterable[int]) -> set[int]:
    """Return all members but the first of each class."""
    records = duplicates.records
    rank = [-SPLITS.index(split.name) for split in records.splits]
    by_class: dict[int, list[int]] = {}
    for index in cluster:
        by_class.setdefault(int(records.table["label"][index]), []).append(index)
    split = records.table["split"]
    return {
        each
        for members in by_class.values()
        for each in sorted(members, key=lambda index: (rank[split[index]], index))[1:]
    }


def text(duplicates: Duplicates, chosen: Iterable[int]) -> str:
    """Return the list as ``--drop`` takes it."""
    names = duplicates.records.names
    return "".join(f"{drop.line_of(names[index])}\n" for index in np.sort(list(chosen)).tolist())
